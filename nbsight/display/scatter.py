"""Two ways of getting the same numbers, point by point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nbsight.display.figures import INK, MUTED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["agreement_figure"]


def agreement_figure(
    across: NDArray[Any], up: NDArray[Any], *, title: str, x_title: str, y_title: str
) -> Figure:
    """A point for each pair of numbers, and the line on which both are equal.

    Args:
        across: One way, (point,).
        up: The other, (point,).
        title: What the picture shows.
        x_title: What the first is.
        y_title: What the other is.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 4.4), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    ends = np.array([min(across.min(), up.min(), 0.0), max(across.max(), up.max(), 0.0)])
    ends = ends + np.array([-0.05, 0.05]) * max(float(np.ptp(ends)), 1e-12)
    axes.plot(ends, ends, color="#b8c2cc", linewidth=1.0, zorder=1)
    axes.scatter(across, up, s=26, color="#0072b2", alpha=0.8, linewidths=0, zorder=2)
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    axes.set_aspect("equal")
    axes.tick_params(length=0, labelsize=8.5, labelcolor=INK)
    axes.grid(color="#eef1f4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(x_title, fontsize=9, color=MUTED)
    axes.set_ylabel(y_title, fontsize=9, color=MUTED)
    axes.set_title(title, fontsize=10.5, color=INK, loc="left", parse_math=False)
    return figure
