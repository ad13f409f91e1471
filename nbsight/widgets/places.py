"""Places of a view, as the page and Python name them."""

from __future__ import annotations

from typing import Any

__all__ = ["place_in"]


def place_in(
    selection: Any, shape: tuple[int, int], *, rows: str = "layers", begin: str = "there are"
) -> tuple[int, int]:
    """A row and a position, counted from the first.

    Args:
        selection: Two numbers; negative ones count from the end.
        shape: How many rows and positions there are.
        rows: What the rows are, for the message.
        begin: How the message begins.

    Raises:
        IndexError: there is no such place.
    """
    row, position = (int(index) for index in selection)
    if not (-shape[0] <= row < shape[0] and -shape[1] <= position < shape[1]):
        raise IndexError(
            f"{begin} {shape[0]} {rows} and {shape[1]} positions, counted from 0; there is no "
            f"({row}, {position})."
        )
    return row % shape[0], position % shape[1]
