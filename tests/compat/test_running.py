"""Programs in nnsight's style: the ways to run a model, sessions, scans, skipping and stopping."""

# These programs are written as nnsight's users write them.
# ruff: noqa: B905, RUF059

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import nbsight as nnsight
from tests.compat import models
from tests.compat.models import OTHER, PROMPT, first, ids_of
from tests.core.small import Counter, build, hooked, rows, same

X, Y = rows(2), rows(2, seed=5)


def test_a_trace_of_text_gives_what_the_model_gives(model):
    with model.trace(PROMPT):
        logits = model.output.logits.save()
    assert torch.equal(logits, model._model(ids_of(model, PROMPT)).logits)


def test_the_result_is_what_the_call_returned(chain):
    with chain.trace(X) as tracer:
        result = tracer.result.save()
    assert torch.equal(result, chain._module(X))


def test_another_method_can_be_traced():
    counter = nnsight.NNsight(build(Counter))
    x = rows()
    with counter.trace(x, fn="generate", steps=2) as tracer:
        one = counter.a.output.save()
        result = tracer.result.save()
    assert torch.equal(one, counter._module.a(x))
    assert torch.equal(result, counter._module.generate(x, steps=2))
    with counter.trace(x, fn=counter.generate) as tracer:
        result = tracer.result.save()
    assert torch.equal(result, counter._module.generate(x))


def test_trace_false_runs_at_once_and_edits_act(model):
    plain = model.trace(PROMPT, trace=False)
    assert torch.equal(plain.logits, model._model(ids_of(model, PROMPT)).logits)
    with model.edit() as (tracer, edited):
        edited.transformer.h[3].output[0][:] = 0
    changed = edited.trace(PROMPT, trace=False)
    assert not torch.equal(changed.logits, plain.logits)


def test_a_tracer_that_is_not_entered_runs_nothing(chain):
    calls = []
    chain._module.head.register_forward_hook(lambda *_: calls.append(1))
    tracer = chain.trace(X)
    assert calls == []
    with tracer:
        out = chain.output.save()
    assert calls == [1]
    assert torch.equal(out, chain._module(X))


def test_calling_the_model_is_a_plain_call(chain):
    with chain.edit(inplace=True):
        chain.h[0].output[:] = 0
    assert torch.equal(chain(X), chain._module(X))
    chain.clear_edits()


def test_any_child_can_be_traced_on_its_own(model):
    hidden = models.noise(1, 4, 64)
    with model.transformer.h[2].trace(hidden):
        inner = model.transformer.h[2].mlp.output.save()
        out = model.transformer.h[2].output.save()
    wanted = hooked(model._model.transformer.h[2], (hidden,))
    assert torch.equal(inner, wanted["mlp.output"][0])
    assert torch.equal(out[0], first(wanted[""][0]))


def test_a_with_statement_may_hold_other_things(chain):
    with torch.no_grad(), chain.trace(X) as tracer, torch.random.fork_rng(devices=[]):
        a = chain.h[0].output.save()
    assert torch.equal(a, hooked(chain._module, (X,))["h.0.output"][0])


def test_options_of_the_model_go_to_its_call(model):
    with model.trace(PROMPT, output_hidden_states=True, use_cache=False):
        states = model.output.hidden_states
        cached = model.output.past_key_values
    wanted = model._model(ids_of(model, PROMPT), output_hidden_states=True, use_cache=False)
    assert same(tuple(states), tuple(wanted.hidden_states))
    assert cached is None


def test_generate_without_with_returns_ids(model):
    ids = model.generate(PROMPT, max_new_tokens=3, do_sample=False)
    prompt = ids_of(model, PROMPT)
    wanted = model._model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=3, do_sample=False
    )
    assert torch.equal(ids, wanted)


# -- sessions --------------------------------------------------------------------------------------


