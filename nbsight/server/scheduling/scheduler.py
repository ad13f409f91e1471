"""What to do now: which worker gets which job, which model gets a worker more, which worker ends."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Literal

from nbsight.server.scheduling.places import Grant, Node, Size, best_node
from nbsight.server.scheduling.turns import Model, Turns, Waiting

__all__ = ["Give", "Policy", "Scheduler", "Seat", "Start", "Stop"]

#: What a load takes until one was seen, and what a job takes; seconds.
_LOAD, _JOB = 30.0, 1.0

#: How much the last one counts in such a mean.
_NEWEST = 0.2


@dataclass(frozen=True)
class Policy:
    """How a scheduler weighs.

    Args:
        workers: Workers of one model, at most.
        models: Models that are held beside the fixed ones, at most.
        fixed: Models that always have a worker.
        worth: Another worker is started for a model when its queue would take longer than this many
            loads; 0 starts one whenever jobs wait.
        idle: Seconds without a job after which a worker ends, unless it is a fixed model's last.
        patience: Seconds for which jobs wait for a place before a busy worker has to make room.
    """

    workers: int = 2**31
    models: int = 2**31
    fixed: tuple[Model, ...] = ()
    worth: float = 1.0
    idle: float = math.inf
    patience: float = 60.0


@dataclass(eq=False)
class Seat:
    """A worker, as far as it matters here.

    Args:
        model: What it holds.
        node: Where it is.
        grant: What it has there.
        since: When its start was decided.
    """

    model: Model
    node: Node
    grant: Grant
    since: float = 0.0
    state: Literal["loading", "idle", "busy", "gone"] = "loading"
    #: Whose job it runs, and since when.
    owner: str = ""
    began: float = 0.0
    #: When its last job ended.
    used: float = 0.0
    #: Whether it ends as soon as it has no job.
    is_leaving: bool = False


@dataclass(frozen=True)
class Give:
    """A job to a worker."""

    seat: Seat
    job: Waiting


@dataclass(frozen=True)
class Start:
    """A worker for a model."""

    model: Model
    node: Node
    grant: Grant


@dataclass(frozen=True)
class Stop:
    """The end of a worker that runs no job."""

    seat: Seat


@dataclass(frozen=True)
class _Claim:
    """Who wants a place: the model, whether it has waited too short a time to push others out, whether it has
    a worker already, and what its next owner occupies and may."""

    model: Model
    is_patient: bool
    has_worker: bool
    load: float
    share: float


@dataclass
class Scheduler:
    """The jobs that wait, the workers and the machines.

    Whoever owns one tells it what happens (`joined`, `ready`, `ended`, `left`, and jobs through `turns`)
    and carries out what it returns.

    Args:
        turns: The jobs that wait.
        policy: How it weighs.
        nodes: The machines.
        sizes: What models take; one whose size is not known yet is not started.
    """

    turns: Turns
    policy: Policy
    nodes: dict[str, Node] = field(default_factory=dict)
    sizes: dict[Model, Size] = field(default_factory=dict)
    seats: dict[Model, list[Seat]] = field(default_factory=lambda: defaultdict(list))
    on_node: dict[str, list[Seat]] = field(default_factory=lambda: defaultdict(list))
    loads: dict[Model, float] = field(default_factory=dict)
    seconds: dict[Model, float] = field(default_factory=dict)
    #: Since when jobs of a model wait for a place, and the machine that is being cleared for it.
    wanting: dict[Model, float] = field(default_factory=dict)
    claims: dict[Model, str] = field(default_factory=dict)
    #: Models that are to be held although no job waits for them; models that could not be loaded.
    asked: set[Model] = field(default_factory=set)
    broken: set[Model] = field(default_factory=set)
    #: Workers that stay, by model; workers without a job.
    _staying: Counter[Model] = field(default_factory=Counter)
    _idle: dict[Model, dict[Seat, None]] = field(default_factory=lambda: defaultdict(dict))

    # -- what happens --------------------------------------------------------------------------

    def joined(self, seat: Seat) -> None:
        """A worker is being started."""
        seat.node.take(seat.grant)
        self.asked.discard(seat.model)
        self.seats[seat.model].append(seat)
        self._staying[seat.model] += 1
        self.on_node[seat.node.id].append(seat)

    def ready(self, seat: Seat, now: float) -> None:
        """It has loaded its model."""
        seat.state, seat.used = "idle", now
        self._idle[seat.model][seat] = None
        self._learn(self.loads, seat.model, now - seat.since)

    def ended(self, seat: Seat, now: float) -> None:
        """Its job has ended."""
        self._let_go(seat, now)
        self._learn(self.seconds, seat.model, now - seat.began)
        seat.state = "idle"
        self._idle[seat.model][seat] = None

    def left(self, seat: Seat, now: float) -> None:
        """It is gone, with or without a job."""
        if seat.state == "busy":
            self._let_go(seat, now)
        seat.state = "gone"
        self._idle[seat.model].pop(seat, None)
        self._staying[seat.model] -= not seat.is_leaving
        self.seats[seat.model].remove(seat)
        self.on_node[seat.node.id].remove(seat)
        seat.node.give_back(seat.grant)
        seat.node.held[seat.model] = now

    def _let_go(self, seat: Seat, now: float) -> None:
        self.turns.end(seat.owner, seat.grant.cost, now - seat.began, now)
        seat.owner, seat.used = "", now

    def _learn(self, means: dict[Model, float], model: Model, value: float) -> None:
        means[model] = value + (1 - _NEWEST) * (means.get(model, value) - value)

    # -- jobs to workers -----------------------------------------------------------------------

    def assign(self, now: float) -> list[Give]:
        """A job for every worker that has none; `now` in seconds, on any clock."""
        given = []
        for model in [model for model, seats in self._idle.items() if seats and self.turns.counts[model]]:
            for seat in list(self._idle[model]):
                if seat.is_leaving:
                    continue
                job = self.turns.next(model)
                if job is None:
                    break
                self.turns.begin(job, seat.grant.cost, now)
                seat.state, seat.owner, seat.began = "busy", job.owner, now
                del self._idle[model][seat]
                given.append(Give(seat, job))
        return given

    # -- workers to models ---------------------------------------------------------------------

    def resize(self, now: float) -> list[Start | Stop]:
        """Workers to start and to end."""
        found: list[Start | Stop] = []
        for seats in self._idle.values():
            for seat in seats:
                if seat.is_leaving or self._has_idled(seat, now):
                    found += self._dismiss([seat])
        wanting = self._wanting()
        self.wanting = {model: self.wanting.get(model, now) for model in wanting}
        self.claims = {model: node for model, node in self.claims.items() if model in wanting}
        starts: list[Start] = []
        for model in wanting:
            for item in self._place(model, now, {start.model for start in starts}):
                if isinstance(item, Start):
                    item.node.take(item.grant)  # from the models that are looked at after it
                    starts.append(item)
                else:
                    found.append(item)
        for start in starts:  # whoever starts it says so, by `joined`
            start.node.give_back(start.grant)
        return found + starts

    def _has_idled(self, seat: Seat, now: float) -> bool:
        return (
            now - seat.used > self.policy.idle
            and not self.turns.counts[seat.model]
            and not self._is_last_fixed(seat)
        )

    def _is_last_fixed(self, seat: Seat) -> bool:
        return seat.model in self.policy.fixed and self._staying[seat.model] <= 1

    def _wanting(self) -> list[Model]:
        """The models that are to have a worker more; first those with none, then by who waits."""
        order: list[tuple[bool, tuple[float, ...], int, Model]] = []
        for model in dict.fromkeys([*self.policy.fixed, *self.asked, *self.turns.models()]):
            if model not in self.sizes or not self._wants(model):
                continue
            job = self.turns.next(model)
            standing = self.turns.standing(job.owner)[:2] if job is not None else (math.inf, 0.0)
            order.append((self._staying[model] > 0, standing, len(order), model))
        return [model for *_, model in sorted(order, key=lambda item: item[:3])]

    def _wants(self, model: Model) -> bool:
        count = self._staying[model]
        if not count:
            is_kept = model in self.policy.fixed and model not in self.broken
            return is_kept or model in self.asked or self.turns.runnable(model, 1) > 0
        loading = sum(seat.state == "loading" and not seat.is_leaving for seat in self.seats[model])
        # At most twice as many at a time: what is loading may be enough.
        if count >= self.policy.workers or loading > count - loading:
            return False
        if loading and not self.policy.worth:
            return False
        load = self.loads.get(model, _LOAD)
        each = max(self.seconds.get(model, _JOB), 1e-3)
        enough = max(1, math.ceil(self.policy.worth * load * count / each))
        return self.turns.runnable(model, enough) >= enough

    def _place(self, model: Model, now: float, started: set[Model]) -> list[Start | Stop]:
        """A worker for a model where there is room; else the beginning of room."""
        size = self.sizes[model]
        taken = {node for other, node in self.claims.items() if other != model}
        if not self.seats.get(model) and not self._may_be_held(model, started):
            return self._clear_model(model, now)
        if model in self.claims:
            nodes = [self.nodes[self.claims[model]]] if self.claims[model] in self.nodes else []
        else:
            nodes = [node for node in self.nodes.values() if node.id not in taken]
        found = best_node(nodes, model, size)
        if found is not None:
            self.claims.pop(model, None)
            self.wanting.pop(model, None)
            return [Start(model, *found)]
        if model in self.claims:
            if any(seat.is_leaving for seat in self.on_node.get(self.claims[model], ())):
                return []
            del self.claims[model]  # somebody who was to leave is gone, and it does not fit all the same
        return self._clear(model, size, [node for node in self.nodes.values() if node.id not in taken], now)

    def _clear(self, model: Model, size: Size, nodes: list[Node], now: float) -> list[Start | Stop]:
        """Choose who leaves so that a model fits: whoever is needed least."""
        best: tuple[float, Node, list[Seat]] | None = None
        claim = self._claim(model, now)
        for node in nodes:
            leaving: list[Seat] = []
            total = 0.0
            for cost, _, _, seat in self._by_cost(node, claim, now):
                if node.fit(size, [other.grant for other in leaving]) is not None:
                    break
                leaving.append(seat)
                total += cost
            fits = leaving and node.fit(size, [seat.grant for seat in leaving]) is not None
            if fits and (best is None or total < best[0]):
                best = total, node, leaving
        if best is None:
            return []
        self.claims[model] = best[1].id
        return self._dismiss(best[2])

    def _dismiss(self, seats: list[Seat]) -> list[Start | Stop]:
        for seat in seats:
            self._staying[seat.model] -= not seat.is_leaving
            seat.is_leaving = True
        return [Stop(seat) for seat in seats if seat.state == "idle"]

    def _by_cost(self, node: Node, claim: _Claim, now: float) -> list[tuple[float, float, int, Seat]]:
        """Who may leave a machine for a model, and what that costs: nothing for those nobody needs."""
        order = []
        for number, seat in enumerate(self.on_node.get(node.id, ())):
            cost = 0.0 if seat.is_leaving else self._cost(seat, claim, now)
            if cost is not None:
                order.append((cost, seat.used, number, seat))
        return sorted(order, key=lambda item: item[:3])

    def _claim(self, model: Model, now: float) -> _Claim:
        is_patient = now - self.wanting.get(model, now) < self.policy.patience
        job = self.turns.next(model) if self._staying[model] else None
        load = -math.inf
        if job is not None:
            load = self.turns.standing(job.owner)[0]
        elif self._staying[model]:
            is_patient = True
        share = 1.0 if job is None else self.turns.shares.get(job.owner, 1.0)
        return _Claim(model, is_patient, self._staying[model] > 0, load, share)

    def _cost(self, seat: Seat, claim: _Claim, now: float) -> float | None:
        """What it costs that a worker leaves for a model's sake; None if it may not."""
        if seat.model == claim.model or seat.state == "loading":
            return None
        if seat.state == "idle" and not self.turns.counts[seat.model]:
            return None if self._is_last_fixed(seat) else 0.0
        if claim.is_patient or self._is_last_fixed(seat):
            return None
        staying = self._staying[seat.model]
        if claim.has_worker:
            # Another one, only from an owner who has more than the one who waits would have then.
            if not seat.owner or staying <= 1:
                return None
            here = self.turns.standing(seat.owner)[0]
            return 1.0 + 1.0 / staying if here > claim.load + seat.grant.cost / claim.share else None
        if staying <= 1:  # models take turns, and each stays long enough to be worth its load
            rest = now - seat.since - 2 * self.loads.get(seat.model, _LOAD)
            return None if rest < self.policy.patience else 100.0
        return 1.0 + 1.0 / staying

    # -- a limit on the number of models -------------------------------------------------------

    def _held_beside(self) -> set[Model]:
        held = {model for model, count in self._staying.items() if count}
        return held - set(self.policy.fixed)

    def _may_be_held(self, model: Model, started: set[Model]) -> bool:
        held = self._held_beside() | (started - set(self.policy.fixed))
        return model in self.policy.fixed or len(held) < self.policy.models

    def _clear_model(self, model: Model, now: float) -> list[Start | Stop]:
        """Let all workers of one model leave; the start comes with the next look."""
        order: list[tuple[float, float, int, Model]] = []
        claim = self._claim(model, now)
        for other in self._held_beside():
            seats = [seat for seat in self.seats[other] if not seat.is_leaving]
            costs = [cost for seat in seats if (cost := self._cost(seat, claim, now)) is not None]
            if len(costs) == len(seats):
                order.append((sum(costs), max(seat.used for seat in seats), len(order), other))
        if not order:
            return []
        return self._dismiss([seat for seat in self.seats[min(order)[3]] if not seat.is_leaving])

    # -- what cannot be ------------------------------------------------------------------------

    def never_fits(self, model: Model) -> bool:
        """Whether no machine that is there could hold a model, were it empty."""
        size = self.sizes.get(model)
        if size is None or not self.nodes:
            return False
        return all(
            node.fit(size, [seat.grant for seat in self.on_node.get(node.id, ())]) is None
            for node in self.nodes.values()
        )
