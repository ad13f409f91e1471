"""Names of earlier releases of nnsight, for code that was written for them.

They are looked up where an envoy has no such name and a trace of its model is running, so they cost
nothing and hide nothing: `module.next()`, `module.iter[...]`, `module.all()`, `module.wait_for_output()`.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from nbsight.core.context import tracer_of
from nbsight.core.loops import go_on

if TYPE_CHECKING:
    from nbsight.core.envoy import Envoy
    from nbsight.core.tracer import Tracer

__all__ = ["find"]


def find(envoy: Envoy, name: str, frame: FrameType) -> Any:
    """What `name` means on an envoy in a running trace; None if it means nothing."""
    make = _NAMES.get(name)
    if make is None:
        return None
    user: FrameType | None = frame
    while user is not None and user.f_globals.get("__name__", "").startswith("nbsight."):
        user = user.f_back
    if user is None:
        return None
    tracer = tracer_of(envoy._root, user)
    return None if tracer is None else make(envoy, tracer, user)


def _next(envoy: Envoy, tracer: Tracer, frame: FrameType) -> Callable[..., Envoy]:
    def next(count: int = 1) -> Envoy:
        """Mean the module's call of the next step from now on; gives the module back."""
        participant = tracer.participant()
        turns = participant.turns
        if turns is None or turns[0] != participant.step:
            # Each module counts for itself, from the step at which the block stood when it began to.
            turns = participant.turns = [participant.step, participant.step or 0, {}]
        number = turns[2].get(envoy, turns[1]) + count
        go_on(tracer, number)
        turns[2][envoy] = number
        turns[0] = participant.step
        return envoy

    return next


def _iter(envoy: Envoy, tracer: Tracer, frame: FrameType) -> Any:
    return tracer.iter


def _all(envoy: Envoy, tracer: Tracer, frame: FrameType) -> Any:
    return tracer.all


def _wait(what: str) -> Callable[..., Any]:
    def wait(envoy: Envoy, tracer: Tracer, frame: FrameType) -> Callable[[], None]:
        def wait_for() -> None:
            """Let the model go on to this module."""
            tracer.read(envoy, what, frame)

        return wait_for

    return wait


_NAMES = {
    "next": _next,
    "iter": _iter,
    "all": _all,
    "wait_for_output": _wait("output"),
    "wait_for_input": _wait("input"),
}
