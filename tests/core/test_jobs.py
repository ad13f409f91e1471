"""Jobs as records: how fast, how long still, and how often that is told."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from nbsight.core import in_cell, jobs
from nbsight.core.in_cell import InCell
from nbsight.core.job_rows import PULSE, Pace, job_row
from nbsight.core.jobs import Job


@pytest.fixture
def clock(monkeypatch):
    """Time that goes on only when told to."""

    class Clock:
        now = 1000.0

    for name in ("time", "monotonic"):
        monkeypatch.setattr(jobs.time, name, lambda: Clock.now)
    return Clock


def test_rate_and_time_left_are_those_of_the_last_half_minute(clock):
    job = Job("sweep", total=100)
    assert (job.rate, job.left) == (None, None)
    job.start()
    for _ in range(20):
        clock.now += 0.5
        job.advance(2)
    assert job.rate == pytest.approx(4.0)
    assert job.left == pytest.approx(60 / 4)
    for _ in range(40):  # it becomes slower: after half a minute the beginning counts no more
        clock.now += 1.0
        job.advance(1)
    assert job.rate == pytest.approx(1.0)
    assert job.left == pytest.approx(20.0)


def test_what_was_done_before_makes_a_job_no_faster(clock):
    job = Job("sweep", total=72)
    job.start(60)
    clock.now += 3.0
    job.advance(to=66)
    assert job.rate == pytest.approx(2.0)
    assert job.left == pytest.approx(3.0)


def test_a_queue_is_told_and_over_with_the_start():
    job = Job("trace", kind="remote")
    job.wait(place=3, eta=40.0, note="waits for a worker")
    row = job_row(job)
    assert (row["state"], row["place"], row["left"], row["note"]) == ("queued", 3, 40.0, "waits for a worker")
    job.start()
    assert (job.place, job.left) == (None, None)


def test_a_job_is_found_by_its_id_and_the_others_are_named_else():
    job = Job("sweep")
    assert jobs.find(job.id) is job
    with pytest.raises(LookupError, match=f"no job 'job-x'.*{job.id}"):
        jobs.find("job-x")


def test_a_result_that_nobody_keeps_goes():
    class Found:
        pass

    job, found = Job("sweep"), Found()
    job.finish(found)
    assert job.result is found
    assert job_row(job)["result"] == "Found"
    del found
    assert job.result is None
    assert job_row(job)["result"] == ""


def test_a_busy_job_is_told_ten_times_a_second_and_its_end_at_once():
    told = []
    pace = Pace(lambda job: told.append((time.monotonic(), job.done, job.state)))
    job = Job("sweep", total=10**6)
    job.start()
    began = time.monotonic()
    while time.monotonic() - began < 0.65:
        job.advance()
        pace.note(job)
    count = job.done
    job.finish()
    pace.note(job)
    assert count > 50
    assert len(told) <= 0.65 / PULSE + 3
    assert told[-1][1:] == (count, "done")
    gaps = [later[0] - earlier[0] for earlier, later in itertools.pairwise(told[:-1])]
    assert min(gaps[1:]) > 0.6 * PULSE


def test_the_last_word_of_a_burst_is_not_lost():
    told = []
    pace = Pace(lambda job: told.append(job.done))
    job = Job("sweep", total=9)
    for _ in range(5):
        job.advance()
        pace.note(job)
    time.sleep(3 * PULSE)
    assert told[-1] == 5
    assert len(told) == 2


def test_telling_may_take_a_lock_that_a_worker_holds_while_it_notes():
    """Two threads, two locks: no order of them may stop both."""
    lock = threading.RLock()

    def tell(job):
        with lock:
            pass

    pace = Pace(tell)

    def work(job):
        for _ in range(2000):
            with lock:
                pace.note(job)
            job.advance()

    threads = [threading.Thread(target=work, args=(Job(f"{n}"),), daemon=True) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


# -- under a cell ------------------------------------------------------------------------------


@pytest.fixture
def shown(monkeypatch):
    """What was presented and left, in order."""
    said: list[tuple[str, str]] = []

    def present(job):
        said.append(("shown", job.title))
        return lambda: said.append(("left", job.title))

    monkeypatch.setattr(in_cell, "presenters", [present])
    return said


def test_fast_work_is_not_shown(shown):
    cell = InCell(Job("fast"))
    cell.look()
    cell.close()
    assert shown == []


def test_slow_work_is_shown_once_and_left_at_its_end(shown, monkeypatch):
    monkeypatch.setattr(in_cell, "PATIENCE", 0.05)
    cell = InCell(Job("slow"))
    for _ in range(4):
        time.sleep(0.03)
        cell.look()
    cell.close()
    cell.look()
    assert shown == [("shown", "slow"), ("left", "slow")]


def test_work_on_another_thread_shows_nothing_under_whatever_cell_runs(shown):
    found = []
    thread = threading.Thread(target=lambda: found.append(InCell(Job("beside"), at_once=True).is_possible))
    thread.start()
    thread.join()
    assert found == [False]


def test_without_anybody_to_show_it_the_work_has_to_show_itself(monkeypatch):
    monkeypatch.setattr(in_cell, "presenters", [])
    assert not InCell(Job("alone")).is_possible
    monkeypatch.setattr(in_cell, "presenters", [lambda job: None])
    cell = InCell(Job("refused"), at_once=True)
    assert cell.is_possible
    cell.look()
    assert not cell.is_possible
