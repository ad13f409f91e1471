"""Which trace is running here: a stack per thread, asyncio task and greenlet."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar
from types import FrameType
from typing import Any

from greenlet import getcurrent

from nbsight.core.greenlets import Carrier

__all__ = ["current_tracer", "enter", "is_nested", "leave", "running", "tracer_of", "users_frame"]

#: The innermost trace and what was there before it: (tracer, rest) or None.
_stack: ContextVar[tuple[Any, Any] | None] = ContextVar("nbsight_traces", default=None)

_SUSPENDS = 0x20 | 0x80 | 0x200  # code flags of generators, coroutines, asynchronous generators


def enter(tracer: Any) -> None:
    """Make `tracer` the innermost trace."""
    _stack.set((tracer, _stack.get()))


def leave(tracer: Any) -> None:
    """Remove `tracer`, wherever it stands (blocks in generators may end out of order)."""
    stack = _stack.get()
    if stack is not None and stack[0] is tracer and stack[1] is None:  # as a rule
        _stack.set(None)
    else:
        _stack.set(_without(stack, tracer))


def _without(stack: Any, tracer: Any) -> Any:
    if stack is None:
        return None
    top, rest = stack
    # Traces that ended in another context are dropped on the way.
    if top is tracer or top.done:
        return _without(rest, tracer)
    return (top, _without(rest, tracer))


def running() -> Iterator[Any]:
    """The traces and sessions that run here, innermost first."""
    stack = _stack.get()
    while stack is not None:
        if not stack[0].done:
            yield stack[0]
        stack = stack[1]


def is_nested() -> bool:
    """Whether more than one trace or session runs here."""
    stack = _stack.get()
    return stack is not None and stack[1] is not None


def current_tracer() -> Any:
    """The innermost running trace or session, of whatever model; None when there is none."""
    stack = _stack.get()
    if stack is None:
        return None
    return stack[0] if not stack[0].done else next(running(), None)


def tracer_of(root: object, frame: FrameType) -> Any:
    """The running trace of this model that code in `frame` means; None when there is none.

    As a rule that is the innermost one. Two suspended generators may each hold a trace open in
    one context; then it is the one whose block `frame` was called from.
    """
    # A light copy of a model (for edits) is the same family: its blocks name the original.
    family = getattr(root, "_family", root)
    candidates = [tracer for tracer in running() if tracer.root is not None and tracer.root._family is family]
    if not candidates:
        return None
    if len(candidates) == 1 and (answers_anywhere(candidates[0]) or type(getcurrent()) is Carrier):
        return candidates[0]
    asking: FrameType | None = frame
    while asking is not None:
        for tracer in candidates:
            if tracer.frame is asking:
                return tracer
        asking = asking.f_back
    return next((tracer for tracer in candidates if answers_anywhere(tracer)), None)


def answers_anywhere(tracer: Any) -> bool:
    """Whether code that the block did not call may read from it: not if it is a generator's."""
    frame = tracer.frame
    return frame is None or tracer.lent or not frame.f_code.co_flags & _SUSPENDS


def users_frame(frame: FrameType) -> FrameType:
    """The frame that holds the `with` statement, when `contextlib` entered it."""
    found: FrameType | None = frame
    while found is not None and found.f_globals.get("__name__") == "contextlib":
        found = found.f_back
    return found or frame
