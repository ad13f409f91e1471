"""How far a job has come: the jobs widget under the cell where the notebook extension is loaded, else one
line that redraws itself, in a notebook or in a terminal.

Nothing is shown of a job that ends within half a second.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any, Protocol

from nbsight.core.in_cell import InCell, presenters
from nbsight.core.jobs import Job

__all__ = ["Progress", "progress_line"]

_PATIENCE = 0.5
_PAUSE = 0.1


class Progress(Protocol):
    """Shows one line of text."""

    #: Whether it wants to be shown now and then also while there is no news.
    ticks: bool

    def show(self, text: str, *, now: bool = False) -> None:
        """Show a text in the place of the last one."""
        ...

    def clear(self) -> None:
        """Make room for what is printed."""
        ...

    def close(self) -> None:
        """The cell waits no longer."""
        ...


class _Silent:
    ticks = False

    def show(self, text: str, *, now: bool = False) -> None:
        """Nothing."""

    def clear(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class _Widget:
    """The jobs widget: it follows the job's row by itself, and only has to be put there in time.

    Args:
        row: The job's row.
    """

    #: The widget appears in time only if somebody looks at the clock while nothing is heard.
    ticks = True

    def __init__(self, row: Job) -> None:
        self._cell = InCell(row)

    def show(self, text: str, *, now: bool = False) -> None:
        """Put it there, if it is time."""
        self._cell.look()

    def clear(self) -> None:
        """It has a place of its own."""

    def close(self) -> None:
        """It becomes what the notebook keeps."""
        self._cell.close()


class _Paced:
    """Draws seldom, and not at all in the first moments."""

    ticks = False

    def __init__(self) -> None:
        self._drawn = time.monotonic() + _PATIENCE - _PAUSE
        self._is_shown = False

    def show(self, text: str, *, now: bool = False) -> None:
        moment = time.monotonic()
        if moment - self._drawn >= _PAUSE or (now and self._is_shown):
            self._drawn, self._is_shown = moment, True
            self._draw(text)

    def clear(self) -> None:
        if self._is_shown:
            self._is_shown = False
            self._clear()

    close = clear

    def _draw(self, text: str) -> None:
        raise NotImplementedError

    def _clear(self) -> None:
        raise NotImplementedError


class _Terminal(_Paced):
    """A line on stderr."""

    def _draw(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[2K{text}")
        sys.stderr.flush()

    def _clear(self) -> None:
        sys.stderr.write("\r\x1b[2K")
        sys.stderr.flush()


class _Notebook(_Paced):
    """A line under the cell."""

    def __init__(self) -> None:
        super().__init__()
        self._handle: Any = None

    def _draw(self, text: str) -> None:
        from IPython.display import display

        data = {"text/plain": text}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)

    def _clear(self) -> None:
        if self._handle is not None:
            self._handle.update({"text/plain": "", "text/html": ""}, raw=True)


def progress_line(verbose: bool = True, row: Job | None = None) -> Progress:
    """What shows progress where this code runs: in a notebook, in a terminal, or not at all.

    Args:
        row: The job's row in the lists of jobs, if it has one: the jobs widget shows that.
    """
    if not verbose:
        return _Silent()
    if row is not None and presenters and threading.current_thread() is threading.main_thread():
        return _Widget(row)
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None and getattr(shell, "kernel", None) is not None:
        return _Notebook()
    return _Terminal() if sys.stderr is not None and sys.stderr.isatty() else _Silent()
