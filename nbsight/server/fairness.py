"""Whose job is next, and who submits too fast: both are decided here, from plain values."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

__all__ = ["Rates", "Waiting", "next_job"]


@dataclass(frozen=True)
class Waiting:
    """A job that waits, as far as its turn is concerned."""

    id: str
    owner: str
    created: float


def next_job(
    waiting: Iterable[Waiting], running: Counter[str], served: Mapping[str, float], most: int
) -> str | None:
    """The job to start now.

    Owners take turns: first whoever runs least, then whose last start is longest ago. An owner's own
    jobs start in the order in which they came.

    Args:
        waiting: The jobs that wait.
        running: How many jobs of each owner run.
        served: When a job of each owner was last started.
        most: How many jobs of one owner may run.

    Returns:
        Its id; None if every owner who waits has as many running as he may.
    """
    first: dict[str, Waiting] = {}
    for job in waiting:
        if running[job.owner] < most and (job.owner not in first or job.created < first[job.owner].created):
            first[job.owner] = job
    if not first:
        return None
    best = min(first.values(), key=lambda job: (running[job.owner], served.get(job.owner, 0.0), job.created))
    return best.id


@dataclass
class Rates:
    """A bucket of tokens per owner: `burst` at once, `rate` per second on average."""

    rate: float
    burst: int
    _left: dict[str, tuple[float, float]] = field(default_factory=dict)

    def take(self, owner: str, now: float | None = None) -> float:
        """Take a token; returns 0, or the seconds to wait for one."""
        now = time.monotonic() if now is None else now
        left, since = self._left.get(owner, (float(self.burst), now))
        left = min(float(self.burst), left + (now - since) * self.rate)
        if left < 1:
            self._left[owner] = (left, now)
            return (1 - left) / self.rate
        self._left[owner] = (left - 1, now)
        return 0.0
