"""Turns, places and the decisions of the scheduler, without a server: the clock is a number."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nbsight.server.scheduling.places import Grant, Node, Size, best_node
from nbsight.server.scheduling.scheduler import Policy, Scheduler, Seat, Start, Stop
from nbsight.server.scheduling.turns import Turns, Waiting

MODEL = "m"

# -- turns -----------------------------------------------------------------------------------------


def in_turn(jobs: list[Waiting], turns: Turns, seconds=lambda job: 1.0) -> list[str]:
    """The order in which jobs start when each ends before the next one starts."""
    order, clock = [], 0.0
    for job in jobs:
        turns.add(job, MODEL)
    while (job := turns.next(MODEL)) is not None:
        turns.begin(job, 1.0, clock)
        clock += seconds(job)
        turns.end(job.owner, 1.0, seconds(job), clock)
        order.append(job.id)
    return order


def of(owner: str, count: int, created: float = 0.0) -> list[Waiting]:
    return [Waiting(f"{owner}{number:03}", owner, created + number) for number in range(count)]


def test_who_sends_a_hundred_jobs_does_not_keep_another_waiting():
    order = in_turn(of("a", 100) + of("b", 2, 200), Turns(10))
    assert order[:5] == ["a000", "b000", "a001", "b001", "a002"]


@given(st.lists(st.sampled_from("abc"), max_size=30))
def test_everybody_has_his_turn_and_his_own_order(owners):
    jobs = [Waiting(f"{owner}{number:02}", owner, number) for number, owner in enumerate(owners)]
    order = in_turn(jobs, Turns(10))
    assert sorted(order) == sorted(job.id for job in jobs)
    for owner in "abc":
        own = [job for job in order if job[0] == owner]
        assert own == sorted(own)
    # As long as several wait, none starts twice before another has started once.
    left = Counter(owners)
    for first, second in itertools.pairwise(order):
        left[first[0]] -= 1
        others = [owner for owner in "abc" if owner != first[0] and left[owner]]
        assert first[0] != second[0] or not others


def test_who_has_twice_the_share_has_twice_the_turns():
    order = in_turn(of("a", 40) + of("b", 40), Turns(10, {"a": 2.0}))
    begun = Counter(id_[0] for id_ in order[:30])
    assert begun["a"] == pytest.approx(20, abs=1)


def test_turns_are_of_time_and_not_of_jobs():
    order = in_turn(of("a", 10) + of("b", 100), Turns(10), lambda job: 10.0 if job.owner == "a" else 1.0)
    begun = Counter(id_[0] for id_ in order[:33])
    assert begun["a"] == pytest.approx(3, abs=1)


def test_nobody_runs_more_than_he_may():
    turns = Turns(2)
    for job in of("a", 5) + of("b", 5, 10):
        turns.add(job, MODEL)
    begun = []
    while (job := turns.next(MODEL)) is not None:
        turns.begin(job, 1.0, 0.0)
        begun.append(job.owner)
    assert Counter(begun) == {"a": 2, "b": 2}
    assert turns.runnable(MODEL, 99) == 0
    turns.end("a", 1.0, 1.0, 1.0)
    assert turns.next(MODEL).owner == "a"


def test_uses_are_forgotten_with_time_and_never_overflow():
    turns, clock = Turns(10), 0.0
    for _ in range(3000):  # two thousand half-lives
        clock += 400
        (job,) = of("a", 1)
        turns.add(job, MODEL)
        turns.begin(job, 1.0, clock)
        turns.end("a", 1.0, 1.0, clock)
    assert all(math.isfinite(value) for value in turns.standing("a"))
    assert 0 < turns.standing("a")[1] < math.inf


class TurnsAsAScan(RuleBasedStateMachine):
    """The heaps of `Turns` beside a plain look at everybody who waits."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns(3, {"a": 2.0})
        self.waiting: dict[str, list[list[Waiting]]] = {}
        self.queues: dict[tuple[str, str], list[Waiting]] = {}
        self.running: list[tuple[str, float]] = []
        self.clock = 0.0
        self.number = 0

    @rule(owner=st.sampled_from("abcd"), model=st.sampled_from("xy"), front=st.booleans())
    def add(self, owner, model, front):
        self.number += 1
        job = Waiting(str(self.number), owner, float(-self.number if front else self.number))
        queue = self.queues.setdefault((model, owner), [])
        queue.insert(0, job) if front else queue.append(job)
        self.turns.add(job, model, front=front)

    @precondition(lambda self: any(self.queues.values()))
    @rule(data=st.data())
    def remove(self, data):
        jobs = [job for queue in self.queues.values() for job in queue]
        job = data.draw(st.sampled_from(jobs))
        for queue in self.queues.values():
            if job in queue:
                queue.remove(job)
        assert self.turns.remove(job.id)
        assert not self.turns.remove(job.id)

    def scan(self, model):
        free = [
            queue[0]
            for (name, owner), queue in self.queues.items()
            if name == model and queue and sum(o == owner for o, _ in self.running) < 3
        ]
        return min(free, key=lambda job: (self.turns.standing(job.owner), job.created), default=None)

    @rule(model=st.sampled_from("xy"), cost=st.sampled_from([0.125, 1.0, 4.0]))
    def begin(self, model, cost):
        job = self.scan(model)
        assert self.turns.next(model) == job
        if job is not None:
            self.clock += 1
            self.turns.begin(job, cost, self.clock)
            self.queues[model, job.owner].remove(job)
            self.running.append((job.owner, cost))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), seconds=st.sampled_from([0.0, 1.0, 500.0, 1e6]))
    def end(self, data, seconds):
        owner, cost = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.clock += seconds
        self.turns.end(owner, cost, seconds, self.clock)

    @invariant()
    def is_the_same(self):
        for model in "xy":
            assert self.turns.next(model) == self.scan(model)
            jobs = [job for (name, _), queue in self.queues.items() if name == model for job in queue]
            assert sorted(job.id for job in self.turns.jobs(model)) == sorted(job.id for job in jobs)
            assert self.turns.counts[model] == len(jobs)
            places = sorted(self.turns.place(job.id) for job in jobs)
            assert places == list(range(1, len(jobs) + 1))
        for owner in "abcd":
            count = sum(len(queue) for (_, name), queue in self.queues.items() if name == owner)
            assert self.turns.queued(owner) == count
            load = sum(cost for name, cost in self.running if name == owner)
            assert self.turns.standing(owner)[0] == pytest.approx(load / (2.0 if owner == "a" else 1.0))


