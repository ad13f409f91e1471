"""Whose job is next: owners take turns by what they use, each owner's own jobs in the order they came."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass

__all__ = ["Model", "Turns", "Waiting"]

#: What a worker holds; the scheduler only compares it.
Model = Hashable

#: Seconds after which a use counts half as much.
_HALF_LIFE = 600.0

#: Half-lives after which the scale of uses begins anew: floats end at two to the power of 1024.
_RESCALE = 500.0


@dataclass(frozen=True)
class Waiting:
    """A job that waits, as far as its turn is concerned."""

    id: str
    owner: str
    created: float


class Turns:
    """The jobs that wait.

    The next job of a model belongs to the owner who occupies least now for his share; among equals, to
    the one who has used least of late; then to the one whose last start is longest ago. Every step
    costs the logarithm of the number of owners.

    Args:
        most: Jobs of one owner that may run at a time.
        shares: What an owner may use beside the others; 1 for those who are not named.
    """

    def __init__(self, most: int, shares: Mapping[str, float] | None = None) -> None:
        self.most = most
        self.shares = dict(shares or {})
        self.queues: dict[Model, dict[str, deque[Waiting]]] = defaultdict(dict)
        self.counts: Counter[Model] = Counter()
        self.running: Counter[str] = Counter()
        self._where: dict[str, tuple[Model, str]] = {}
        self._of_owner: dict[str, set[Model]] = defaultdict(set)
        self._load: dict[str, float] = defaultdict(float)
        self._used: dict[str, float] = defaultdict(float)
        self._served: dict[str, float] = {}
        self._heaps: dict[Model, list[tuple[tuple[float, ...], str]]] = defaultdict(list)
        self._origin = 0.0

    # -- those who wait ------------------------------------------------------------------------

    def add(self, job: Waiting, model: Model, *, front: bool = False) -> None:
        """Let a job wait; at the front of its owner's queue if it has waited before."""
        queue = self.queues[model].setdefault(job.owner, deque())
        queue.appendleft(job) if front else queue.append(job)
        self.counts[model] += 1
        self._where[job.id] = (model, job.owner)
        self._of_owner[job.owner].add(model)
        if front or len(queue) == 1:
            self._offer(model, job.owner)

    def remove(self, job: str) -> bool:
        """Let a job wait no longer; False if it did not."""
        if job not in self._where:
            return False
        model, owner = self._where.pop(job)
        queue = self.queues[model][owner]
        queue.remove(next(item for item in queue if item.id == job))
        self.counts[model] -= 1
        if queue:
            self._offer(model, owner)
        else:
            del self.queues[model][owner]
            self._of_owner[owner].discard(model)
        return True

    def drop(self, model: Model) -> list[Waiting]:
        """Take all jobs of a model out."""
        jobs = [job for queue in self.queues[model].values() for job in queue]
        for job in jobs:
            self.remove(job.id)
        return jobs

    def jobs(self, model: Model) -> Iterator[Waiting]:
        """The jobs that wait for a model, owner by owner."""
        for queue in self.queues[model].values() if model in self.queues else ():
            yield from queue

    def models(self) -> list[Model]:
        """The models that jobs wait for."""
        return [model for model, count in self.counts.items() if count]

    def queued(self, owner: str) -> int:
        """How many jobs of an owner wait."""
        return sum(len(self.queues[model][owner]) for model in self._of_owner.get(owner, ()))

    def oldest(self, model: Model) -> float:
        """When the oldest job that waits for a model came."""
        return min(queue[0].created for queue in self.queues[model].values() if queue)

    def runnable(self, model: Model, enough: int) -> int:
        """How many of the jobs that wait for a model may run now, counted up to `enough`."""
        count = 0
        for owner, queue in self.queues[model].items():
            count += max(0, min(len(queue), self.most - self.running[owner]))
            if count >= enough:
                break
        return count

    def place(self, job: str) -> int:
        """A job's place among those that wait for the same model, from 1; 0 if it does not wait."""
        if job not in self._where:
            return 0
        model, owner = self._where[job]
        queues = self.queues[model]
        turn, created = next(
            (turn, item.created) for turn, item in enumerate(queues[owner]) if item.id == job
        )
        before = 0
        for other, queue in queues.items():
            before += min(turn, len(queue))
            if other != owner and turn < len(queue):
                before += (queue[turn].created, queue[turn].id) < (created, job)
        return before + 1

    # -- those who run -------------------------------------------------------------------------

    def next(self, model: Model) -> Waiting | None:
        """The job of a model to start now; None if every owner who waits runs as many as he may."""
        heap, held = self._heaps[model], []
        found = None
        while heap:
            key, owner = heap[0]
            queue = self.queues[model].get(owner)
            if not queue or key != (*self.standing(owner), queue[0].created):
                heapq.heappop(heap)  # from before: the owner's present entry is in the heap too
            elif self.running[owner] >= self.most:
                held.append(heapq.heappop(heap))
            else:
                found = queue[0]
                break
        for entry in held:
            heapq.heappush(heap, entry)
        return found

    def standing(self, owner: str) -> tuple[float, float, float]:
        """What owners are ordered by, least first: what they occupy, what they have used, when they began."""
        share = self.shares.get(owner, 1.0)
        # Rounded: parts of GPUs, added and taken away, leave dust that is nobody's use.
        load = round(self._load.get(owner, 0.0) / share, 9)
        return load, self._used.get(owner, 0.0) / share, self._served.get(owner, float("-inf"))

    def begin(self, job: Waiting, cost: float, now: float) -> None:
        """A job starts on something that costs `cost` (GPUs)."""
        self.remove(job.id)
        self.running[job.owner] += 1
        self._load[job.owner] += cost
        self._served[job.owner] = now
        self._changed(job.owner)

    def end(self, owner: str, cost: float, seconds: float, now: float) -> None:
        """A job has ended, or was taken away from its worker."""
        self.running[owner] -= 1
        self._load[owner] = self._load[owner] - cost if self.running[owner] else 0.0
        if now - self._origin > _RESCALE * _HALF_LIFE:
            self._rescale(now)
        # Uses are not made smaller as they age: later ones count for more, which gives the same order.
        self._used[owner] += cost * seconds * 2 ** ((now - self._origin) / _HALF_LIFE)
        self._changed(owner)

    def _changed(self, owner: str) -> None:
        for model in self._of_owner.get(owner, ()):
            self._offer(model, owner)

    def _offer(self, model: Model, owner: str) -> None:
        heap, queues = self._heaps[model], self.queues[model]
        heapq.heappush(heap, self._entry(model, owner))
        if len(heap) > 64 + 4 * len(queues):  # mostly entries from before
            self._heaps[model] = [self._entry(model, other) for other in queues]
            heapq.heapify(self._heaps[model])

    def _entry(self, model: Model, owner: str) -> tuple[tuple[float, ...], str]:
        return (*self.standing(owner), self.queues[model][owner][0].created), owner

    def _rescale(self, now: float) -> None:
        factor = 2 ** (-(now - self._origin) / _HALF_LIFE)
        self._origin = now
        self._used = defaultdict(float, {owner: use * factor for owner, use in self._used.items()})
        for model in self.models():
            self._heaps[model] = [self._entry(model, owner) for owner in self.queues[model]]
            heapq.heapify(self._heaps[model])
