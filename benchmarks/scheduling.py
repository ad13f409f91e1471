"""A day in a large cluster, on the server's own scheduler: a thousand GPUs, ten thousand people.

    python -m benchmarks.scheduling            minutes; the table of docs/scheduling.md
    python -m benchmarks.scheduling --small    seconds

Only the clock, the jobs and the machines are made up. What starts where, and when a model comes and
goes, is decided by `nbsight.server.scheduling`, which the server runs.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from nbsight.server.scheduling.places import Node, Size
from nbsight.server.scheduling.scheduler import Give, Policy, Scheduler, Seat, Start
from nbsight.server.scheduling.turns import Turns, Waiting

__all__ = ["Arrival", "Cluster", "Outcome", "arrivals", "loading_seconds", "simulate"]

GB = 2**30


@dataclass(frozen=True)
class Arrival:
    """A job that somebody sends.

    Args:
        time: When, in seconds.
        owner: Who.
        model: For which model.
        seconds: How long it will run.
    """

    time: float
    owner: str
    model: str
    seconds: float


@dataclass(frozen=True)
class Cluster:
    """The machines and what they serve.

    Args:
        nodes: How many machines.
        gpus: GPUs of each.
        gpu_memory: Bytes of each GPU.
        sizes: Bytes of each model with what its forwards need.
    """

    nodes: int
    gpus: int
    gpu_memory: int
    sizes: dict[str, int]


@dataclass
class Outcome:
    """What happened; times in seconds, one entry per job in the order of their ends.

    Args:
        waits: From a job's arrival to its last start.
        owners: Whose it was.
        began: When it came.
        busy: GPU-seconds with a job, held without one, and of loading.
        loads: How often a model was loaded, from elsewhere and from a machine's own disk.
        evictions: How often a worker made room.
        lost: How many jobs began again because their worker was lost.
        decisions: Seconds of this computer that deciding took.
    """

    waits: list[float] = field(default_factory=list)
    owners: list[str] = field(default_factory=list)
    began: list[float] = field(default_factory=list)
    jobs: list[int] = field(default_factory=list)
    busy: Counter[str] = field(default_factory=Counter)
    loads: Counter[str] = field(default_factory=Counter)
    evictions: int = 0
    lost: int = 0
    decisions: float = 0.0
    end: float = 0.0


def loading_seconds(size: int, is_warm: bool) -> float:
    """What a load takes: a start of torch, then 2 GB/s from the store or 10 from the machine's own disk."""
    return 15.0 + size / (10 * GB if is_warm else 2 * GB)


def simulate(
    work: Iterable[Arrival],
    cluster: Cluster,
    policy: Policy,
    *,
    running: int = 32,
    shares: dict[str, float] | None = None,
    deaths: Iterable[float] = (),
    watch: Callable[[Scheduler, list[Give]], None] | None = None,
) -> Outcome:
    """Let a scheduler serve the jobs until all have ended.

    Args:
        work: The jobs, in order of time.
        cluster: The machines.
        policy: How the scheduler weighs.
        running: Jobs of one owner that run at a time.
        shares: What owners may use beside the others.
        deaths: When a worker is lost, whichever has lived longest.
        watch: Called with each round of jobs that are given, before they run.
    """
    return _Simulation(cluster, policy, running, shares or {}, watch).run(work, deaths)


