"""Edits that stay, against hooks that stay."""

from __future__ import annotations

import pytest

from nbsight.core.model import wrap
from nbsight.errors import OutOfOrderError
from tests.core.small import Chain, build, hooked, rows, same

X = rows()


def zero(value):
    return value.mul_(0)


def test_an_edit_acts_in_every_run_of_the_copy_and_in_none_of_the_model():
    net = build(Chain)
    model = wrap(net)
    with model.edit() as edited:
        model.h[1].output[:] = 0
    want = hooked(net, (X,), edit={"h.1": zero})[""][0]
    for _ in range(2):
        with edited.trace(X):
            changed = edited.output
        assert same(changed, want)
    with model.trace(X):
        plain = model.output
    assert same(plain, hooked(net, (X,))[""][0])
    assert model.edits == []


def test_both_names_of_nnsights_form_are_bound():
    model = wrap(build(Chain))
    with model.edit() as (tracer, edited):
        model.h[0].output[:] = 0
    with edited.trace(X):
        a = edited.h[0].output
    assert not a.any()
    assert tracer is not None


def test_edits_in_place_stack_and_are_switched_off_one_by_one():
    net = build(Chain)
    model = wrap(net)
    with model.edit(inplace=True):
        model.h[1].output[:] = 0
    with model.edit(inplace=True):
        model.h[2].output = model.h[2].output + 1
    both = hooked(net, (X,), edit={"h.1": zero, "h.2": lambda value: value + 1})[""][0]
    first = hooked(net, (X,), edit={"h.1": zero})[""][0]

    def run():
        with model.trace(X):
            return model.output

    assert same(run(), both)
    assert len(model.edits) == 2
    assert "h[1].output[:] = 0" in repr(model.edits[0])
    model.edits[1].enabled = False
    assert same(run(), first)
    model.edits[1].remove()
    assert len(model.edits) == 1
    model.clear_edits()
    assert same(run(), hooked(net, (X,))[""][0])


def test_edits_come_before_the_block_and_before_invokes():
    net = build(Chain)
    model = wrap(net)
    with model.edit(inplace=True):
        model.h[1].output[:] = 0
    with model.trace(X):
        seen = model.h[1].output.clone()
        model.h[1].output[:] = 2
        final = model.output
    assert not seen.any()
    assert same(final, hooked(net, (X,), edit={"h.1": lambda value: value.fill_(2)})[""][0])
    with model.trace() as tracer:
        with tracer.invoke(X):
            a = model.h[1].output
        with tracer.invoke(rows(seed=3)):
            b = model.h[1].output
    assert not a.any()
    assert not b.any()


def test_trace_false_runs_with_edits_and_a_plain_call_without():
    net = build(Chain)
    model = wrap(net)
    with model.edit(inplace=True):
        model.h[1].output[:] = 0
    want = hooked(net, (X,), edit={"h.1": zero})[""][0]
    assert same(model.trace(X, trace=False), want)
    assert same(model(X), hooked(net, (X,))[""][0])


def test_a_faulty_edit_is_named_when_it_runs():
    model = wrap(build(Chain))
    with model.edit(inplace=True):
        late = model.h[2].output
        model.h[0].output[:] = late
    with pytest.raises(OutOfOrderError, match=r"h\.0\.output"), model.trace(X):
        _ = model.output
    model.clear_edits()
    with model.trace(X):
        assert model.output is not None
