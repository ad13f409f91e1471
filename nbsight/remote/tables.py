"""Jobs as a table of text."""

from __future__ import annotations

from collections.abc import Sequence

from nbsight.wire.api import JobInfo

__all__ = ["duration", "jobs_table", "size"]

_UNITS = ("B", "kB", "MB", "GB", "TB")


def duration(seconds: float) -> str:
    """A time as a person says it: `0.3 s`, `12 s`, `3 min`, `2 h`."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    for limit, unit, divisor in ((100, "s", 1), (6000, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def size(count: float) -> str:
    """Bytes as a person says them: `12 kB`."""
    for unit in _UNITS[:-1]:
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} {_UNITS[-1]}"


def jobs_table(jobs: Sequence[JobInfo], now: float) -> str:
    """One line a job, under headings."""
    if not jobs:
        return "no jobs"
    rows = [("id", "state", "model", "kind", "age", "ran", "result", "block")]
    for job in jobs:
        ran = "" if job.started is None else duration((job.ended or now) - job.started)
        result = size(job.result_bytes) if job.result_bytes else ""
        state = job.state if job.error is None or job.state != "FAILED" else f"FAILED {job.error.code}"
        age = duration(now - job.created)
        rows.append((job.id, state, job.model, job.kind, age, ran, result, job.label[:40]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