class _Simulation:
    def __init__(
        self,
        cluster: Cluster,
        policy: Policy,
        running: int,
        shares: dict[str, float],
        watch: Callable[[Scheduler, list[Give]], None] | None,
    ) -> None:
        self.cluster = cluster
        nodes = [Node(str(n), 0, [1.0] * cluster.gpus, cluster.gpu_memory) for n in range(cluster.nodes)]
        sizes = {model: Size(size) for model, size in cluster.sizes.items()}
        self.scheduler = Scheduler(Turns(running, shares), policy, {node.id: node for node in nodes}, sizes)
        self.watch = watch
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.count = itertools.count()
        self.now = 0.0
        self.seconds: dict[str, float] = {}
        self.jobs: dict[Seat, Waiting] = {}
        self.left = 0
        self.outcome = Outcome()

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.events, (when, next(self.count), what))

    def run(self, work: Iterable[Arrival], deaths: Iterable[float]) -> Outcome:
        arriving = iter(work)
        self._next(arriving)
        for when in deaths:
            self.at(when, self._die)
        self.at(0.0, self._tick)
        while self.events:
            self.now, _, what = heapq.heappop(self.events)
            what()
        self.outcome.end = self.now
        return self.outcome

    def _next(self, arriving: Iterable[Arrival]) -> None:
        arrival = next(iter(arriving), None)
        if arrival is not None:
            self.left += 1
            self.at(arrival.time, lambda: self._arrive(arrival, arriving))

    def _arrive(self, arrival: Arrival, arriving: Iterable[Arrival]) -> None:
        job = Waiting(str(len(self.seconds)), arrival.owner, self.now)
        self.seconds[job.id] = arrival.seconds
        self._next(arriving)
        begun = time.process_time()
        self.scheduler.turns.add(job, arrival.model)
        self.outcome.decisions += time.process_time() - begun
        self._assign()

    def _assign(self) -> None:
        begun = time.process_time()
        given = self.scheduler.assign(self.now)
        self.outcome.decisions += time.process_time() - begun
        if given and self.watch is not None:
            self.watch(self.scheduler, given)
        for give in given:
            self.jobs[give.seat] = give.job
            self.at(self.now + self.seconds[give.job.id], lambda give=give: self._end(give))  # type: ignore[misc]

    def _end(self, give: Give) -> None:
        seat, job = give.seat, give.job
        if self.jobs.get(seat) is not job or seat.state == "gone":
            return  # its worker was lost meanwhile
        del self.jobs[seat]
        outcome = self.outcome
        outcome.waits.append(seat.began - job.created)
        outcome.owners.append(job.owner)
        outcome.began.append(job.created)
        outcome.jobs.append(int(job.id))
        outcome.busy["jobs"] += seat.grant.share * (self.now - seat.began)  # type: ignore[assignment]
        self.left -= 1
        begun = time.process_time()
        self.scheduler.ended(seat, self.now)
        outcome.decisions += time.process_time() - begun
        self._assign()

    def _tick(self) -> None:
        begun = time.process_time()
        found = self.scheduler.resize(self.now)
        self.outcome.decisions += time.process_time() - begun
        for item in found:
            if isinstance(item, Start):
                self._start(item)
            elif item.seat.state != "gone":
                self.outcome.evictions += 1
                self._leave(item.seat)
        self._assign()
        if self.left:
            self.at(self.now + 1.0, self._tick)

    def _start(self, start: Start) -> None:
        is_warm = start.model in start.node.held
        seat = Seat(start.model, start.node, start.grant, since=self.now)
        self.scheduler.joined(seat)
        self.outcome.loads["warm" if is_warm else "cold"] += 1
        seconds = loading_seconds(self.cluster.sizes[str(start.model)], is_warm)

        def ready() -> None:
            if seat.state == "loading":
                self.outcome.busy["loading"] += seat.grant.share * seconds  # type: ignore[assignment]
                self.scheduler.ready(seat, self.now)
                self._assign()

        self.at(self.now + seconds, ready)

    def _leave(self, seat: Seat) -> None:
        self.outcome.busy["held"] += seat.grant.share * (self.now - seat.since)  # type: ignore[assignment]
        self.scheduler.left(seat, self.now)

    def _die(self) -> None:
        seats = [seat for seats in self.scheduler.seats.values() for seat in seats]
        if not seats:
            return
        seat = min(seats, key=lambda seat: seat.since)
        job = self.jobs.pop(seat, None)
        self._leave(seat)
        if job is not None:
            self.outcome.lost += 1
            self.scheduler.turns.add(job, seat.model, front=True)


# -- who sends what --------------------------------------------------------------------------------


def arrivals(
    people: int, models: list[str], hours: list[float], *, mean: float, seed: int = 0
) -> list[Arrival]:
    """Jobs as people send them: some send much, in bursts, for a model of their own or a common one.

    Args:
        people: How many.
        models: From the most to the least used; use falls with the rank.
        hours: Jobs per second of all, hour by hour.
        mean: Seconds of a job, on average; half of them take less than a third of it.
        seed: Of what is random.
    """
    dice = np.random.default_rng(seed)
    activity = dice.lognormal(0.0, 1.5, people)
    activity /= activity.sum()
    use = 1.0 / np.arange(1, len(models) + 1)
    favourites = dice.choice(len(models), (people, 2), p=use / use.sum())
    found: list[Arrival] = []
    sigma = 1.6
    for hour, rate in enumerate(hours):
        bursts = dice.poisson(rate * 3600 / 10)
        for owner in dice.choice(people, bursts, p=activity):
            start = hour * 3600 + dice.uniform(0, 3600)
            model = models[favourites[owner, int(dice.random() < 0.2)]]
            for number in range(dice.geometric(0.1)):  # ten jobs on average: a loop over prompts
                seconds = min(mean * np.exp(sigma * dice.standard_normal() - sigma**2 / 2), 600.0)
                found.append(Arrival(start + 0.2 * number, f"p{owner}", model, max(0.05, float(seconds))))
    return sorted(found, key=lambda arrival: arrival.time)


