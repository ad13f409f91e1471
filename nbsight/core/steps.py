"""Loops over the steps of a generation.

`for step in tracer.iter[:]` asks the model for its next pass on every turn. When the model makes no
further pass the loop is over, and the statement after it runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from nbsight.errors import InputError

if TYPE_CHECKING:
    from nbsight.core.run import Participant, Run
    from nbsight.core.tracer import Tracer

__all__ = ["Steps"]


class Steps:
    """Index it by a slice, a number or a list of numbers to get a loop over those steps."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def __getitem__(self, which: slice | int | Iterable[int]) -> Iterator[int]:
        return _loop(self._tracer, _numbers(which))

    def __iter__(self) -> Iterator[int]:
        return self[:]


def _numbers(which: slice | int | Iterable[int]) -> Iterable[int]:
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


def _loop(tracer: Tracer, numbers: Iterable[int]) -> Iterator[int]:
    run = tracer._running("iter")
    participant = tracer.participant()
    reach = _next_call if tracer.method == "forward" else _next_pass
    try:
        for number in numbers:
            found = reach(run, participant, number)
            if found is None:
                return
            if found:
                yield number
    finally:
        participant.step = participant.occurrence = participant.turn_key = None


def _next_pass(run: Run, participant: Participant, number: int) -> bool | None:
    """Wait for the model's pass `number`: whether it is there; None when there is none any more."""
    root = (run.root, "input")
    run.want(root)
    try:
        participant.wait_for_pass(run, number)
    finally:
        run.unwant(root)
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
