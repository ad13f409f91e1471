"""Runs held open, against plain hooks."""

from __future__ import annotations

import gc
import threading

import pytest
import torch

from nbsight.core.model import wrap
from nbsight.errors import InputError, OutOfOrderError, OutsideTraceError, PathError
from tests.core.small import Chain, build, has_gates, hooked, rows, same

X = rows()


def test_a_run_stops_where_it_is_told_and_goes_on():
    net = build(Chain)
    model = wrap(net)
    want = hooked(net, (X,))
    run = model.start(X)
    assert "before its first stop" in repr(run)
    assert same(run.until(model.h[1].output), want["h.1.output"][0])
    assert run.here.path == "h.1"
    assert run.here.shape == tuple(want["h.1.output"][0].shape)
    assert same(run.until("h.2.output"), want["h.2.output"][0])
    assert same(run.finish(), want[""][0])
    assert not run.is_open
    assert not has_gates(net)


def test_steps_visit_every_block_in_turn():
    net = build(Chain)
    want = hooked(net, (X,))
    seen = [(here.path, here.value) for here in wrap(net).start(X)]
    assert [path for path, _ in seen] == ["h.0", "h.1", "h.2", "h.3", "model"]
    for path, value in seen[:-1]:
        assert same(value, want[f"{path}.output"][0])


def test_a_step_into_stops_at_every_submodule():
    run = wrap(build(Chain)).start(X)
    paths = []
    while (here := run.step(into=True)) is not None:
        paths.append(here.path)
    assert paths[-1] == "model"
    assert len(paths) > 5


def test_an_edit_between_two_steps_acts():
    net = build(Chain)
    model = wrap(net)
    run = model.start(X)
    run.step()
    run.here.value[:] = 0
    run.step()
    model.h[1].output = model.h[1].output + 1
    result = run.finish()
    want = hooked(net, (X,), edit={"h.0": lambda v: v.mul_(0), "h.1": lambda v: v + 1})[""][0]
    assert same(result, want)


def test_two_runs_and_a_trace_do_not_disturb_each_other():
    net = build(Chain)
    model = wrap(net)
    other_input = rows(seed=5)
    one, two = model.start(X), model.start(other_input)
    one.step()
    two.step()
    two.step()
    with model.trace(X):
        traced = model.h[3].output
    assert one.here.path == "h.0"
    assert two.here.path == "h.1"
    assert same(traced, hooked(net, (X,))["h.3.output"][0])
    assert same(two.finish(), hooked(net, (other_input,))[""][0])
    assert same(one.finish(), hooked(net, (X,))[""][0])
    assert not has_gates(net)


def test_a_forgotten_run_leaves_nothing():
    net = build(Chain)
    model = wrap(net)
    run = model.start(X)
    run.step()
    assert has_gates(net)
    del run
    gc.collect()
    assert not has_gates(net)
    with pytest.raises(OutsideTraceError):
        _ = model.h[0].output


def test_the_context_manager_closes_it():
    net = build(Chain)
    with wrap(net).start(X) as run:
        run.step()
    assert not has_gates(net)
    with pytest.raises(OutOfOrderError, match=r"model\.start"):
        run.step()


def test_a_run_belongs_to_its_thread():
    run = wrap(build(Chain)).start(X)
    run.step()
    caught = []

    def other():
        try:
            run.step()
        except InputError as error:
            caught.append(str(error))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert "thread" in caught[0]
    run.close()


def test_bad_places_and_missing_input_are_explained():
    model = wrap(build(Chain))
    with pytest.raises(InputError, match="needs an input"):
        model.start()
    with model.start(X) as run:
        with pytest.raises(InputError, match=r"h\.1\.output"):
            run.until("h.1")
        with pytest.raises(PathError, match="4 entries"):
            run.until(model.h[9].output)
        assert isinstance(run.until("h.1.output"), torch.Tensor)


def test_the_shapes_of_a_scan_are_the_shapes_of_a_run():
    net = build(Chain)
    model = wrap(net)
    with model.scan(X):
        shapes = [block.output.shape for block in model.h]
        final = model.output
    with model.trace(X):
        real = [block.output.shape for block in model.h]
    assert shapes == real
    assert type(final).__name__ == "FakeTensor"
    meta = wrap(build(Chain).to("meta"))
    with meta.scan(X):
        assert meta.output.shape == final.shape


def test_a_part_of_a_model_can_be_traced_alone():
    net = build(Chain)
    model = wrap(net)
    hidden = hooked(net, (X,))["h.1.output"][0].clone()
    with model.h[2].trace(hidden):
        out = model.h[2].output
    with torch.no_grad():
        assert same(out, net.h[2](hidden.clone()))
