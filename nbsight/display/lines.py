"""Lines over layers as a still picture: no pyplot, so no global state and any thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nbsight.display.figures import INK, MUTED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Series", "lines_figure"]

#: Name, values, and the ends of the range around them, each (place,).
Series = tuple[str, NDArray[Any], NDArray[Any], NDArray[Any]]

#: Okabe and Ito's colours, which colour-blind readers tell apart; each with its own dashes for print.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))


def lines_figure(
    series: Sequence[Series], *, places: Sequence[str], title: str, x_title: str, y_title: str
) -> Figure:
    """One line for each series, its range pale behind it, its name at its right end.

    Args:
        series: What to draw.
        places: Labels along the x axis.
        title: What the picture shows.
        x_title: What a place is.
        y_title: What the numbers are.
    """
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(max(5.4, 0.34 * len(places) + 2.6), 3.6), layout="constrained", facecolor="white"
    )
    axes = figure.add_subplot()
    at = np.arange(len(places))
    for index, (name, values, low, high) in enumerate(series):
        colour, dashes = COLOURS[index % len(COLOURS)], DASHES[index % len(DASHES)]
        axes.fill_between(at, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.plot(at, values, color=colour, linestyle=dashes, linewidth=1.8, label=name)
    largest = max(float(np.max(high)) for _, _, _, high in series)
    smallest = min(float(np.min(low[low > 0], initial=np.inf)) for _, _, low, _ in series)
    if np.isfinite(smallest) and largest > 50 * smallest:
        axes.set_yscale("log")
    every = max(1, -(-len(places) // 24))
    axes.set_xticks(at[::every], [places[i] for i in at[::every]], fontsize=8.5)
    axes.tick_params(length=0, labelsize=8.5, labelcolor=INK)
    axes.grid(axis="y", color="#e4e9ee", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(x_title, fontsize=9, color=MUTED)
    axes.set_ylabel(y_title, fontsize=9, color=MUTED)
    axes.set_title(title, fontsize=10.5, color=INK, loc="left", parse_math=False)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
