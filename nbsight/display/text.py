"""Tokens and grids of tokens as plain text."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["grid_text", "number_text", "shorten", "visible"]

# The same marks as in js/src/shared/tokens.ts
MARKS = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍", "\u00a0": "⍽", "\u200b": "∅"}


def visible(token: str) -> str:
    """A token with every character on show: a leading space is `·`, a line end `⏎`.

    Bytes that are no text on their own arrive as U+FFFD and stay that; control characters become
    their code, so that a repr never moves the cursor.
    """
    if token == "":
        return "∅"
    return "".join(
        MARKS.get(char) or (f"\\x{ord(char):02x}" if unicodedata.category(char) == "Cc" else char)
        for char in token
    )


def shorten(text: str, width: int) -> str:
    """The text in at most `width` characters, with an ellipsis where some were left out."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def grid_text(
    *,
    columns: Sequence[str],
    rows: Sequence[Any],
    labels: NDArray[np.object_],
    values: NDArray[np.floating[Any]],
    corner: str,
    what: str = "positions",
    width: int = 100,
) -> str:
    """A grid of tokens with a number each, last row first; columns that do not fit are counted.

    Args:
        columns: Token of each column.
        rows: Label of each row.
        labels: Text of each cell, shape (row, column).
        values: Number of each cell in [0, 1], shape (row, column).
        corner: What the rows are.
        what: What the columns are, where some are left out.
        width: Characters per line.
    """
    margin = max(len(corner), *(len(str(row)) for row in rows)) if rows else len(corner)
    cell = 13  # nine characters of token, a space, two digits and a point
    fits = max(1, (width - margin) // (cell + 2))
    shown = min(len(columns), fits)
    lines = [
        f"{corner:>{margin}}"
        + "".join(f"  {shorten(visible(token), cell):<{cell}}" for token in columns[:shown])
    ]
    for index in range(len(rows) - 1, -1, -1):
        cells = (
            f"  {shorten(visible(label), cell - 4):<{cell - 4}} {number_text(value)}"
            for label, value in zip(labels[index, :shown], values[index, :shown], strict=True)
        )
        lines.append(f"{rows[index]!s:>{margin}}" + "".join(cells))
    if shown < len(columns):
        lines.append(f"{'':>{margin}}  … and {len(columns) - shown} more {what}")
    return "\n".join(line.rstrip() for line in lines)


def number_text(value: float) -> str:
    """A probability in three characters: `.07`, `.93`, `1.0`."""
    if not np.isfinite(value):
        return str(float(value))[:3]
    rounded = f"{value:.2f}"
    return "1.0" if rounded.startswith("1") else rounded[1:]