def test_values_flow_from_trace_to_trace_in_a_session(model):
    with model.session():
        with model.trace(PROMPT):
            donor = model.transformer.h[4].output[0][:, -1]
        with model.trace(OTHER):
            model.transformer.h[4].output[0][:, -1] = donor
            patched = model.lm_head.output[:, -1].save()

    ids, others = ids_of(model, PROMPT), ids_of(model, OTHER)
    there = first(hooked(model._model, (ids,))["transformer.h.4.output"][0])

    def patch(value):
        first(value)[:, -1] = there[:, -1]

    wanted = hooked(model._model, (others,), edit={"transformer.h.4": patch})
    assert torch.allclose(patched, wanted["lm_head.output"][0][:, -1], atol=1e-6)


def test_a_session_is_real_python_with_loops_and_traces_of_other_models(model, chain):
    norms = []
    with model.session():
        for layer in (0, 2, 5):
            with model.trace(PROMPT):
                norms.append(model.transformer.h[layer].output[0].norm())
        with chain.trace(X):
            other = chain.output.save()
    wanted = hooked(model._model, (ids_of(model, PROMPT),))
    for layer, norm in zip((0, 2, 5), norms):
        assert torch.equal(norm, first(wanted[f"transformer.h.{layer}.output"][0]).norm())
    assert torch.equal(other, chain._module(X))


# -- loading and scanning --------------------------------------------------------------------------


def test_a_model_loads_its_weights_at_its_first_run():
    lazy = nnsight.LanguageModel("nbsight/demo")
    assert not lazy.dispatched
    assert lazy._module.lm_head.weight.device.type == "meta"
    block = lazy.transformer.h[1]
    with lazy.trace(PROMPT):
        hidden = block.output[0].save()
    assert lazy.dispatched
    assert hidden.device.type == "cpu"
    lazy.dispatch()


def test_a_scan_needs_no_weights():
    lazy = nnsight.LanguageModel("nbsight/demo")
    with lazy.scan(PROMPT):
        shape = lazy.transformer.h[1].output[0].shape
    assert not lazy.dispatched
    with lazy.trace(PROMPT):
        assert lazy.transformer.h[1].output[0].shape == shape


def test_a_scan_knows_shapes_and_computes_nothing(chain):
    calls = []
    chain._module.head.register_forward_hook(lambda _, __, out: calls.append(type(out).__name__))
    with chain.scan(X):
        hidden = chain.h[1].output.shape
        out = chain.output.shape
    assert hidden == (2, 3, 6)
    assert out == chain._module(X).shape
    assert calls[0] == "FakeTensor"


# -- skip and stop ---------------------------------------------------------------------------------


def test_a_skipped_module_does_not_run(chain):
    with chain.trace(X):
        chain.h[1].skip(chain.h[1].input)
        out = chain.output.save()
    wanted = (
        hooked(chain._module, (X,), edit={"h.1": lambda _: skipped[0]})
        if (skipped := [hooked(chain._module, (X,))["h.1.inputs"][0][0][0]])
        else None
    )
    assert torch.equal(out, wanted[""][0])


def test_a_module_inside_a_skipped_one_is_never_called(chain):
    with pytest.raises(ValueError, match="skip"):
        with chain.trace(X):
            chain.h[1].skip(torch.zeros(2, 3, 6))
            chain.h[1].lin.output
            chain.output.save()


def test_stop_ends_the_run_and_keeps_what_was_read(chain):
    calls, after = [], []
    chain._module.h[3].register_forward_hook(lambda *_: calls.append(1))
    with chain.trace(X) as tracer:
        a = chain.h[0].output.save()
        tracer.stop()
        after.append(1)
    assert torch.equal(a, hooked(chain._module, (X,))["h.0.output"][0])
    assert calls == [1]  # from the plain run above alone
    assert after == []


def test_wrappers_can_be_copied_and_pickled(chain):
    for other in (copy.deepcopy(chain), pickle.loads(pickle.dumps(chain))):
        with torch.no_grad():
            other._module.head.weight.mul_(2)
        with other.trace(X):
            out = other.output.save()
        assert torch.equal(out, other._module(X))
        assert not torch.equal(out, chain._module(X))


def test_moving_the_model_gives_the_envoy_back(chain):
    assert chain.to(torch.float64) is chain
    assert chain.cpu() is chain
    with chain.trace(X.double()):
        out = chain.output.save()
    assert out.dtype == torch.float64
