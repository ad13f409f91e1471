"""A sum as a waterfall: every step starts where the one before it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nbsight.display.figures import INK, MUTED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["waterfall_figure"]

#: Okabe and Ito's blue and vermilion, which colour-blind readers tell apart.
UP, DOWN = "#0072b2", "#d55e00"


def waterfall_figure(steps: Sequence[tuple[str, float]], *, title: str, value_title: str) -> Figure:
    """One bar for each step from top to bottom, and the whole at the foot.

    Args:
        steps: Names and what each adds.
        title: What the picture shows.
        value_title: What the numbers are.
    """
    from matplotlib.figure import Figure

    added = np.array([value for _, value in steps])
    ends = added.cumsum()
    starts = ends - added
    total = float(added.sum())
    names = [*(name for name, _ in steps), "sum"]
    at = np.arange(len(names))
    figure = Figure(figsize=(6.4, 0.26 * len(names) + 1.1), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    colours = [UP if value >= 0 else DOWN for value in added]
    axes.barh(at[:-1], added, left=starts, color=colours, height=0.68)
    axes.barh(at[-1:], [total], color=MUTED, height=0.68)
    axes.vlines(ends, at[:-1], at[1:], color="#b8c2cc", linewidth=0.8)
    axes.axvline(0, color="#b8c2cc", linewidth=0.8)
    span = max(float(np.max([ends, starts])), total, 0.0) - min(float(np.min([ends, starts])), total, 0.0)
    right = [*np.maximum(starts, ends), max(total, 0.0)]
    for row, (value, end) in enumerate(zip([*added, total], right, strict=True)):
        axes.text(end + 0.01 * span, row, f"{value:+.2f}", va="center", fontsize=8, color=INK)
    axes.set_yticks(at, names, fontsize=8.5)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.invert_yaxis()
    axes.margins(x=0.08)
    axes.tick_params(length=0, labelsize=8.5, labelcolor=INK)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(value_title, fontsize=9, color=MUTED)
    axes.set_title(title, fontsize=10.5, color=INK, loc="left", parse_math=False)
    return figure
