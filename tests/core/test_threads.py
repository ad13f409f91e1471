"""Threads that use one model at the same time do not notice each other."""

from __future__ import annotations

import os
import sys
import threading

import pytest
import torch

from nbsight.core.model import wrap
from tests.core.small import Chain, Counter, build, close, has_gates, hooked, rows, same


@pytest.fixture(autouse=True)
def often_switched():
    """Let the interpreter change threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def together(*works):
    """Run the works at the same time; returns what went wrong in them."""
    failures, start = [], threading.Barrier(len(works))

    def guarded(number, work):
        start.wait(60)
        try:
            work(number)
        except BaseException as error:  # also what must never get out of a trace
            failures.append(f"{number}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=guarded, args=pair) for pair in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(240)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    return failures


def expected(net, seeds):
    return {
        seed: (
            hooked(net, (rows(seed=seed),)),
            hooked(net, (rows(seed=seed),), edit={"h.1": lambda value: value * 0})[""][0],
        )
        for seed in seeds
    }


@pytest.mark.parametrize("count", [2, 4])
def test_two_hundred_traces_in_each_of_several_threads_are_all_right(count):
    net = build(Chain)
    model = wrap(net)
    want = expected(net, range(count))

    def work(number):
        x = rows(seed=number)
        for turn in range(200):
            kind = turn % 4
            if kind == 0:
                with model.trace(x):
                    state = model.h[turn % 3].output
                    final = model.output
                assert same(state, want[number][0][f"h.{turn % 3}.output"][0])
                assert same(final, want[number][0][""][0])
            elif kind == 1:
                with model.trace(x):
                    model.h[1].output[:] = 0
                    final = model.output
                assert same(final, want[number][1])
            elif kind == 2:
                with model.trace(x):
                    state = model.h[0].lin.output
                assert same(state, want[number][0]["h.0.lin.output"][0])
            else:
                with model.trace() as tracer:
                    with tracer.invoke(x):
                        model.h[1].output[:] = 0
                        edited = model.output
                    with tracer.invoke(x):
                        plain = model.output
                assert close(edited, want[number][1])
                assert close(plain, want[number][0][""][0])

    assert together(*[work] * count) == []
    assert not has_gates(net)


def test_plain_calls_beside_traces_see_nothing_of_them():
    net = build(Chain)
    model = wrap(net)
    want = expected(net, range(2))

    def plain(number):
        x = rows(seed=number)
        with torch.no_grad():
            for _ in range(400):
                assert same(net(x), want[number][0][""][0])

    def tracing(number):
        x = rows(seed=number)
        for _ in range(200):
            with model.trace(x):
                model.h[1].output[:] = 0
                assert same(model.output, want[number][1])

    assert together(plain, tracing) == []


@pytest.mark.filterwarnings("ignore::nbsight.errors.OrderNotice")
def test_threads_make_second_forwards_of_their_own():
    net = build(Chain)
    model = wrap(net)
    want = expected(net, range(4))

    def out_of_order(number):
        x = rows(seed=number)
        for _ in range(100):
            with model.trace(x):
                late = model.h[2].output
                early = model.h[0].output
            assert same(late, want[number][0]["h.2.output"][0])
            assert same(early, want[number][0]["h.0.output"][0])

    assert together(out_of_order, out_of_order, out_of_order, out_of_order) == []
    assert not has_gates(net)


def test_errors_in_one_thread_stay_in_it():
    net = build(Chain)
    model = wrap(net)
    want = expected(net, range(4))

    def asking_in_the_wrong_order(number):
        for _ in range(100):
            with pytest.raises(ValueError), model.trace(rows(seed=number), strict_order=True):
                model.h[2].output
                model.h[0].output

    def failing(number):
        for _ in range(100):
            with pytest.raises(ZeroDivisionError), model.trace(rows(seed=number)):
                model.h[1].output
                1 / 0
            with pytest.raises(RuntimeError), model.trace(rows(seed=number)):
                model.h[1].output = torch.ones(2, 2)
                model.output

    def right(number):
        x = rows(seed=number)
        for _ in range(200):
            with model.trace(x):
                final = model.output
            assert same(final, want[number][0][""][0])

    assert together(asking_in_the_wrong_order, failing, right, right) == []
    assert not has_gates(net)


def test_generations_in_two_threads_keep_their_steps():
    net = build(Counter)
    model = wrap(net)

    def work(number):
        x = rows(seed=number)
        want = hooked_alone[number]
        for _ in range(50):
            seen = []
            with model.generate(x, steps=3) as tracer:
                for _ in tracer.iter[:]:
                    seen.append(model.a.output)
                result = tracer.result
            assert same(seen, want["a.output"])
            assert same(result, want[""][0])

    hooked_alone = [hooked(net, (rows(seed=n),), {"steps": 3}, method="generate") for n in range(2)]
    assert together(work, work) == []


def test_torchs_switches_of_one_thread_are_not_anothers():
    net = build(Chain)
    model = wrap(net)

    def under_no_grad(number):
        for _ in range(100):
            with torch.no_grad(), model.trace(rows(seed=number)):
                model.h[0].output
                assert not torch.is_grad_enabled()
            assert torch.is_grad_enabled()

    def under_autocast(number):
        for _ in range(100):
            with torch.autocast("cpu", dtype=torch.bfloat16), model.trace(rows(seed=number)):
                state = model.h[0].lin.output
                assert state.dtype == torch.bfloat16
            assert not torch.is_autocast_enabled("cpu")

    def plain(number):
        for _ in range(100):
            with model.trace(rows(seed=number)):
                state = model.h[0].lin.output
            assert state.dtype == torch.float32

    assert together(under_no_grad, under_autocast, plain) == []


def test_many_short_threads_leave_no_greenlets_behind():
    import gc

    from nbsight.core.greenlets import Carrier

    net = build(Chain)
    model = wrap(net)

    def carriers():
        gc.collect()
        return sum(type(thing) is Carrier for thing in gc.get_objects())

    def work():
        with model.trace(rows()):
            model.h[1].output

    for _ in range(3):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    before = carriers()
    for _ in range(100):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert carriers() <= before + 3


def test_a_thread_started_in_a_block_is_outside_of_it():
    from nbsight.errors import OutsideTraceError

    model = wrap(build(Chain))
    seen = []

    def look():
        try:
            model.h[0].output
        except OutsideTraceError as error:
            seen.append(error)

    with model.trace(rows()):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        model.h[0].output
    assert len(seen) == 1


def test_a_model_that_computes_in_threads_of_its_own_is_traced():
    from concurrent.futures import ThreadPoolExecutor

    class Spreading(Chain):
        def forward(self, x):
            with ThreadPoolExecutor(2) as pool:
                parts = list(pool.map(self.h[0], [x, x + 1]))
            return self.head(self.h[1](parts[0] + parts[1]))

    net = build(Spreading)
    want = hooked(net, (rows(),))
    model = wrap(net)
    with model.trace(rows()):
        state = model.h[1].output
        final = model.output
    assert torch.allclose(state, want["h.1.output"][0])
    assert torch.allclose(final, want[""][0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_can_trace_and_so_can_its_parent():
    net = build(Chain)
    model = wrap(net)
    want = hooked(net, (rows(),))["h.1.output"][0]

    def right():
        with model.trace(rows()):
            state = model.h[1].output
        with model.trace() as tracer:
            with tracer.invoke(rows()):
                other = model.h[1].output
            with tracer.invoke(rows()):
                pass
        return same(state, want) and close(other, want)

    assert right()
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if right() else 1)
        except BaseException:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert right()
