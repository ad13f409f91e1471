"""`.save()` and `nbsight.save`."""

from __future__ import annotations

import warnings

import pytest
import torch

import nbsight
from nbsight.core import saving
from nbsight.core.model import wrap
from nbsight.core.saving import find_saved, is_saved, save
from nbsight.errors import NbsightWarning, OutsideTraceError
from tests.core.small import Chain, build, close, hooked, rows, same

X, Y = rows(seed=1), rows(seed=2)
NET = build(Chain)
MODEL = wrap(NET)


def test_save_returns_the_very_value():
    with MODEL.trace(X):
        state = MODEL.h[1].output
        assert state.save() is state
        box = [state]
        assert save(box) is box
        assert nbsight.save(3) == 3
    assert is_saved(state)
    assert same(state, hooked(NET, (X,))["h.1.output"][0])


def test_everything_bound_in_a_block_is_there_afterwards_saved_or_not():
    with MODEL.trace(X):
        states = {layer: MODEL.h[layer].output for layer in range(2)}
        count = len(states)
        final = MODEL.output.save()
    assert count == 2
    assert same(states[1], hooked(NET, (X,))["h.1.output"][0])
    assert same(final, hooked(NET, (X,))[""][0])


def test_names_bound_in_invokes_are_there_afterwards_saved_or_not():
    with MODEL.trace() as tracer:
        with tracer.invoke(X):
            kept = {"state": MODEL.h[1].output}
            a, b = MODEL.h[2].output, "text"
        with tracer.invoke(Y):
            number = float(MODEL.output.sum())
    assert close(kept["state"], hooked(NET, (X,))["h.1.output"][0])
    assert close(a, hooked(NET, (X,))["h.2.output"][0])
    assert b == "text"
    assert number == pytest.approx(float(hooked(NET, (Y,))[""][0].sum()), abs=1e-4)


def test_containers_made_before_and_filled_in_invokes_keep_what_was_put_in():
    found = []
    with MODEL.trace() as tracer:
        with tracer.invoke(X):
            found.append(MODEL.h[1].output.save())
        with tracer.invoke(Y):
            found.append(MODEL.h[1].output.save())
    assert len(found) == 2
    assert close(found[1], hooked(NET, (Y,))["h.1.output"][0])


@pytest.mark.parametrize("value", [torch.ones(2), [1], {"a": torch.ones(1)}, 3, None, "text"])
def test_save_outside_a_trace_says_where_it_belongs(value):
    with pytest.raises(OutsideTraceError, match=r"with model\.trace"):
        save(value)
    with MODEL.trace(X):
        MODEL.h[0].output
    with pytest.raises(OutsideTraceError):
        save(value)


def test_a_saved_tensor_that_is_changed_later_in_the_trace_is_noticed():
    def go():
        with MODEL.trace(X):
            state = MODEL.h[1].output.save()
            state[:] = 0
            MODEL.output

    with pytest.warns(NbsightWarning, match=r"h\.1\.output") as caught:
        go()
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert ".clone().save()" in str(caught[0].message)


def test_a_tensor_changed_before_it_was_saved_is_not_reported():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with MODEL.trace(X):
            state = MODEL.h[1].output
            state[:] = 0
            state.save()
            MODEL.output


def test_saving_twice_is_saving_once():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with MODEL.trace(X):
            state = MODEL.h[1].output.save().save()
    assert find_saved(state) is not None


def test_parameters_and_inference_tensors_can_be_saved():
    with MODEL.trace(X):
        weight = MODEL.head.weight.save()
        with torch.inference_mode():
            made = torch.ones(2).save()
        MODEL.output
    assert weight is NET.head.weight
    assert made.eq(1).all()


def test_another_packages_save_on_tensors_is_left_alone(monkeypatch):
    def theirs(tensor):
        return "theirs"

    monkeypatch.setattr(torch.Tensor, "save", theirs)
    saving._mount(saving._save_tensor)
    with MODEL.trace(X):
        state = MODEL.h[1].output
        mark = state.save()
        assert nbsight.save(state) is state
    assert mark == "theirs"
    assert is_saved(state)
