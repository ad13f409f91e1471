"""Programs in nnsight's style: several inputs in one forward."""

# These programs are written as nnsight's users write them.
# ruff: noqa: B905

from __future__ import annotations

import pytest
import torch
from torch import nn

import nbsight as nnsight
from tests.compat import models
from tests.compat.models import LONGER, OTHER, PROMPT, first, ids_of
from tests.core.small import hooked, rows

X, Y, Z = rows(2, seed=1), rows(1, seed=2), rows(3, seed=3)


def alone(model, prompt, layer):
    return first(hooked(model._model, (ids_of(model, prompt),))[f"transformer.h.{layer}.output"][0])


def test_each_invoke_sees_its_own_rows(chain):
    with chain.trace() as tracer:
        with tracer.invoke(X):
            a = chain.h[1].output.save()
        with tracer.invoke(Y):
            b = chain.h[1].output.save()
        with tracer.invoke(Z):
            c = chain.output.save()
    assert torch.allclose(a, hooked(chain._module, (X,))["h.1.output"][0], atol=1e-6)
    assert torch.allclose(b, hooked(chain._module, (Y,))["h.1.output"][0], atol=1e-6)
    assert torch.allclose(c, chain._module(Z), atol=1e-6)


def test_prompts_of_different_lengths_give_what_each_gives_alone(model):
    with model.trace() as tracer:
        with tracer.invoke(PROMPT):
            short = model.transformer.h[3].output[0].save()
        with tracer.invoke(LONGER):
            long = model.transformer.h[3].output[0].save()
    assert short.shape[1] == ids_of(model, PROMPT).shape[1]
    assert torch.allclose(short, alone(model, PROMPT, 3), atol=1e-5)
    assert torch.allclose(long, alone(model, LONGER, 3), atol=1e-5)


def test_forms_of_input_may_be_mixed(model):
    ids = ids_of(model, OTHER)
    with model.trace() as tracer:
        with tracer.invoke(PROMPT):
            a = model.transformer.h[2].output[0].save()
        with tracer.invoke(ids):
            b = model.transformer.h[2].output[0].save()
        with tracer.invoke(model.tokenizer(LONGER, return_tensors="pt")):
            c = model.transformer.h[2].output[0].save()
        with tracer.invoke([PROMPT, OTHER]):
            d = model.transformer.h[2].output[0].save()
        with tracer.invoke(input_ids=ids[0].tolist()):
            e = model.transformer.h[2].output[0].save()
    for value, prompt in [(a, PROMPT), (b, OTHER), (c, LONGER), (e, OTHER)]:
        assert torch.allclose(value, alone(model, prompt, 2), atol=1e-5)
    assert d.shape[0] == 2
    assert torch.allclose(d[1:], alone(model, OTHER, 2), atol=1e-5)


def test_an_invoke_has_its_own_tokenizer_options(model):
    with model.trace() as tracer:
        with tracer.invoke(LONGER, truncation=True, max_length=4):
            a = model.transformer.h[0].output[0].save()
        with tracer.invoke(PROMPT):
            b = model.transformer.h[0].output[0].save()
    assert a.shape[1] == 4
    cut = hooked(model._model, (ids_of(model, LONGER)[:, :4],))
    assert torch.allclose(a, first(cut["transformer.h.0.output"][0]), atol=1e-5)
    assert b.shape[1] == ids_of(model, PROMPT).shape[1]


def test_an_empty_invoke_sees_the_whole_batch(chain):
    with chain.trace() as tracer:
        with tracer.invoke(X):
            a = chain.h[2].output.save()
        with tracer.invoke(Y):
            b = chain.h[2].output.save()
        with tracer.invoke():
            earlier = chain.h[0].output.save()
            whole = chain.h[2].output.save()
    both = hooked(chain._module, (torch.cat([X, Y]),))
    assert torch.equal(whole, both["h.2.output"][0])
    assert torch.equal(earlier, both["h.0.output"][0])
    assert torch.equal(whole, torch.cat([a, b]))


def test_an_edit_of_one_invoke_leaves_the_others_alone(chain):
    with chain.trace() as tracer:
        with tracer.invoke(X):
            chain.h[1].output[:] = 0
            chain.h[2].output = chain.h[2].output + 1
            a = chain.output.save()
        with tracer.invoke(Y):
            b = chain.output.save()
    wanted = hooked(
        chain._module,
        (X,),
        edit={"h.1": lambda value: torch.zeros_like(value), "h.2": lambda value: value + 1},
    )
    assert torch.allclose(a, wanted[""][0], atol=1e-6)
    assert torch.allclose(b, chain._module(Y), atol=1e-6)


def test_a_value_of_one_prompt_is_patched_into_another(model):
    with model.trace() as tracer:
        with tracer.invoke(PROMPT):
            donor = model.transformer.h[4].output[0][:, -1]
        with tracer.invoke(OTHER):
            model.transformer.h[4].output[0][:, -1] = donor
            patched = model.lm_head.output[:, -1].save()

    there = alone(model, PROMPT, 4)

    def patch(value):
        first(value)[:, -1] = there[:, -1]

    wanted = hooked(model._model, (ids_of(model, OTHER),), edit={"transformer.h.4": patch})
    assert torch.allclose(patched, wanted["lm_head.output"][0][:, -1], atol=1e-4)


