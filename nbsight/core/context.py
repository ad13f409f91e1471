"""Which trace is running here: a stack per thread, asyncio task and greenlet."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Optional

if TYPE_CHECKING:
    from nbsight.core.tracer import Tracer

__all__ = ["current_tracer", "enter", "leave", "tracer_of"]

#: The innermost trace and what was there before it: (tracer, rest) or None.
_stack: ContextVar[Optional[tuple[Any, Any]]] = ContextVar("nbsight_traces", default=None)


def enter(tracer: Tracer) -> None:
    """Make `tracer` the innermost trace."""
    _stack.set((tracer, _stack.get()))


def leave(tracer: Tracer) -> None:
    """Remove `tracer`, wherever it stands (blocks in generators may end out of order)."""
    _stack.set(_without(_stack.get(), tracer))


def _without(stack: Any, tracer: Tracer) -> Any:
    if stack is None:
        return None
    top, rest = stack
    if top is tracer:
        return rest
    return (top, _without(rest, tracer))


def current_tracer() -> Tracer | None:
    """The innermost running trace, of whatever model."""
    stack = _stack.get()
    return None if stack is None else stack[0]


def tracer_of(root: object) -> Tracer | None:
    """The innermost running trace of this model."""
    stack = _stack.get()
    while stack is not None:
        if stack[0].root is root:
            return stack[0]
        stack = stack[1]
    return None
