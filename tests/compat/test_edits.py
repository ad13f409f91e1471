"""Programs in nnsight's style: edits that stay."""

# These programs are written as nnsight's users write them.
# ruff: noqa: B007, RUF059

from __future__ import annotations

import torch
from torch import nn

import nbsight as nnsight
from tests.compat import models
from tests.compat.models import LONGER, PROMPT, first, ids_of
from tests.core.small import hooked, rows

X, Y = rows(2), rows(1, seed=4)


def zeroed(value):
    return torch.zeros_like(value)


def test_an_edited_copy_is_edited_and_the_original_is_not(chain):
    with chain.edit() as (tracer, edited):
        edited.h[1].output[:] = 0
    with edited.trace(X):
        changed = edited.output.save()
    with chain.trace(X):
        plain = chain.output.save()
    assert torch.equal(changed, hooked(chain._module, (X,), edit={"h.1": zeroed})[""][0])
    assert torch.equal(plain, chain._module(X))


def test_the_original_may_be_named_in_the_block(chain):
    with chain.edit() as (tracer, edited):
        chain.h[1].output[:] = 0
    with edited.trace(X):
        changed = edited.output.save()
    assert torch.equal(changed, hooked(chain._module, (X,), edit={"h.1": zeroed})[""][0])


def test_an_edit_in_place_stays_until_it_is_cleared(chain):
    with chain.edit(inplace=True) as tracer:
        chain.h[2].output[:] = 0
    for value in (X, Y):
        with chain.trace(value):
            out = chain.output.save()
        assert torch.equal(out, hooked(chain._module, (value,), edit={"h.2": zeroed})[""][0])
    chain.clear_edits()
    with chain.trace(X):
        out = chain.output.save()
    assert torch.equal(out, chain._module(X))


def test_edits_stack_in_their_order(chain):
    with chain.edit(inplace=True):
        chain.h[0].output[:] += 1
    with chain.edit(inplace=True):
        chain.h[0].output[:] *= 2
    with chain.trace(X):
        out = chain.output.save()
    wanted = hooked(chain._module, (X,), edit={"h.0": lambda value: (value + 1) * 2})
    assert torch.allclose(out, wanted[""][0])


def test_an_edit_acts_before_the_trace_reads(chain):
    with chain.edit(inplace=True):
        chain.h[0].output[:] = 5
    with chain.trace(X):
        seen = chain.h[0].output.save()
    assert torch.equal(seen, torch.full((2, 3, 6), 5.0))


def test_one_edit_of_several_is_switched_off_and_removed(chain):
    with chain.edit(inplace=True):
        chain.h[0].output[:] = 0
    with chain.edit(inplace=True):
        chain.h[2].output = chain.h[2].output + 1
    chain.edits[0].enabled = False
    with chain.trace(X):
        out = chain.output.save()
    assert torch.equal(out, hooked(chain._module, (X,), edit={"h.2": lambda value: value + 1})[""][0])
    chain.edits[1].remove()
    assert len(chain.edits) == 1


def test_an_edit_acts_in_every_invoke_and_on_every_step_asked_for(model):
    direction = models.noise(64) * 3
    with model.edit() as (tracer, edited):
        for step in tracer.iter[:]:
            edited.transformer.h[3].output[0][:] += direction
    with edited.generate(LONGER, max_new_tokens=3, do_sample=False) as tracer:
        ids = tracer.result.save()

    prompt = ids_of(model, LONGER)
    options = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 3, "do_sample": False}

    def steer(value):
        first(value)[:] += direction

    wanted = hooked(model._model, (prompt,), options, method="generate", edit={"transformer.h.3": steer})
    assert torch.equal(ids, wanted[""][0])
    assert not torch.equal(ids, model.generate(LONGER, max_new_tokens=3, do_sample=False))


def test_an_edit_can_route_through_an_attached_module(chain):
    torch.manual_seed(3)
    chain.h[1].sae = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 6))
    with chain.edit(inplace=True):
        chain.h[1].output = chain.h[1].sae(chain.h[1].output)
    with torch.no_grad(), chain.trace(X):
        out = chain.output.save()
    sae = chain._module.h[1].sae
    with torch.no_grad():
        assert torch.equal(out, hooked(chain._module, (X,), edit={"h.1": lambda value: sae(value)})[""][0])


def test_an_attached_module_can_be_watched_where_it_is_applied(chain):
    chain.h[1].sae = nn.Linear(6, 6)
    with chain.edit(inplace=True):
        chain.h[1].output = chain.h[1].sae(chain.h[1].output, hook=True)
    with chain.trace(X):
        features = chain.h[1].sae.output.save()
    assert features.shape == (2, 3, 6)


def test_rows_of_a_batch_are_all_edited(chain):
    with chain.edit(inplace=True):
        chain.h[1].output[:] = 0
    with chain.trace() as tracer:
        with tracer.invoke(X):
            a = chain.output.save()
        with tracer.invoke(Y):
            b = chain.output.save()
    assert torch.allclose(a, hooked(chain._module, (X,), edit={"h.1": zeroed})[""][0], atol=1e-6)
    assert torch.allclose(b, hooked(chain._module, (Y,), edit={"h.1": zeroed})[""][0], atol=1e-6)


def test_a_call_without_a_trace_has_no_edits(model):
    with model.edit(inplace=True):
        model.transformer.h[0].output[0][:] = 0
    ids = ids_of(model, PROMPT)
    plain = model._model(ids).logits
    called = model(input_ids=ids).logits
    traced = model.trace(PROMPT, trace=False).logits
    model.clear_edits()
    assert torch.equal(called, plain)
    assert not torch.equal(traced, plain)
    assert torch.equal(
        nnsight.LanguageModel(model._model, tokenizer=model.tokenizer).trace(ids, trace=False).logits, plain
    )
