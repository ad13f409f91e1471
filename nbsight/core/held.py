"""The runs that are held open, by thread; whoever needs to know of one asks here."""

from __future__ import annotations

import sys
import threading
from types import CodeType, FrameType
from typing import Any

__all__ = ["Home", "any_held", "held_tracer", "home"]


class Home:
    """One thread's held runs: their tracers, the one used last at the end.

    Attributes:
        thread: The thread's number.
        held: The tracers of the open runs.
        orphans: Those whose run was forgotten in another thread; this one has to unwind them.
        asked: The run whose `until` was named last, and the code that named it: the place in the
            argument is that run's.
    """

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.held: list[Any] = []
        self.orphans: list[Any] = []
        self.asked: tuple[Any, CodeType] | None = None

    def use(self, tracer: Any) -> None:
        """Note that this run is the one used last."""
        self.drop(tracer)
        self.held.append(tracer)

    def drop(self, tracer: Any) -> None:
        """Forget a run that is over."""
        if tracer in self.held:
            self.held.remove(tracer)

    def ask(self, tracer: Any, frame: FrameType) -> None:
        """Note that a frame has named a run's `until`: its argument comes next."""
        self.asked = (tracer, frame.f_code)

    def asked_by(self, frame: FrameType | None) -> Any:
        """The run that this frame, or one that called it, is about to move; None if there is none."""
        if self.asked is None:
            return None
        tracer, code = self.asked
        while frame is not None:
            if frame.f_code is code:
                return tracer
            frame = frame.f_back
        self.asked = None  # named in a cell that is over
        return None

    def clear_orphans(self) -> None:
        """Unwind what another thread could only leave."""
        while self.orphans:
            self.orphans.pop()._leave()


class _End:
    """Unwinds a thread's runs when the thread ends: nobody else can switch to its greenlets."""

    def __init__(self, of: Home) -> None:
        self.of = of

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self.of.clear_orphans()
            for tracer in list(self.of.held):
                tracer._leave()


class _Local(threading.local):
    def __init__(self) -> None:
        self.home = Home()
        self.end = _End(self.home)


_local = _Local()


def home() -> Home:
    """This thread's held runs."""
    return _local.home


def held_tracer(family: object, frame: FrameType) -> Any:
    """The tracer of this model's held run that code in `frame` means; None when there is none.

    As a rule that is the one used last.
    """
    here = _local.home
    asked = here.asked_by(frame)
    if asked is not None and asked.root._family is family:
        return asked
    for tracer in reversed(here.held):
        if tracer.root._family is family and tracer.state == "open":
            return tracer
    return None


def any_held() -> bool:
    """Whether a run is held open in this thread."""
    return any(tracer.state == "open" for tracer in _local.home.held)