TestTurnsAsAScan = TurnsAsAScan.TestCase

# -- places ----------------------------------------------------------------------------------------

GB = 2**30


def test_a_small_model_gets_a_part_of_a_gpu_and_a_large_one_several():
    node = Node("n", 1000 * GB, [1.0, 1.0, 1.0, 1.0], 80 * GB)
    assert node.fit(Size(5 * GB)) == Grant(((0, 0.125),))
    assert node.fit(Size(30 * GB)) == Grant(((0, 0.5),))
    assert node.fit(Size(80 * GB)) == Grant(((0, 1.0),))
    assert node.fit(Size(200 * GB)).gpus == ((0, 1.0), (1, 1.0), (2, 1.0))
    assert node.fit(Size(321 * GB)) is None
    assert node.fit(Size(321 * GB, on_cpu=True)) == Grant(memory=321 * GB)


def test_parts_are_taken_from_the_gpu_that_is_fullest():
    node = Node("n", 0, [1.0, 0.5, 0.25], 80 * GB)
    assert node.fit(Size(20 * GB)).gpus == ((2, 0.25),)
    assert node.fit(Size(21 * GB)).gpus == ((1, 0.5),)


def test_a_machine_that_held_the_model_comes_first_and_then_the_fullest():
    nodes = [Node(name, 0, [part], 80 * GB) for name, part in (("a", 1.0), ("b", 0.5), ("c", 1.0))]
    assert best_node(nodes, MODEL, Size(10 * GB))[0].id == "b"
    nodes[2].held[MODEL] = 1.0
    assert best_node(nodes, MODEL, Size(10 * GB))[0].id == "c"
    assert best_node(nodes, MODEL, Size(100 * GB)) is None


@given(st.lists(st.integers(1, 400), max_size=40), st.randoms())
def test_what_is_taken_and_given_back_adds_up(sizes, random):
    node, grants = Node("n", 0, [1.0] * 4, 80), []
    for size in sizes:
        grant = node.fit(Size(size))
        if grant is not None:
            node.take(grant)
            grants.append(grant)
            assert sum(80 * part for _, part in grant.gpus) >= size
        elif grants:
            node.give_back(grants.pop(random.randrange(len(grants))))
        assert all(-1e-9 <= part <= 1 for part in node.gpus)
        assert sum(node.gpus) + sum(grant.share for grant in grants) == pytest.approx(4)


# -- decisions -------------------------------------------------------------------------------------