#: Billions of parameters, two bytes each, from the most used model to the least: small and large mixed.
_BILLIONS = [8, 1, 70, 3, 14, 7, 0.5, 32, 9, 2, 27, 13, 235, 4, 20, 1, 7, 70, 8, 3]


def large_cluster() -> Cluster:
    """A thousand GPUs of 80 GB, eight to a machine; sixty models from 0.5 to 235 billion parameters."""
    sizes = {f"m{rank}": int(2e9 * _BILLIONS[rank % len(_BILLIONS)] * 1.2) + GB for rank in range(60)}
    return Cluster(125, 8, 80 * GB, sizes)


def shares_of(people: int, seed: int = 1) -> dict[str, float]:
    """One in ten has twice the share, one in a hundred four times."""
    dice = random.Random(seed)
    drawn = {f"p{number}": dice.random() for number in range(people)}
    return {owner: 4.0 if value < 0.01 else 2.0 for owner, value in drawn.items() if value < 0.11}


def report(outcome: Outcome, cluster: Cluster, shares: dict[str, float], hours: int) -> list[tuple[str, str]]:
    """The table of docs/scheduling.md."""
    waits, hour = np.array(outcome.waits), np.array(outcome.began) // 3600
    share = np.array([shares.get(owner, 1.0) for owner in outcome.owners])
    sent = Counter(outcome.owners)
    sends = np.array([sent[owner] for owner in outcome.owners])
    total = cluster.nodes * cluster.gpus * outcome.end
    rows = [("jobs", f"{len(waits):,}"), ("people who sent some", f"{len(sent):,}")]

    def row(name: str, chosen: np.ndarray) -> None:
        if chosen.any():
            half, most = np.percentile(waits[chosen], [50, 95])
            rows.append((f"wait, {name}", f"{half:.1f} · {most:.0f} · {waits[chosen].max():.0f} s"))

    everybody = np.ones(len(waits), bool)
    row("all (median · 95 % · longest)", everybody)
    for number in range(hours):
        row(f"hour {number + 1}", hour == number)
    peak = hour == 1
    for value in (1.0, 2.0, 4.0):
        row(f"in the busiest hour, share {value:g}", peak & (share == value))
    row("in the busiest hour, people with at most 20 jobs", peak & (sends <= 20))
    row("in the busiest hour, people with more than 500", peak & (sends > 500))
    rows += [
        (
            "GPU time: jobs · loading",
            f"{outcome.busy['jobs'] / total:.0%} · {outcome.busy['loading'] / total:.0%}",
        ),
        ("loads: cold · warm", f"{outcome.loads['cold']:,} · {outcome.loads['warm']:,}"),
        ("workers that made room or idled", f"{outcome.evictions:,}"),
        ("deciding, per job", f"{outcome.decisions / len(waits) * 1e6:.0f} µs"),
    ]
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--small", action="store_true", help="a twentieth of it")
    parser.add_argument("--rates", type=float, nargs="+", default=[60.0, 180.0, 60.0, 20.0])
    parser.add_argument("--mean", type=float, default=15.0)
    given = parser.parse_args()
    cluster, people, rates = large_cluster(), 10_000, given.rates
    if given.small:
        sizes = dict(itertools.islice(cluster.sizes.items(), 12))
        cluster, people, rates = Cluster(8, 8, 80 * GB, sizes), 500, [rate / 16 for rate in rates]
    shares = shares_of(people)
    work = arrivals(people, list(cluster.sizes), rates, mean=given.mean)
    policy = Policy(idle=600.0, patience=60.0)
    begun = time.process_time()
    outcome = simulate(work, cluster, policy, shares=shares)
    for name, value in report(outcome, cluster, shares, len(rates)):
        print(f"| {name} | {value} |")
    print(f"simulated {outcome.end / 3600:.1f} hours in {time.process_time() - begun:.0f} s")


if __name__ == "__main__":
    main()
