"""Loops over the steps of a generation.

`for step in tracer.iter[:]` asks the model for its next pass on every turn. When the model makes no
further pass the loop is over, and the statement after it runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from nbsight.errors import InputError

if TYPE_CHECKING:
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
    root = (run.root, "input")
    try:
        for turn, number in enumerate(numbers):
            if tracer.method == "forward":
                # One forward has no passes: each turn means the modules' next call.
                participant.spent = run.site if turn else None
                if run.ended:
                    return
            else:
                run.want(root)
                try:
                    participant.wait_for_pass(run, number)
                finally:
                    run.unwant(root)
                if run.passes <= number:
                    return
                if run.passes > number + 1:
                    continue  # the model is already past this step
                participant.step = number
            yield number
    finally:
        participant.step = None
        participant.spent = None