class Cluster:
    """A scheduler, and what is needed to carry out what it says at once."""

    def __init__(self, nodes: list[Node], sizes: dict[str, Size], **policy) -> None:
        policy = {"worth": 1.0, "patience": 10.0, **policy}
        self.it = Scheduler(Turns(4), Policy(**policy), {node.id: node for node in nodes}, sizes)

    def look(self, now: float) -> list:
        found = self.it.resize(now)
        for item in found:
            if isinstance(item, Start):
                seat = Seat(item.model, item.node, item.grant, since=now - 30)
                self.it.joined(seat)
                self.it.ready(seat, now)
            else:
                self.it.left(item.seat, now)
        return found

    def held(self) -> Counter:
        return Counter({model: len(seats) for model, seats in self.it.seats.items() if seats})


def one_gpu(*names: str) -> list[Node]:
    return [Node(name, 0, [1.0], 80) for name in names]


def test_a_fixed_model_is_held_without_jobs_and_another_one_once_it_has_some():
    cluster = Cluster(one_gpu("a", "b"), {"x": Size(80), "y": Size(80)}, fixed=("x",))
    cluster.look(0.0)
    assert cluster.held() == {"x": 1}
    cluster.it.turns.add(Waiting("1", "ada", 0.0), "y")
    cluster.look(1.0)
    assert cluster.held() == {"x": 1, "y": 1}


def test_an_idle_model_makes_room_at_once_and_a_busy_one_after_a_while():
    cluster = Cluster(one_gpu("a"), {"x": Size(80), "y": Size(80)})
    cluster.it.turns.add(Waiting("1", "ada", 0.0), "x")
    cluster.look(0.0)
    (give,) = cluster.it.assign(0.0)
    for number in range(100):
        cluster.it.turns.add(Waiting(f"x{number}", "ada", 1.0), "x")
    cluster.it.turns.add(Waiting("2", "bob", 1.0), "y")
    cluster.look(1.0)
    assert not give.seat.is_leaving
    assert cluster.look(60.0) == []
    assert give.seat.is_leaving  # it runs a job: nobody takes that away
    cluster.it.ended(give.seat, 61.0)
    assert cluster.it.assign(61.0) == []  # and it gets no other one
    assert [type(item) for item in cluster.look(61.0)] == [Stop]
    cluster.look(61.0)
    assert cluster.held() == {"y": 1}


def test_more_workers_come_when_a_queue_is_worth_their_loads():
    cluster = Cluster(one_gpu(*"abcdefgh"), {"x": Size(80)})
    cluster.it.loads["x"], cluster.it.seconds["x"] = 30.0, 1.0
    for owner in range(10):
        for number in range(4):
            cluster.it.turns.add(Waiting(f"{owner}-{number}", str(owner), 0.0), "x")
    cluster.look(0.0)
    assert cluster.held() == {"x": 1}
    cluster.look(1.0)  # forty seconds of work, thirty of loading
    assert cluster.held() == {"x": 2}
    cluster.look(2.0)  # twenty seconds each
    assert cluster.held() == {"x": 2}


def test_a_large_model_is_given_one_machine_cleared_of_small_ones():
    nodes = [Node("a", 0, [1.0, 1.0], 80), Node("b", 0, [1.0, 1.0], 80)]
    cluster = Cluster(nodes, {"large": Size(160), **{name: Size(80) for name in "wxyz"}})
    for name in "wxyz":
        cluster.it.turns.add(Waiting(name, "ada", 0.0), name)
    cluster.look(0.0)
    for give in cluster.it.assign(0.0):
        cluster.it.ended(give.seat, 1.0)
    cluster.it.turns.add(Waiting("1", "bob", 2.0), "large")
    assert len(cluster.look(2.0)) == 2
    cluster.look(2.0)
    assert cluster.held()["large"] == 1
    assert sum(cluster.held().values()) == 3


def test_what_fits_nowhere_is_known_and_what_fits_an_empty_machine_is_not_that():
    cluster = Cluster(one_gpu("a"), {"x": Size(80), "y": Size(81), "z": Size(1)})
    cluster.it.turns.add(Waiting("1", "ada", 0.0), "x")
    cluster.look(0.0)
    assert not cluster.it.never_fits("z")
    assert cluster.it.never_fits("y")


def test_a_worker_that_idles_ends_but_not_a_fixed_models_last():
    cluster = Cluster(one_gpu("a", "b"), {"x": Size(80), "y": Size(80)}, fixed=("x",), idle=60.0)
    cluster.it.turns.add(Waiting("1", "ada", 0.0), "y")
    cluster.look(0.0)
    (give,) = cluster.it.assign(0.0)
    cluster.it.ended(give.seat, 1.0)
    cluster.look(30.0)
    assert cluster.held() == {"x": 1, "y": 1}
    cluster.look(90.0)
    assert cluster.held() == {"x": 1}
