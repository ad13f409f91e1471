"""How far a job has come, on one line that redraws itself: in a notebook or in a terminal.

Nothing is shown of a job that ends within half a second.
"""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

__all__ = ["Progress", "progress_line"]

_PATIENCE = 0.5
_PAUSE = 0.1


class Progress(Protocol):
    """Shows one line of text."""

    def show(self, text: str, *, now: bool = False) -> None:
        """Show a text in the place of the last one."""
        ...

    def close(self) -> None:
        """Take the line away."""
        ...


class _Silent:
    def show(self, text: str, *, now: bool = False) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class _Paced:
    """Draws seldom, and not at all in the first moments."""

    def __init__(self) -> None:
        self._drawn = time.monotonic() + _PATIENCE - _PAUSE
        self._is_shown = False

    def show(self, text: str, *, now: bool = False) -> None:
        moment = time.monotonic()
        if moment - self._drawn >= _PAUSE or (now and self._is_shown):
            self._drawn, self._is_shown = moment, True
            self._draw(text)

    def close(self) -> None:
        if self._is_shown:
            self._is_shown = False
            self._clear()

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


def progress_line(verbose: bool = True) -> Progress:
    """What shows progress where this code runs: in a notebook, in a terminal, or not at all."""
    if not verbose:
        return _Silent()
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None and getattr(shell, "kernel", None) is not None:
        return _Notebook()
    return _Terminal() if sys.stderr is not None and sys.stderr.isatty() else _Silent()
