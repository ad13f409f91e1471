"""Where a model's weights are and how many bytes they take, part by part; and what they will take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nbsight.display import html
from nbsight.display.numbers import bytes_text, count_text, plural
from nbsight.results.base import Result, coordinate, variable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MemoryEstimate", "Placement"]

#: Fills of bars, told apart in grey too; devices beyond them begin again.
COLOURS = ("#328fa8", "#dd8b3f", "#122e52", "#92cad4", "#994f12", "#bfdfe6")
AWAY = "#b8c0c8"
"""Of weights that are fetched when their module runs."""


@dataclass(frozen=True, eq=False, repr=False)
class Placement(Result):
    """Where each part of a model is: device, dtype, bytes, and what is fetched only when it runs.

    Args:
        model: The name under which the model was loaded.
        parts: Paths: every block, and what stands before and after them.
        devices: Where each part computes.
        held: Where its weights lie while it does not: the same device, "cpu" or "disk", or "not loaded".
        dtypes: The dtypes of its weights, the commonest first, joined by `+`.
        parameters: Numbers in each part; of quantised weights as many as they stand for, where they say so.
        bytes: Bytes of parameters and buffers; weights that two parts share count for the first.
    """

    title = "placement"

    model: str
    parts: Sequence[str] = coordinate("part")
    devices: Sequence[str] = coordinate("part", name="device")
    held: Sequence[str] = coordinate("part", name="held")
    dtypes: Sequence[str] = coordinate("part", name="dtype")
    parameters: NDArray[np.int64] = variable("part", unit="numbers")
    bytes: NDArray[np.int64] = variable("part", unit="bytes")

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return int(self.bytes.sum())

    @property
    def by_place(self) -> dict[str, int]:
        """Bytes by where the weights lie."""
        found: dict[str, int] = {}
        for place, size in zip(self.held, self.bytes, strict=True):
            found[place] = found.get(place, 0) + int(size)
        return found

    @property
    def offloaded(self) -> tuple[str, ...]:
        """Parts whose weights are fetched when they run."""
        rows = zip(self.parts, self.devices, self.held, strict=True)
        return tuple(part for part, device, held in rows if held not in (device, "not loaded"))

    def __repr__(self) -> str:
        rows = [("part", "computes on", "weights", "dtype", "bytes"), *self._rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines = [
            "  ".join(
                cell.rjust(width) if column == 4 else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join([self.summary, *(f"  {line}" for line in lines)])

    @property
    def summary(self) -> str:
        """One line: how much lies where."""
        where = ", ".join(f"{bytes_text(size)} {_at(place)}" for place, size in self.by_place.items())
        return f"{self.model}: {count_text(int(self.parameters.sum()))} parameters, {where}"

    def _rows(self) -> list[tuple[str, str, str, str, str]]:
        """A line for each part, and one for neighbours that are alike."""
        every = zip(self.parts, self.devices, self.held, self.dtypes, self.bytes, strict=True)
        found = []
        for (stem, device, held, dtype, size), group in groupby(
            every, key=lambda row: (_stem(row[0]), *row[1:])
        ):
            same = [row[0] for row in group]
            name = same[0] if len(same) == 1 else f"{stem}.{_number(same[0])}–{_number(same[-1])}"
            times = "" if len(same) == 1 else f"{len(same)} × "
            found.append((name, device, "" if held == device else _at(held), dtype, times + bytes_text(size)))
        return found

    def _html(self) -> Sequence[str]:
        head = ("part", "computes on", "weights", "dtype", "bytes")
        return html.heading(self.summary), html.table(head, self._rows(), left=(0, 1, 2, 3))

    def plot(self) -> Figure:
        """A bar for each part, as long as its bytes; the colour is the device, grey what is fetched later."""
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch

        count = len(self.parts)
        figure = Figure(figsize=(7.0, max(2.0, 0.2 * count + 1.2)), layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        colours = {place: COLOURS[at % len(COLOURS)] for at, place in enumerate(dict.fromkeys(self.devices))}
        away = set(self.offloaded)
        largest = max(int(self.bytes.max(initial=1)), 1)
        unit, word = next(
            (u, w) for u, w in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "bytes")) if largest >= u
        )
        axes.barh(
            range(count),
            self.bytes / unit,
            color=[
                AWAY if part in away else colours[at]
                for part, at in zip(self.parts, self.devices, strict=True)
            ],
            edgecolor=[colours[at] for at in self.devices],
        )
        axes.set_yticks(range(count), list(self.parts), fontsize=7)
        axes.invert_yaxis()
        axes.set_xlabel(word)
        axes.set_title(self.summary, fontsize=9, loc="left")
        shown = [Patch(color=colour, label=place) for place, colour in colours.items()]
        if away:
            places = sorted({held for part, held in zip(self.parts, self.held, strict=True) if part in away})
            shown.append(Patch(color=AWAY, label=f"fetched from {' and '.join(places)} when it runs"))
        axes.legend(handles=shown, fontsize=7, loc="lower right")
        axes.spines[["top", "right"]].set_visible(False)
        return figure


@dataclass(frozen=True, eq=False, repr=False)
class MemoryEstimate(Result):
    """What a model's weights will take, known before they are loaded.

    Args:
        model: The name or folder.
        dtype: What most weights will be; with quantisation that, too.
        source: What it was read from.
        parts: Paths: every block, and what stands before and after them.
        parameters: Numbers in each part.
        bytes: Bytes of parameters and buffers.
        free: Free bytes by device.
    """

    title = "memory estimate"

    model: str
    dtype: str
    source: str
    parts: Sequence[str] = coordinate("part")
    parameters: NDArray[np.int64] = variable("part", unit="numbers")
    bytes: NDArray[np.int64] = variable("part", unit="bytes")
    free: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return int(self.bytes.sum())

    def fits(self, device: str) -> bool:
        """Whether the weights fit into what is free on a device; runs need some room beside them."""
        if device not in self.free:
            raise KeyError(f"there is no {device!r} here; there are {', '.join(self.free)}.")
        return self.total <= self.free[device]

    @property
    def summary(self) -> str:
        """One line: how much it is, of what."""
        count = count_text(int(self.parameters.sum()))
        return f"{self.model} in {self.dtype}: {bytes_text(self.total)} of weights ({count} parameters)"

    @property
    def notes(self) -> tuple[str, ...]:
        """Where the figure is from, whether it fits, and what else there is."""
        blocks = [part for part in self.parts if _number(part).isdecimal()]
        largest = int(self.bytes.argmax()) if len(self.parts) else 0
        found = [f"from {self.source}"]
        if len(self.parts):
            found[0] += (
                f"; {plural(len(blocks), 'block')}, the largest part is {self.parts[largest]} with "
                f"{bytes_text(int(self.bytes[largest]))}"
            )
        for device, free in self.free.items():
            verdict = "it fits" if self.total <= free else f"{bytes_text(self.total - free)} too much"
            found.append(f"{device}: {bytes_text(free)} free, {verdict}")
        if self.free and not any(self.total <= free for free in self.free.values()):
            found.append(
                "Load it in fewer bytes (`dtype=torch.bfloat16`, or `quantization_config=`), spread it "
                '(`device_map="auto"`), or keep a part on disk (the same with `offload_folder="offload"`).'
            )
        return tuple(found)

    def __repr__(self) -> str:
        return "\n".join([self.summary, *(f"  {note}" for note in self.notes)])

    def _html(self) -> Sequence[str]:
        return html.heading(self.summary), html.lines(self.notes)


def _at(place: str) -> str:
    return place if place == "not loaded" else f"on {place}"


def _stem(path: str) -> Any:
    """A path without the number of its block; other paths are their own."""
    head, _, last = path.rpartition(".")
    return head if last.isdecimal() else path


def _number(path: str) -> str:
    return path.rpartition(".")[2]
