"""What a page asks of a model runs on one thread per model, in order."""

from __future__ import annotations

import gc
import threading
import time
import weakref

from nbsight.widgets.worker import Job, worker_for


class Owner:
    """Something that stands for a model."""


def run(worker, work) -> Job:
    job = Job()
    worker.submit(work, job)
    return job


def test_requests_for_one_model_share_a_thread_and_keep_their_order():
    owner, seen = Owner(), []
    jobs = [
        run(worker_for(owner), lambda i=i: seen.append((i, threading.current_thread()))) for i in range(20)
    ]
    jobs[-1].future.result(10)
    assert [i for i, _ in seen] == list(range(20))
    assert len({thread for _, thread in seen}) == 1
    assert seen[0][1] is not threading.main_thread()


def test_two_models_do_not_wait_for_each_other():
    first, second = Owner(), Owner()
    gate = threading.Event()
    waiting = run(worker_for(first), gate.wait)
    free = run(worker_for(second), lambda: None)
    free.future.result(10)
    assert not waiting.future.done()
    gate.set()
    waiting.future.result(10)


def test_work_that_is_taken_back_in_the_queue_is_never_done():
    worker, gate, done = worker_for(owner := Owner()), threading.Event(), []
    first = run(worker, gate.wait)
    second = run(worker, lambda: done.append("second"))
    third = run(worker, lambda: done.append("third"))
    second.cancel()
    gate.set()
    third.future.result(10)
    assert first.future.done()
    assert done == ["third"]
    assert owner is not None


def test_running_work_can_see_that_it_was_taken_back():
    worker, started, steps = worker_for(owner := Owner()), threading.Event(), []
    job = Job()

    def long_work():
        while not job.cancelled and len(steps) < 1000:
            steps.append(1)
            started.set()
            time.sleep(0.005)

    worker.submit(long_work, job)
    assert started.wait(10)
    job.cancel()
    run(worker, lambda: None).future.result(10)
    assert len(steps) < 1000
    assert owner is not None


def test_a_worker_does_not_keep_its_model_alive():
    owner = Owner()
    run(worker_for(owner), lambda: None).future.result(10)
    alive = weakref.ref(owner)
    del owner
    gc.collect()
    assert alive() is None
