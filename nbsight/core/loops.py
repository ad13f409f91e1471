"""Loops over the steps of a generation, or over the calls of a module within one forward.

`for step in tracer.iter[:]` asks the model for its next pass on every turn. When the model makes no
further pass the loop is over, and the statement after it runs. `with tracer.iter[:] as step:`, which
nnsight had before, runs its body once for each step; for that the body is captured, as an invoke's is.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from nbsight.core.capture import Block, BodySkipped, block_at, skip_body
from nbsight.core.scope import Names, frame_values, write_back
from nbsight.core.steps import Step
from nbsight.errors import CaptureError, InputError, NeverCalledError

if TYPE_CHECKING:
    from nbsight.core.participant import Participant
    from nbsight.core.run import Run
    from nbsight.core.tracer import Tracer

__all__ = ["Loop", "Loops", "go_on"]

Which = slice | int | Iterable[int]


class Loops:
    """Index it by a slice, a number or a list of numbers to get a loop over those steps."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def __getitem__(self, which: Which) -> Loop:
        _numbers(which)  # a mistake in it is one here and now
        return Loop(self._tracer, which)

    def __iter__(self) -> Iterator[Step]:
        return iter(self[:])


class Loop:
    """A loop over some steps: `for step in tracer.iter[:3]: ...`."""

    def __init__(self, tracer: Tracer, which: Which) -> None:
        self._tracer = tracer
        self._which = which
        self._block: Block | None = None
        self._frame: FrameType | None = None
        self._values: dict[str, Any] = {}
        self._undo: Callable[[], None] | None = None

    def __iter__(self) -> Iterator[Step]:
        return _loop(self._tracer, _numbers(self._which))

    # -- the form with `with` ------------------------------------------------------------------

    def __enter__(self) -> Loop:
        frame = sys._getframe(1)
        self._block = block_at(frame)
        if self._block is None:
            raise CaptureError(
                "`with tracer.iter[...] as step:` runs its body several times and needs its text, and there "
                f"is none for code from {frame.f_code.co_filename!r}. Write `for step in tracer.iter[...]:`."
            )
        self._tracer._running("iter")
        self._frame = frame
        self._values = frame_values(frame, self._block.loads)
        self._undo = skip_body(frame)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        block, frame = self._block, self._frame
        assert block is not None
        assert frame is not None
        assert self._undo is not None
        self._undo()
        self._undo = self._frame = None
        if kind is not BodySkipped:
            return False
        names = Names(self._values, frame.f_globals)
        try:
            for step in self:
                if block.target is not None:
                    names[block.target] = step
                exec(block.code, names, names)
        finally:
            stores = {*block.stores, *block.targets}
            write_back(frame, {name: names[name] for name in stores if name in names}, block.filename)
        return True


def _numbers(which: Which) -> Iterable[int]:
    if isinstance(which, slice):
        start, stop, stride = which.start or 0, which.stop, which.step or 1
        if start < 0 or stride < 1 or (stop is not None and stop < 0):
            raise InputError(
                "steps are counted from the start, since nobody knows how many there will be: "
                f"write iter[a:b] with a, b >= 0 and a stride >= 1, not {which}."
            )
        return itertools.count(start, stride) if stop is None else range(start, stop, stride)
    numbers = [which] if isinstance(which, int) else sorted(which)
    if any(number < 0 for number in numbers):
        raise InputError(f"steps are counted from 0; there is no step {min(numbers)}.")
    return numbers


def _loop(tracer: Tracer, numbers: Iterable[int]) -> Iterator[Step]:
    run = tracer._running("iter")
    participant = tracer.participant()
    generation = tracer.generation
    reach = _next_call if generation is None else _next_pass
    try:
        for number in numbers:
            found = reach(run, participant, number)
            if found is None or (generation is not None and generation.all_ended(participant.rows)):
                return
            if found:
                yield Step(number, generation, participant.rows)
    finally:
        participant.step = participant.occurrence = participant.turn_key = None


def _next_pass(run: Run, participant: Participant, number: int) -> bool | None:
    """Wait for the model's pass `number`: whether it is there; None when there is none any more."""
    participant.wait_for_pass(run, number)
    if run.passes <= number:
        return None
    participant.step = number
    return run.passes == number + 1  # otherwise the model is already past this step


def _next_call(run: Run, participant: Participant, number: int) -> bool | None:
    """One forward has no passes: a turn means call `number` of the modules that it asks for."""
    participant.occurrence = number
    run.counts_calls = True
    key, participant.turn_key = participant.turn_key, None
    if key is not None:
        participant.wait_for_occurrence(run, key)
    return None if run.ended else True


def go_on(tracer: Tracer, number: int) -> Step:
    """Go on to a step of a generation, and read and write there from now on.

    Raises:
        InputError: nothing is being generated.
        NeverCalledError: the model makes no such step.
    """
    run = tracer._running("next")
    participant = tracer.participant()
    if tracer.generation is None:
        raise InputError(
            "`next()` goes on to the next step of `model.generate(...)`, and `trace` has one. For the calls "
            "of a module within it write `for call in tracer.iter[:]:`."
        )
    if _next_pass(run, participant, number) is None:
        raise NeverCalledError(
            f"`next()` asked for step {number}, and the model made {run.passes} "
            f"step{'' if run.passes == 1 else 's'}. A loop, `for step in tracer.iter[:]:`, ends by itself."
        )
    participant.step = number
    return Step(number, tracer.generation, participant.rows)
