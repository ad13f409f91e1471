"""The text of a cell that runs under `%%time`.

IPython compiles such a cell without a file, so nobody can look its text up; blocks that have to
wait or travel need it. The running cell is the last entry of the raw history, and what is compiled
is that cell without its first line.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["timed_cell_finder"]


def timed_cell_finder(ip: Any) -> Callable[[FrameType], list[str] | None]:
    """A finder for `nbsight.core.capture.finders` that knows the running cell of this shell."""

    def lines_of(frame: FrameType) -> list[str] | None:
        history = ip.history_manager.input_hist_raw
        if frame.f_code.co_filename != "<timed exec>" or not history:
            return None
        lines = history[-1].lstrip().splitlines(keepends=True)
        if not lines or not lines[0].startswith("%%time"):
            return None
        text = ip.transform_cell("".join(lines[1:]))
        # The text must be the one that runs: a cell that runs another one is told apart here.
        if frame.f_lineno > len(text.splitlines()):
            return None
        return text.splitlines(keepends=True)

    return lines_of
