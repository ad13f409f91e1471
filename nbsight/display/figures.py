"""Still pictures with matplotlib's object interface: no pyplot, so no global state and any thread."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nbsight.display.palette import LIGHT, ink_on, ramp
from nbsight.display.text import shorten, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["figure_png", "figure_svg", "part_cells", "token_grid_figure"]

CELL_WIDTH, CELL_HEIGHT = 0.86, 0.3  # inches
INK, MUTED = "#1d2733", "#5b6775"


def token_grid_figure(
    *,
    columns: Sequence[str],
    rows: Sequence[Any],
    labels: NDArray[np.object_],
    values: NDArray[np.floating[Any]],
    title: str,
    column_title: str,
    row_title: str,
    value_title: str,
) -> Figure:
    """A grid of tokens coloured by a number in [0, 1], last row at the top.

    Args:
        columns: Token under each column.
        rows: Label of each row, lowest first.
        labels: Text of each cell, shape (row, column).
        values: Number of each cell, shape (row, column).
        title: What the picture shows.
        column_title: What a column is.
        row_title: What a row is.
        value_title: What the colour means.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    n_rows, n_columns = values.shape
    inches = (max(n_columns * CELL_WIDTH + 1.0, 4.2), n_rows * CELL_HEIGHT + 1.5)
    figure = Figure(figsize=inches, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    colours = ramp(values)
    axes.imshow(colours, aspect="auto", origin="lower", interpolation="nearest")
    inks = ink_on(colours)
    for row, column in np.ndindex(n_rows, n_columns):
        axes.text(
            column,
            row,
            shorten(visible(labels[row, column]), 10),
            color=inks[row, column],
            ha="center",
            va="center",
            fontsize=8.5,
            parse_math=False,
            in_layout=False,  # it stays in its cell
        )
    part_cells(axes, values.shape, 1.2)
    axes.set_xticks(np.arange(n_columns), [shorten(visible(token), 11) for token in columns], fontsize=8.5)
    axes.set_yticks(np.arange(n_rows), [str(row) for row in rows], fontsize=8.5)
    for label in axes.get_xticklabels():
        label.set_parse_math(False)
    axes.tick_params(length=0, labelcolor=INK)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(column_title, fontsize=9, color=MUTED)
    axes.set_ylabel(row_title, fontsize=9, color=MUTED)
    axes.set_title(title, fontsize=10.5, color=INK, loc="left", parse_math=False)
    scale = figure.colorbar(
        _scalar_colours(ListedColormap(ramp(np.linspace(0, 1, 256), LIGHT))),
        ax=axes,
        orientation="horizontal",
        fraction=0.05,
        aspect=34,
        pad=0.03,
    )
    scale.outline.set_visible(False)
    scale.ax.tick_params(length=0, labelsize=8, labelcolor=INK)
    scale.set_label(value_title, fontsize=8.5, color=MUTED)
    return figure


def part_cells(axes: Axes, shape: tuple[int, ...], width: float) -> None:
    """White lines between the cells of a picture.

    Two collections: a minor tick for each line, as matplotlib does it, takes most of the time of a picture.

    Args:
        axes: Of the picture, whose cells are one wide and one high about whole numbers.
        shape: Rows and columns.
        width: Of a line, in points.
    """
    from matplotlib.collections import LineCollection

    rows, columns = shape
    top, right = rows - 0.5, columns - 0.5
    across = [[(-0.5, at), (right, at)] for at in np.arange(1, rows) - 0.5]
    down = [[(at, -0.5), (at, top)] for at in np.arange(1, columns) - 0.5]
    lines = LineCollection(across + down, colors="white", linewidths=width)
    lines.set_in_layout(False)
    axes.add_collection(lines, autolim=False)


def _scalar_colours(colours: Any) -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(0, 1), colours)


def figure_png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def figure_svg(figure: Figure) -> str:
    """The figure as the text of an SVG file; letters are outlines, so it looks the same everywhere."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
