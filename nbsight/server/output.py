"""What a block prints, as events: whole lines, bars that redraw themselves, warnings."""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from nbsight.wire.source import home_of

__all__ = ["sent_output"]

Say = Callable[..., None]

#: Characters of one event.
_LONGEST = 16_000

#: Seconds between two states of a bar.
_BARS = 0.1


class _Lines(io.TextIOBase):
    """A text file that hands on whole lines, and of a line that redraws itself a state now and then."""

    def __init__(self, say: Say, stream: str) -> None:
        self._say = say
        self._stream = stream
        self._rest = ""
        self._drawn = 0.0

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._rest += text
        while "\n" in self._rest or len(self._rest) > _LONGEST:
            line, newline, rest = self._rest[:_LONGEST].partition("\n")
            self._rest = rest + self._rest[_LONGEST:]
            bar = line.rpartition("\r")[2]
            if "\r" in line:
                self._bar(bar, last=True)
            else:
                self._say("log", stream=self._stream, text=line + newline)
        if "\r" in self._rest:
            self._rest = "\r" + self._rest.rpartition("\r")[2]
            self._bar(self._rest[1:])
        return len(text)

    def _bar(self, text: str, last: bool = False) -> None:
        now = time.monotonic()
        if text.strip() and (last or now - self._drawn >= _BARS):
            self._drawn = now
            self._say("progress", text=text[:500])

    def finish(self) -> None:
        """Hand on what is left of a line."""
        rest, self._rest = self._rest, ""
        if "\r" in rest:
            self._bar(rest.rpartition("\r")[2], last=True)
        elif rest:
            self._say("log", stream=self._stream, text=rest)


@contextmanager
def sent_output(say: Say) -> Iterator[None]:
    """Send on what is printed, drawn and warned of."""
    out, err = _Lines(say, "out"), _Lines(say, "err")

    def show(message: Any, category: Any, filename: str, lineno: int, *_: Any, **__: Any) -> None:
        home = home_of(filename)
        say(
            "log",
            stream="warning",
            text=str(message)[:_LONGEST],
            category=category.__name__,
            filename=home or "",
            line=lineno if home else 0,
        )

    with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = show
        try:
            yield
        finally:
            out.finish()
            err.finish()
