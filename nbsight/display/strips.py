"""A prompt's tokens as a strip: no pyplot, so no global state and any thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nbsight.display.figures import INK, MUTED
from nbsight.display.text import shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["strip"]

#: In widths of a character; a strip's line is as wide as a page.
LINE, GAP, LONGEST = 96, 0.6, 24
PLAIN, SPECIAL = "#e0eef2", "#fbe7d3"


def strip(cells: Sequence[tuple[str, str, str]], special: NDArray[np.bool_], *, title: str) -> Figure:
    """Boxes with texts, in lines that fit a page.

    Args:
        cells: Of each token its position, its text and its id.
        special: Which have the other colour.
        title: What the picture shows.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    places, lines = _laid_out(cells)
    figure = Figure(figsize=(8.4, 0.62 * lines + 0.45), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    for (position, text, number), (line, start, wide), other in zip(cells, places, special, strict=True):
        box = FancyBboxPatch(
            (start, -line - 0.22),
            wide,
            0.44,
            boxstyle="round,pad=0,rounding_size=0.12",
            mutation_aspect=0.1,
            facecolor=SPECIAL if other else PLAIN,
            linewidth=0,
        )
        axes.add_patch(box)
        middle = start + wide / 2
        style = {"ha": "center", "va": "center", "parse_math": False}
        axes.text(middle, -line, shorten(text, LONGEST), fontsize=8.5, color=INK, family="monospace", **style)
        axes.text(middle, -line + 0.34, position, fontsize=6.5, color=MUTED, **style)
        axes.text(middle, -line - 0.35, number, fontsize=6.5, color=MUTED, **style)
    axes.set(xlim=(0, LINE), ylim=(-lines + 0.45, 0.5))
    axes.set_axis_off()
    axes.set_title(shorten(title, 100), fontsize=10.5, color=INK, loc="left", parse_math=False)
    return figure


def _laid_out(cells: Sequence[tuple[str, str, str]]) -> tuple[list[tuple[int, float, float]], int]:
    """Line, start and width of each token's box, and the number of lines."""
    places: list[tuple[int, float, float]] = []
    line, at = 0, 0.0
    for position, text, number in cells:
        wide = max(min(len(text), LONGEST), 0.75 * len(number), 0.75 * len(position)) + 1.2
        if at + wide > LINE and at:
            line, at = line + 1, 0.0
        places.append((line, at, wide))
        at += wide + GAP
    return places, line + 1
