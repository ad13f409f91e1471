"""What a held run leaves on the model, and what is left of it: nothing."""

from __future__ import annotations

import contextlib
import copy
import gc
import pickle
import subprocess
import sys
import textwrap
import threading
import weakref

import pytest
import torch
from torch import nn

from nbsight.core.held import any_held, home
from nbsight.core.model import wrap
from nbsight.errors import InputError, OutsideTraceError
from tests.core.small import Chain, build, has_gates, hooked, rows, same

X = rows()


@pytest.fixture
def no_collector():
    """Only reference counts may free anything."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def started(model, place="h.1.output"):
    """A run that stands somewhere, and weak references to what it holds."""
    run = model.start(X)
    value = run.until(place)
    return run, [weakref.ref(value), weakref.ref(run._tracer), weakref.ref(run._tracer.run)]


def is_gone(held) -> bool:
    return all(reference() is None for reference in held)


# -- between two moves -----------------------------------------------------------------------------


def test_the_model_is_as_it_was_while_a_run_waits():
    net = build(Chain)
    before = {path: dict(module.__dict__) for path, module in net.named_modules()}
    model = wrap(net)
    run = model.start(X)
    for _ in range(3):
        assert not has_gates(net)
        assert {path: dict(module.__dict__) for path, module in net.named_modules()} == before
        run.step(into=True)
    with pytest.raises(Exception, match="passed"):
        run.until("h.0.input")
    assert not has_gates(net)
    assert same(run.finish(), hooked(net, (X,))[""][0])
    assert not has_gates(net)


def test_a_copy_made_while_a_run_waits_is_a_model_of_its_own():
    net = build(Chain)
    run, _ = started(wrap(net))
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert same(other(X), net(X))
        for weight in other.parameters():
            nn.init.zeros_(weight)
        assert not other(X).any()
    assert copy.deepcopy(wrap(net)).start(X).step().path == "h.0"
    assert same(run.finish(), hooked(net, (X,))[""][0])


def test_plain_calls_and_other_threads_pass_by_a_waiting_run():
    net = build(Chain)
    run, _ = started(wrap(net))
    other = rows(seed=4)
    want = hooked(net, (other,))[""][0]
    found = []
    thread = threading.Thread(target=lambda: found.append(hooked(net, (other,))[""][0]))
    thread.start()
    thread.join()
    with torch.no_grad():
        assert same(net(other), want)
    assert same(found[0], want)
    assert run.here.path == "h.1"
    assert same(run.finish(), hooked(net, (X,))[""][0])


def test_weights_that_change_while_a_run_waits_are_those_it_goes_on_with():
    net = build(Chain)
    run, _ = started(wrap(net), "h.3.output")
    with torch.no_grad():
        net.head.weight.zero_()
        assert same(run.finish(), net.head.bias.expand(1, 3, 5))


def test_each_side_keeps_its_own_torch_switches_over_cells():
    net = build(Chain)
    model = wrap(net)
    with torch.no_grad():
        run = model.start(X, grad=True)
        run.step()
    assert not run.step().value.requires_grad  # it was started without gradients
    run = model.start(X, grad=True)
    run.step()
    with torch.no_grad():
        assert run.step().value.requires_grad
    assert torch.is_grad_enabled()


# -- forgetting ------------------------------------------------------------------------------------


def test_a_forgotten_run_leaves_nothing(no_collector):
    net = build(Chain)
    model = wrap(net)
    run, held = started(model)
    assert any_held()
    del run
    assert is_gone(held)
    assert not any_held()
    with pytest.raises(OutsideTraceError):
        model.h[0].output


@pytest.mark.parametrize("end", ["finish", "close", "loop", "with", "error"])
def test_a_run_that_ended_keeps_nothing_but_its_result(end, no_collector):
    model = wrap(build(Chain))
    run, held = started(model)
    if end == "finish":
        run.finish()
    elif end == "close":
        run.close()
    elif end == "loop":
        for _ in run:
            pass
    elif end == "with":
        with run:
            run.step()
    else:
        run.until("h.2.input")
        run.here.value = torch.zeros(1)
        with contextlib.suppress(RuntimeError):
            run.step()
    assert not any_held()
    assert held[0]() is None
    if end in ("finish", "loop"):
        assert run.result.shape == (1, 3, 5)


def test_what_a_notebook_displayed_does_not_hold_the_run(no_collector):
    model = wrap(build(Chain))
    run, held = started(model)
    shown = [run.here, run.edits, run.step(), run.step(into=True)]
    del run
    assert held[1]() is None
    assert shown[0].shape == (1, 3, 6)
    assert repr(shown[3]).startswith("h.3.lin.output")


def test_a_run_in_a_cycle_is_collected():
    model = wrap(build(Chain))
    run, held = started(model)
    cycle = [run]
    cycle.append(cycle)
    del run, cycle
    gc.collect()
    assert is_gone(held)


def test_a_thousand_forgotten_runs_leave_no_objects():
    model = wrap(build(Chain))

    def go():
        for _ in range(100):
            run = model.start(X)
            run.step()
            run.step(into=True)

    go()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(10):
        go()
    gc.collect()
    assert len(gc.get_objects()) - before < 50


def test_a_failing_start_leaves_nothing():
    net = build(Chain)
    model = wrap(net)
    with model.edit(inplace=True):
        raise RuntimeError("at once")
    with pytest.raises(RuntimeError, match="at once"):
        model.start(X)
    assert not any_held()
    assert not has_gates(net)


# -- threads ---------------------------------------------------------------------------------------


def in_thread(work):
    """Run `work` in a thread of its own and raise what it raises."""
    failed = []

    def guarded():
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def test_a_run_belongs_to_its_thread():
    model = wrap(build(Chain))
    run, _ = started(model)
    for use in (run.step, run.finish, lambda: run.until("h.2.output")):
        with pytest.raises(InputError, match="thread"):
            in_thread(use)
    assert run.here.path == "h.1"
    assert run.step().path == "h.2"


def test_a_read_in_another_thread_does_not_find_it():
    model = wrap(build(Chain))
    run, _ = started(model)

    def read():
        with pytest.raises(OutsideTraceError):
            model.h[1].output

    in_thread(read)
    assert model.h[1].output is run.here.value


@pytest.mark.parametrize("how", ["forgotten", "closed"])
def test_a_run_that_is_given_up_in_another_thread_is_unwound_by_its_own(how):
    net = build(Chain)
    model = wrap(net)
    run, held = started(model)
    box = [run]
    del run
    in_thread(box.clear if how == "forgotten" else lambda: box[0].close())
    assert not any_held()
    assert not has_gates(net)
    with pytest.raises(OutsideTraceError):
        model.h[1].output
    box.clear()
    model.start(X).close()
    assert is_gone(held)


def test_a_run_ends_with_its_thread():
    net = build(Chain)
    model = wrap(net)
    box = []
    in_thread(lambda: box.extend(started(model)))
    run, held = box
    assert held[0]() is None
    assert not run.is_open
    assert repr(run) == "run of Chain, closed at h.1.output"
    run.close()
    del run
    box.clear()
    gc.collect()
    assert is_gone(held)


def test_many_threads_hold_runs_of_one_model_at_once():
    net = build(Chain)
    model = wrap(net)
    inputs = [rows(seed=seed) for seed in range(8)]
    results = [None] * 8
    barrier = threading.Barrier(8)

    def work(number):
        run = model.start(inputs[number])
        for here in run:
            barrier.wait()
            if here.path == "h.1":
                here.value = here.value + number
        results[number] = run.result

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, result in enumerate(results):
        assert same(result, hooked(net, (inputs[number],), edit={"h.1": lambda v, n=number: v + n})[""][0])
    assert not has_gates(net)


def test_an_interrupt_in_the_model_ends_the_run():
    class Interrupts(Chain):
        def forward(self, x):
            x = self.h[0](x)
            raise KeyboardInterrupt

    net = build(Interrupts)
    run = wrap(net).start(X)
    run.step()
    with pytest.raises(KeyboardInterrupt):
        run.step()
    assert not run.is_open
    assert not has_gates(net)
    assert not home().held


def test_a_process_ends_quietly_with_runs_open():
    program = """
    import threading, torch
    from nbsight.core.model import wrap
    from tests.core.small import Chain, build, rows

    model = wrap(build(Chain))
    open_ones = [model.start(rows()) for _ in range(3)]
    for run in open_ones:
        run.step()
    cycle = [model.start(rows())]
    cycle[0].until("h.1.lin.output")
    cycle.append(cycle)
    waits = threading.Event()
    def work():
        run = model.start(rows()); run.step(); waits.set(); threading.Event().wait()
    threading.Thread(target=work, daemon=True).start()
    waits.wait()
    print("end")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0
    assert done.stdout == "end\n"
    assert done.stderr == ""
