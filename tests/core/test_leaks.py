"""What a trace used is given back at its end, at once and completely."""

# A name that only another invoke binds looks undefined to a linter.
# ruff: noqa: F821

from __future__ import annotations

import contextlib
import gc
import os
import sys
import weakref

import pytest
import torch

from nbsight.core.model import wrap
from nbsight.core.saving import is_saved
from tests.core.small import Chain, Counter, build, has_gates, rows

X, Y = rows(2, seed=1), rows(2, seed=2)

pytestmark = pytest.mark.filterwarnings("ignore::nbsight.errors.OrderNotice")


@pytest.fixture
def no_collector():
    """Only reference counts may free anything."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def plain(model):
    with model.trace(X) as tracer:
        state = model.h[1].output
        model.h[2].output = state * 2
        kept = model.h[3].output.save()


def to_the_end(model):
    with model.trace(X) as tracer:
        state = model.h[1].output.save()
        final = model.output.save()
        result = tracer.result


def invokes(model):
    with model.trace() as tracer:
        with tracer.invoke(X):
            donor = model.h[1].output.save()
        with tracer.invoke(Y):
            model.h[2].output[:] = donor
            final = model.output.save()


def exchange(model):
    with model.trace() as tracer:
        with tracer.invoke(X):
            one = model.h[1].output.clone()
            model.h[2].output[:] = two
        with tracer.invoke(Y):
            two = model.h[1].output.clone()
            model.h[2].output[:] = one


def stopped(model):
    with model.trace(X) as tracer:
        state = model.h[1].output
        tracer.stop()


def skipped(model):
    with model.trace(X):
        model.h[1].skip(model.h[1].input)
        final = model.output


def failing_block(model):
    with contextlib.suppress(ZeroDivisionError):
        with model.trace(X):
            state = model.h[1].output
            1 / 0


def failing_model(model):
    with contextlib.suppress(RuntimeError):
        with model.trace(X):
            model.h[1].output = torch.ones(3, 3)
            model.output


def wrong_order(model):
    with contextlib.suppress(ValueError):
        with model.trace(X, strict_order=True):
            model.h[2].output
            model.h[1].output


def second_forward(model):
    with model.trace(X) as tracer:
        model.h[0].output[:] = 1
        model.h[2].output
        state = model.h[1].output


def second_forward_of_invokes(model):
    with model.trace() as tracer:
        with tracer.invoke(X):
            model.h[2].output
            state = model.h[1].output
        with tracer.invoke(Y):
            model.h[1].output[:] = 1
            other = model.h[0].output


def too_late(model):
    with contextlib.suppress(ValueError):
        with model.trace(X):
            model.h[2].output
            model.h[1].output[:] = 0


def not_finite(model):
    with contextlib.suppress(ArithmeticError):
        with model.trace(X, check_finite=True):
            model.h[1].output[:] = float("nan")


def wrong_shape(model):
    with contextlib.suppress(ValueError):
        with model.trace(X):
            model.h[2].output[:] = torch.ones(7, 7)


def failing_worker(model):
    with contextlib.suppress(ZeroDivisionError):
        with model.trace() as tracer:
            with tracer.invoke(X):
                state = model.h[1].output
                1 / 0
            with tracer.invoke(Y):
                model.output


def held_generator(model):
    def layers():
        with model.trace(X):
            yield model.h[0].output
            yield model.h[1].output

    suspended = layers()
    next(suspended)
    suspended.close()


def steps(model):
    with model.trace(X) as tracer:
        for _ in tracer.iter[:2]:
            model.h[0].output


WAYS = [
    plain, to_the_end, invokes, exchange, stopped, skipped, failing_block, failing_model,
    wrong_order, wrong_shape, failing_worker, held_generator, steps, second_forward,
    second_forward_of_invokes, too_late, not_finite,
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_nothing_waits_for_the_garbage_collector(way, no_collector):
    model = wrap(build(Chain))
    made = []
    handles = [
        block.lin.register_forward_hook(lambda module, given, value: made.append(weakref.ref(value)))
        for block in model._module.h
    ]
    for _ in range(3):
        way(model)
    for handle in handles:
        handle.remove()
    assert made
    alive = [number for number, reference in enumerate(made) if reference() is not None]
    assert alive == [], f"{len(alive)} of {len(made)} activations are still there"
    assert not has_gates(model._module)


@pytest.mark.parametrize("way", WAYS)
def test_a_trace_leaves_no_reference_cycle(way):
    model = wrap(build(Chain))
    for _ in range(3):
        way(model)
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            way(model)
        found = gc.collect()
    finally:
        gc.enable()
    # An exception that the user's frame catches may tie one knot of its own; ours come by the dozen.
    assert found <= 20, f"{found / 20} unreachable objects a trace"


@pytest.mark.parametrize("way", WAYS)
def test_object_counts_stay_flat(way):
    model = wrap(build(Chain))
    for _ in range(20):
        way(model)
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(100):
        way(model)
    gc.collect()
    assert len(gc.get_objects()) - before < 60


def resident() -> int:
    """This process's resident memory in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_two_thousand_traces_leave_memory_flat():
    model = wrap(build(Chain))
    big = torch.randn(64, 16, 6)

    def once():
        with model.trace(big) as tracer:
            states = [model.h[layer].output.save() for layer in range(4)]
            final = model.output.save()

    for _ in range(200):
        once()
        for way in WAYS:
            way(model)
    gc.collect()
    before = resident()
    for turn in range(2000):
        once()
        if turn % 5 == 0:
            WAYS[turn // 5 % len(WAYS)](model)
    gc.collect()
    assert resident() - before < 6 * 2**20


def test_a_saved_tensor_lives_as_long_as_its_name_and_no_longer(no_collector):
    model = wrap(build(Chain))
    with model.trace(X) as tracer:
        state = model.h[1].output.save()
        final = model.output.save()
    assert is_saved(state)
    reference, last = weakref.ref(state), weakref.ref(final)
    del state
    assert reference() is None
    del final
    assert last() is None
    assert tracer is not None


def test_a_tracer_keeps_its_arguments_to_be_entered_again_and_nothing_else(no_collector):
    model = wrap(build(Chain))
    x = rows(2)
    given, inside = weakref.ref(x), []
    handle = model._module.h[0].register_forward_hook(
        lambda module, args, out: inside.append(weakref.ref(out))
    )
    with model.trace(x) as tracer:
        model.h[1].output
    handle.remove()
    del x
    assert inside[0]() is None
    assert given() is not None
    with tracer:
        model.h[1].output
    del tracer
    assert given() is None


def test_many_values_in_one_trace_can_be_freed_while_it_runs(no_collector):
    model = wrap(build(Counter))
    alive = []
    with model.generate(X, steps=6) as tracer:
        for _ in tracer.iter[:]:
            state = model.a.lin.output
            alive.append(weakref.ref(state))
            del state
            assert sum(reference() is not None for reference in alive) <= 1


def test_the_marks_of_saved_tensors_do_not_pile_up():
    from nbsight.core import saving

    model = wrap(build(Chain))
    gc.collect()
    before = len(saving._saved)
    for _ in range(50):
        to_the_end(model)
    gc.collect()
    assert len(saving._saved) <= before + 2


def test_a_wrapped_model_can_be_freed():
    model = wrap(build(Chain))
    for way in WAYS:
        way(model)
    reference = weakref.ref(model._module)
    del model
    gc.collect()
    assert reference() is None


def test_an_error_that_is_kept_does_not_keep_the_gates():
    model = wrap(build(Chain))
    kept = []
    for way in (lambda: 1 / 0, lambda: model.h[0].output):
        try:
            with model.trace(X, strict_order=True):
                model.h[2].output
                way()
        except Exception as error:
            kept.append(error)
    assert len(kept) == 2
    assert not has_gates(model._module)
