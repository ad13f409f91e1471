"""Paired measuring: every contestant in every round, in a new order each time, by CPU time.

A machine that is busy with other things slows whole rounds, so numbers of one round are compared with
each other and never with those of another; what is reported is the median over the rounds.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping

__all__ = ["Times", "measure"]


class Times:
    """Seconds of CPU time for every contestant, one list entry a round."""

    def __init__(self, seconds: dict[str, list[float]]) -> None:
        self.seconds = seconds

    def __contains__(self, name: str) -> bool:
        return name in self.seconds

    def median(self, name: str) -> float:
        """Seconds that a contestant takes."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, to: str) -> float:
        """How many times as long one takes as the other."""
        return statistics.median(a / b for a, b in zip(self.seconds[name], self.seconds[to], strict=True))

    def added(self, name: str, over: str) -> float:
        """Seconds that one takes more than the other."""
        return statistics.median(a - b for a, b in zip(self.seconds[name], self.seconds[over], strict=True))

    def added_ratio(self, name: str, to: str, over: str) -> float:
        """What one adds to `over`, as a multiple of what the other adds to it."""
        return self.added(name, over) / self.added(to, over)


def measure(
    contestants: Mapping[str, Callable[[], object]], *, rounds: int, calls: int = 1, warm: int = 5
) -> Times:
    """Time functions against each other.

    Args:
        contestants: Functions by name.
        rounds: How often each is timed.
        calls: Calls in one timing, for functions that take microseconds.
        warm: Untimed calls of each before the first round.
    """
    for call in contestants.values():
        for _ in range(warm):
            call()
    gc.collect()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            call = contestants[name]
            start = time.process_time()
            for _ in range(calls):
                call()
            seconds[name].append((time.process_time() - start) / calls)
    return Times(seconds)
