"""Jobs in words and as a still picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbsight.remote.tables import duration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["jobs_figure", "jobs_text", "standing"]

COLOURS = {
    "running": "#328fa8",
    "done": "#328fa8",
    "queued": "#a3adb8",
    "stopped": "#a3adb8",
    "failed": "#b3261e",
}


def standing(row: Mapping[str, Any]) -> str:
    """How a job stands, on one line: `24 of 72 · 8.1/s · 6 s left` (js/src/shared/jobs.ts says the same).

    Args:
        row: Of `core.job_rows.job_row`.
    """
    if row["total"] is not None:
        counted = f"{row['done']} of {row['total']}"
    else:
        counted = str(row["done"]) if row["done"] else ""
    state, left = row["state"], row["left"]
    if state == "failed":
        parts = ["failed", row["error"]]
    elif state in ("done", "stopped"):
        parts = [state, counted, duration(row["seconds"])]
    elif state == "queued":
        waits = row["note"] or "queued"
        place = "" if row["place"] is None else f"place {row['place']}"
        parts = [waits, place, "" if left is None else f"about {duration(left)}"]
    else:
        parts = [
            counted,
            row["note"],
            rate_text(row["rate"]),
            "" if left is None or row["stopping"] else f"{duration(left)} left",
        ]
    return " · ".join(part for part in parts if part) or state


def rate_text(rate: float | None) -> str:
    """Steps a second, or a minute where they are slow."""
    if not rate:
        return ""
    return f"{rate:.3g}/s" if rate >= 1 else f"{60 * rate:.3g}/min"


def share(row: Mapping[str, Any]) -> float:
    """How much of a job is done, between 0 and 1."""
    if row["total"]:
        return min(1.0, max(0.0, row["done"] / row["total"]))
    return 1.0 if row["state"] == "done" else 0.0


def jobs_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Jobs as aligned lines, newest first."""
    if not rows:
        return "There are no jobs."
    wide = max(len(row["title"]) for row in rows)
    return "\n".join(f"{row['id']:<8} {row['title']:<{wide}}  {standing(row)}" for row in rows)


def jobs_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Jobs as bars, newest first."""
    from matplotlib.figure import Figure

    count = max(1, len(rows))
    figure = Figure(figsize=(7.2, 0.32 + 0.46 * count), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(count, 0)
    if not rows:
        axes.text(0, 0.5, "There are no jobs.", va="center", fontsize=9)
    for place, row in enumerate(rows):
        title = " · ".join(part for part in (row["title"], row["model"]) if part)
        axes.text(0, place + 0.42, title, va="center", fontsize=9, fontweight="bold", parse_math=False)
        said = standing(row).splitlines()[0]
        said = said if len(said) < 90 else f"{said[:89]}…"
        axes.text(1, place + 0.42, said, va="center", ha="right", fontsize=8, parse_math=False)
        axes.barh(place + 0.8, 1, height=0.13, color="#e4e9ed")
        axes.barh(place + 0.8, share(row), height=0.13, color=COLOURS.get(row["state"], "#328fa8"))
    return figure
