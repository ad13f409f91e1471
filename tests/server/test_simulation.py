"""The simulation of a cluster, small: what must hold whatever is sent and whatever dies."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scheduling import GB, Arrival, Cluster, loading_seconds, simulate
from nbsight.server.scheduling.scheduler import Give, Policy, Scheduler

#: From a part of a GPU to two of them.
SIZES = {"small": 10 * GB, "middle": 40 * GB, "whole": 80 * GB, "large": 150 * GB}
SHARES = {"a": 2.0}
RUNNING = 3

jobs = st.lists(
    st.builds(
        Arrival,
        time=st.floats(0, 600),
        owner=st.sampled_from("abcdef"),
        model=st.sampled_from(sorted(SIZES)),
        seconds=st.floats(0.01, 60),
    ),
    max_size=120,
)
clusters = st.builds(
    Cluster,
    nodes=st.integers(1, 3),
    gpus=st.integers(2, 4),
    gpu_memory=st.just(80 * GB),
    sizes=st.just(SIZES),
)


def check_turns(scheduler: Scheduler, given: list[Give]) -> None:
    """Nobody was given more than his share while another waited for the same and had less."""
    turns = scheduler.turns
    for give in given:
        before = turns.standing(give.job.owner)[0] - give.seat.grant.cost / SHARES.get(give.job.owner, 1.0)
        for owner, queue in turns.queues[give.seat.model].items():
            if queue and turns.running[owner] < RUNNING and owner != give.job.owner:
                assert turns.standing(owner)[0] >= min(before, turns.standing(give.job.owner)[0]) - 1e-9


def check_places(scheduler: Scheduler) -> None:
    """No GPU holds more than it is."""
    for node in scheduler.nodes.values():
        held = Counter()
        for seat in scheduler.on_node[node.id]:
            for number, part in seat.grant.gpus:
                held[number] += part
            assert sum(part for _, part in seat.grant.gpus) * 80 * GB >= SIZES[seat.model]
        for number, free in enumerate(node.gpus):
            assert held[number] + free == pytest.approx(1)
            assert held[number] <= 1 + 1e-9


@settings(deadline=None)
@given(work=jobs, cluster=clusters, deaths=st.lists(st.floats(0, 900), max_size=5))
def test_every_job_ends_once_and_nobody_has_more_than_his_share_while_others_wait(work, cluster, deaths):
    work = sorted(work, key=lambda arrival: arrival.time)
    policy = Policy(idle=120.0, patience=30.0)
    seen: Counter[str] = Counter()

    def watch(scheduler: Scheduler, given: list[Give]) -> None:
        check_turns(scheduler, given)
        check_places(scheduler)
        seen.update(give.job.id for give in given)
        assert all(0 <= count <= RUNNING for count in scheduler.turns.running.values())

    outcome = simulate(work, cluster, policy, running=RUNNING, shares=SHARES, deaths=deaths, watch=watch)
    # Conservation: each job ended once, and began once for each time that its worker was lost.
    assert sorted(outcome.jobs) == list(range(len(work)))
    assert set(seen) == {str(number) for number in range(len(work))}
    assert sum(seen.values()) == len(work) + outcome.lost
    # Nobody starves: at worst all work is done one after the other, with a load and a wait for each model.
    load = max(loading_seconds(size, False) for size in SIZES.values())
    everything = sum(arrival.seconds for arrival in work) * (1 + outcome.lost)
    changes = sum(outcome.loads.values()) + len(deaths)
    assert outcome.end <= 1000 + everything + changes * (load + policy.patience + 2 * load + 2)
    assert all(wait >= 0 for wait in outcome.waits)


def test_who_sends_a_flood_does_not_keep_others_waiting():
    flood = [Arrival(0.001 * number, "flood", "whole", 10.0) for number in range(2000)]
    others = [Arrival(200.0 + 2 * number, f"o{number}", "whole", 10.0) for number in range(50)]
    work = sorted([*flood, *others], key=lambda arrival: arrival.time)
    cluster = Cluster(2, 4, 80 * GB, {"whole": 80 * GB})
    outcome = simulate(work, cluster, Policy(), running=100)
    waits = [wait for wait, owner in zip(outcome.waits, outcome.owners, strict=True) if owner != "flood"]
    # Eight GPUs are full of jobs of ten seconds; one is free every 1.25 s, and it goes to whoever has none.
    assert max(waits) <= 10.0
    alone = simulate(others, cluster, Policy(), running=100)
    assert len(alone.waits) == len(waits) == 50


def test_a_model_for_which_one_person_waits_gets_its_place_among_busy_ones():
    crowd = [
        Arrival(0.2 * number, f"p{number % 40}", "whole", 20.0) for number in range(4000)
    ]  # the four GPUs have twenty times the work they can do
    lonely = [Arrival(300.0, "lonely", "large", 5.0)]
    work = sorted([*crowd, *lonely], key=lambda arrival: arrival.time)
    cluster = Cluster(1, 4, 80 * GB, SIZES)
    outcome = simulate(work, cluster, Policy(patience=60.0), running=50)
    (wait,) = [wait for wait, owner in zip(outcome.waits, outcome.owners, strict=True) if owner == "lonely"]
    # A minute of patience, the end of a running job, a load, and some looks of the scheduler.
    assert wait <= 60 + 20 + loading_seconds(SIZES["large"], False) + 5


def test_shares_are_kept_where_everybody_waits():
    owners = {"one": 1.0, "two": 2.0, "four": 4.0}
    work = [Arrival(0.0, owner, "whole", 10.0) for _ in range(600) for owner in owners]
    cluster = Cluster(2, 7, 80 * GB, {"whole": 80 * GB})
    outcome = simulate(work, cluster, Policy(), running=100, shares=owners)
    until = sorted(outcome.waits)[len(outcome.waits) // 3]
    early = [owner for wait, owner in zip(outcome.waits, outcome.owners, strict=True) if wait <= until]
    begun = Counter(early)
    assert begun["two"] / begun["one"] == pytest.approx(2.0, rel=0.15)
    assert begun["four"] / begun["one"] == pytest.approx(4.0, rel=0.15)
