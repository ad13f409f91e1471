"""Heatmaps of signed shares as still pictures: no pyplot, so no global state and any thread."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nbsight.display.figures import INK, MUTED, part_cells
from nbsight.display.palette import LIGHT, ink_on, ramp
from nbsight.display.text import shorten, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Panel", "heatmaps", "signed", "site_panels"]

#: Title, values (row, column), labels of rows (lowest first) and of columns.
Panel = tuple[str, NDArray[np.floating[Any]], Sequence[str], Sequence[str]]

#: The other arm of the scale, for values below 0: told from the first by colour-blind readers too.
NEGATIVE = ("#f5f8fa", "#fbe7d3", "#f6cfa6", "#edaf70", "#dd8b3f", "#c06a1f", "#995012", "#70390c", "#472407")
MISSING = (0.93, 0.93, 0.93)
_NUMBERS_UP_TO = 16  # columns; with more, numbers in the cells cannot be read


def signed(values: NDArray[np.floating[Any]], limit: float) -> NDArray[np.float64]:
    """Colours of values between −limit and limit; 0 is pale, NaN grey.

    Args:
        values: Any shape.
        limit: Where the colours end.
    """
    shares = np.asarray(values, np.float64) / limit
    colours = np.where(shares[..., None] < 0, ramp(-shares, NEGATIVE), ramp(shares, LIGHT))
    colours[np.isnan(shares)] = MISSING
    return colours


def site_panels(
    values: NDArray[np.floating[Any]],
    by_head: NDArray[np.floating[Any]] | None,
    *,
    sites: Sequence[str],
    layers: Sequence[int],
    positions: Sequence[str],
    heads: Sequence[int],
) -> list[Panel]:
    """A layer × position panel for each site; for heads layer × head, at the position that counts most.

    Args:
        values: (site, layer, position).
        by_head: (layer, position, head), which stands for the site `z`; None without heads.
        sites: Names of sites.
        layers: Numbers of layers.
        positions: Tokens, or names of spans.
        heads: Numbers of heads.
    """
    rows, columns = list(map(str, layers)), [visible(token) for token in positions]
    panels: list[Panel] = [
        (site, values[place], rows, columns)
        for place, site in enumerate(sites)
        if site != "z" or by_head is None
    ]
    if by_head is not None and "z" in sites:
        # A head has a number at every position: the largest of them tells where it matters.
        places = np.abs(np.nan_to_num(by_head)).argmax(1)[:, None]
        strongest = np.take_along_axis(by_head, places, 1)[:, 0]
        panels.append(("z: heads, each at its strongest position", strongest, rows, list(map(str, heads))))
    return panels


def heatmaps(
    panels: Sequence[Panel],
    *,
    title: str,
    value_title: str,
    columns: int = 3,
    row_title: str = "layer",
    column_title: str = "",
) -> Figure:
    """Heatmaps on one colour scale that is centred at 0; its bar shows the part that is used.

    Cells whose number would be 0 have none, so that what is not 0 stands out.

    Args:
        panels: What to draw, each with a title.
        title: What the whole shows.
        value_title: What the colour means.
        columns: Panels side by side.
        row_title: What a row is.
        column_title: What a column is, where its labels do not say it.
    """
    from matplotlib.figure import Figure

    known = np.concatenate([values[np.isfinite(values)] for _, values, _, _ in panels] or [np.ones(1)])
    limit = float(np.abs(known).max(initial=0)) or 1.0
    ends = (min(float(known.min(initial=0)), 0.0), max(float(known.max(initial=0)), 0.0))
    across = min(columns, len(panels))
    down = -(-len(panels) // across)
    widths = [max(_inches(panel) for panel in panels[column::across]) for column in range(across)]
    high = max(values.shape[0] for _, values, _, _ in panels)
    size = (max(sum(widths), 3.4), down * max(high * 0.24 + 1.25, 2.4) + 0.8)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    grid = figure.subplots(down, across, squeeze=False, width_ratios=widths)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw(axes, panel, limit, row_title)
        axes.set_xlabel(column_title, fontsize=9, color=MUTED)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    figure.suptitle(title, fontsize=10.5, color=INK, x=0.01, ha="left", parse_math=False)
    scale = figure.colorbar(
        _scale(ends if ends[1] > ends[0] else (0.0, limit), limit),
        ax=list(grid.flat),
        orientation="horizontal",
        fraction=0.05,
        aspect=40,
        pad=0.02,
    )
    scale.outline.set_visible(False)
    scale.ax.tick_params(length=0, labelsize=8, labelcolor=INK)
    said = textwrap.fill(value_title, max(30, int(size[0] * 12)))
    scale.set_label(said, fontsize=8.5, color=MUTED)
    return figure


def _inches(panel: Panel) -> float:
    """How wide a panel is drawn."""
    columns = panel[1].shape[1]
    return max(columns * (0.52 if columns <= _NUMBERS_UP_TO else 0.24) + 0.9, 2.4)


def _draw(axes: Any, panel: Panel, limit: float, row_title: str) -> None:
    name, values, rows, columns = panel
    colours = signed(values, limit)
    axes.imshow(colours, aspect="auto", origin="lower", interpolation="nearest")
    if values.shape[1] <= _NUMBERS_UP_TO:
        inks = ink_on(colours)
        for row, column in np.ndindex(values.shape):
            value = values[row, column]
            if np.isfinite(value) and _short(value) != "0":
                middle = {"ha": "center", "va": "center", "in_layout": False}  # it stays in its cell
                axes.text(column, row, _short(value), color=inks[row, column], fontsize=7, **middle)
    part_cells(axes, values.shape, 0.8)
    every = max(1, -(-len(columns) // 48))  # labels that can still be told apart
    places = list(range(0, len(columns), every))
    axes.set_xticks(places, [shorten(columns[i], 12) for i in places], fontsize=8)
    slanted = max(map(len, columns), default=0) > 2
    for label in axes.get_xticklabels():
        label.set_parse_math(False)
        if slanted:
            label.set(rotation=55, ha="right", rotation_mode="anchor")
    axes.set_yticks(np.arange(len(rows)), rows, fontsize=8)
    axes.tick_params(length=0, labelcolor=INK)
    axes.spines[:].set_visible(False)
    axes.set_ylabel(row_title, fontsize=9, color=MUTED)
    axes.set_title(name, fontsize=9.5, color=INK, loc="left", parse_math=False)


def _short(value: float) -> str:
    text = f"{value:.2f}" if abs(value) < 9.95 else f"{value:.0f}"
    return text.replace("-0.00", "0").replace("0.00", "0").replace("-", "−").replace("0.", ".", 1)


def _scale(ends: tuple[float, float], limit: float) -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    steps = np.linspace(*ends, 255)
    return ScalarMappable(Normalize(*ends), ListedColormap(signed(steps, limit)))