def test_barriers_may_be_written_and_are_not_needed(chain):
    with chain.trace() as tracer:
        barrier = tracer.barrier(2)
        with tracer.invoke(Y):
            donor = chain.h[1].output
            barrier()
        with tracer.invoke(rows(1, seed=9)):
            barrier()
            chain.h[1].output[:] = donor
            out = chain.output.save()
    assert torch.allclose(out, chain._module(Y), atol=1e-6)


def test_invokes_are_made_in_a_loop(model):
    prompts, found = [PROMPT, OTHER, LONGER], []
    with model.trace() as tracer:
        for prompt in prompts:
            with tracer.invoke(prompt):
                found.append(model.transformer.h[1].output[0][:, -1].save())
    for prompt, value in zip(prompts, found):
        assert torch.allclose(value, alone(model, prompt, 1)[:, -1], atol=1e-5)


def test_code_outside_the_invokes_runs_first(chain):
    with chain.trace() as tracer:
        scale = 3.0
        with tracer.invoke(X):
            chain.h[0].output[:] *= scale
            out = chain.output.save()
    assert torch.equal(out, hooked(chain._module, (X,), edit={"h.0": lambda value: value * 3.0})[""][0])


def test_one_invoke_may_change_the_number_of_rows(chain):
    with chain.trace() as tracer:
        with tracer.invoke(Y):
            chain.h[0].output = chain.h[0].output.expand(4, -1, -1)
            out = chain.output.save()
    assert out.shape[0] == 4
    assert torch.allclose(out[2:3], chain._module(Y), atol=1e-6)


def test_stop_in_an_invoke_keeps_what_the_others_read(chain):
    with chain.trace() as tracer:
        with tracer.invoke(X):
            a = chain.h[0].output.save()
            tracer.stop()
        with tracer.invoke(Y):
            b = chain.h[0].output.save()
    assert torch.allclose(a, hooked(chain._module, (X,))["h.0.output"][0], atol=1e-6)
    assert torch.allclose(b, hooked(chain._module, (Y,))["h.0.output"][0], atol=1e-6)


@pytest.mark.parametrize("mistake", ["nested", "with an input", "only empty", "ragged"])
def test_a_batch_that_cannot_be_says_so(chain, mistake):
    with pytest.raises(ValueError, match=r"invoke"):
        if mistake == "with an input":
            with chain.trace(X) as tracer:
                with tracer.invoke(Y):
                    chain.output.save()
        elif mistake == "only empty":
            with chain.trace() as tracer:
                with tracer.invoke():
                    chain.output.save()
        elif mistake == "nested":
            with chain.trace() as tracer:
                with tracer.invoke(X):
                    with tracer.invoke(Y):
                        chain.output.save()
        else:
            with chain.trace() as tracer:
                with tracer.invoke(X):
                    chain.output.save()
                with tracer.invoke(Y[:, :2]):
                    chain.output.save()


def test_a_skip_of_some_rows_is_refused(chain):
    with pytest.raises(ValueError, match="whole batch"):
        with chain.trace() as tracer:
            with tracer.invoke(X):
                chain.h[1].skip(torch.zeros(2, 3, 6))
                chain.output.save()
            with tracer.invoke(Y):
                chain.output.save()


class Pooled(nnsight.NNsight):
    """A wrapper that batches in a way of its own: prompts are numbers."""

    def _prepare(self, args, kwargs):
        return torch.full((1, 3, 6), float(args[0]))

    def _join(self, prepared, method, options):
        from nbsight.core.batching import Rows

        rows = [Rows(place, 1, len(prepared)) for place in range(len(prepared))]
        return (torch.cat(prepared),), options, rows


def test_a_wrapper_can_batch_in_its_own_way():
    pooled = Pooled(models.chain())
    with pooled.trace() as tracer:
        with tracer.invoke(1):
            a = pooled.output.save()
        with tracer.invoke(2):
            b = pooled.output.save()
    assert torch.allclose(a, pooled._module(torch.ones(1, 3, 6)), atol=1e-6)
    assert torch.allclose(b, pooled._module(torch.ones(1, 3, 6) * 2), atol=1e-6)


def test_a_plain_wrapper_batches_too():
    # Departure: the base wrapper of nnsight refuses; here tensors are joined along their first dimension.
    linear = nnsight.NNsight(models.seeded(lambda: nn.Linear(3, 2)))
    x, y = models.noise(2, 3), models.noise(1, 3, seed=1)
    with linear.trace() as tracer:
        with tracer.invoke(x):
            a = linear.output.save()
        with tracer.invoke(y):
            b = linear.output.save()
    assert torch.allclose(a, linear._module(x))
    assert torch.allclose(b, linear._module(y))
