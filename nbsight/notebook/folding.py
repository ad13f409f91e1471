"""Errors of ours on one screen, the whole traceback folded under it.

IPython asks an exception itself how it is to be shown, if it has `_render_traceback_`; loading the
extension gives ours that method and unloading takes it away. What is shown is the innermost line of
the user's with two lines around it, and the message. The rest is one click away, or
`%nbsight traceback`.
"""

from __future__ import annotations

import os
import re
import sys
from html import escape
from types import TracebackType
from typing import Any

from nbsight.errors import NbsightError

__all__ = ["Folding"]

LIBRARIES = (os.sep + "site-packages" + os.sep, os.sep + "dist-packages" + os.sep, sys.base_prefix + os.sep)
OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Folding:
    """The short form of an error in a cell, and what it left out.

    Args:
        ip: The shell.
    """

    def __init__(self, ip: Any) -> None:
        self._ip = ip
        self._method: Any = None
        self._folded: str | None = None
        #: The whole of the last error that was shortened.
        self.last: str | None = None

    def load(self) -> None:
        """From now on, errors of ours are shown short."""
        folding = self

        def _render_traceback_(error: NbsightError) -> list[str]:
            return folding.shown(error)

        self._method = _render_traceback_
        NbsightError._render_traceback_ = _render_traceback_  # type: ignore[attr-defined]

    def unload(self) -> None:
        """From now on, IPython shows them as it shows all others."""
        if self._method is not None and NbsightError.__dict__.get("_render_traceback_") is self._method:
            del NbsightError._render_traceback_  # type: ignore[attr-defined]

    def shown(self, error: NbsightError) -> list[str]:
        """What IPython prints of an error of ours."""
        whole = self._lines(error, error.__traceback__)
        original = getattr(error, "original", None)
        if original is not None and original is not error.__cause__:
            whole += ["", "The model's own traceback:", *self._lines(original, original.__traceback__)]
        short = self._lines(_Alone(error), _innermost_of_users(error.__traceback__))
        text = COLOURS.sub("", "\n".join(whole))
        if text.count("\n") <= COLOURS.sub("", "\n".join(short)).count("\n") + 2:
            return whole
        self.last = self._folded = text
        if getattr(self._ip, "kernel", None) is None:
            short.append("(%nbsight traceback shows the rest)")
        return short

    def after_cell(self, result: Any = None) -> None:
        """Put what was left out under the error, folded (a callback of `post_run_cell`)."""
        folded, self._folded = self._folded, None
        if folded is None or getattr(self._ip, "kernel", None) is None:
            return
        from IPython.display import display

        html = (
            '<details style="color: var(--jp-ui-font-color2, GrayText); font-size: '
            'var(--jp-ui-font-size1, 90%)"><summary style="cursor: pointer">Whole traceback</summary>'
            '<pre style="margin: 4px 0 0; white-space: pre-wrap; font-size: var(--jp-code-font-size, 90%)">'
            f"{escape(folded)}</pre></details>"
        )
        display({"text/plain": "(%nbsight traceback shows the rest)", "text/html": html}, raw=True)

    def _lines(self, error: Any, trace: TracebackType | None) -> list[str]:
        """IPython's own rendering of an error with a traceback."""
        if isinstance(error, _Alone):
            with error as alone:
                return list(self._ip.InteractiveTB.structured_traceback(type(alone), alone, trace))
        return list(self._ip.InteractiveTB.structured_traceback(type(error), error, trace))


class _Alone:
    """An error without those that it came from, for as long as it is shown."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __enter__(self) -> BaseException:
        error = self._error
        self._kept = (error.__cause__, error.__context__, error.__suppress_context__)
        error.__cause__ = error.__context__ = None
        return error

    def __exit__(self, *_: Any) -> None:
        self._error.__cause__, self._error.__context__, self._error.__suppress_context__ = self._kept


def _innermost_of_users(trace: TracebackType | None) -> TracebackType | None:
    """The last entry of a traceback that is in code of the user's, alone; the whole if there is none."""
    found, current = None, trace
    while current is not None:
        filename = current.tb_frame.f_code.co_filename
        if not filename.startswith(OWN) and not any(part in filename for part in LIBRARIES):
            found = current
        current = current.tb_next
    if found is None:
        return trace
    return TracebackType(None, found.tb_frame, found.tb_lasti, found.tb_lineno)
