"""Programs in nnsight's style: corners of blocks that wait, of edits, of gradients; small studies."""

# These programs are written as nnsight's users write them.
# ruff: noqa: B007

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import transformers

import nbsight as nnsight
from tests.compat import models
from tests.compat.models import LONGER, OTHER, PROMPT, first, ids_of, noise
from tests.core.small import hooked, rows, run_cell

X, Y = rows(2), rows(1, seed=4)


def test_a_number_from_outside_grows_in_an_invoke(chain):
    total = 0.0
    with chain.trace() as tracer:
        with tracer.invoke(X):
            total = total + float(chain.h[0].output.sum())
        with tracer.invoke(Y):
            total += float(chain.h[1].output.sum())
    wanted = (
        hooked(chain._module, (X,))["h.0.output"][0].sum()
        + hooked(chain._module, (Y,))["h.1.output"][0].sum()
    )
    assert total == pytest.approx(float(wanted), abs=1e-4)


def test_a_name_bound_by_a_later_invoke_is_awaited(chain):
    with chain.trace() as tracer:
        with tracer.invoke(Y):
            hidden = chain.h[2].output
            chain.h[2].output[:] = donor  # noqa: F821
            out = chain.output.save()
        with tracer.invoke(rows(1, seed=9)):
            donor = chain.h[1].output
            other = chain.output.save()
    there = hooked(chain._module, (rows(1, seed=9),))["h.1.output"][0]
    wanted = hooked(chain._module, (Y,), edit={"h.2": lambda _: there})
    assert torch.allclose(out, wanted[""][0], atol=1e-6)


def test_a_cell_that_is_run_again_has_no_stale_names(chain):
    names = {"chain": chain, "X": X, "Y": Y}
    cell = """
        with chain.trace() as tracer:
            with tracer.invoke(X):
                donor = chain.h[1].output[:1]
            with tracer.invoke(Y):
                chain.h[2].output[:] = donor
                out = chain.output.save()
    """
    run_cell(cell, names)
    before = names["out"]
    names["X"] = X * 2
    run_cell(cell, names)
    there = hooked(chain._module, (X * 2,))["h.1.output"][0][:1]
    wanted = hooked(chain._module, (Y,), edit={"h.2": lambda _: there})
    assert torch.allclose(names["out"], wanted[""][0], atol=1e-6)
    assert not torch.equal(names["out"], before)


def test_functions_and_unpacking_inside_an_invoke(chain):
    def scaled(value, by=2):
        return value * by

    with chain.trace() as tracer:
        with tracer.invoke(X):
            a, b = chain.h[0].output.save(), chain.h[1].output.save()
            c = [scaled(block.output, by=3) for block in chain.h[2:]]
        with tracer.invoke(Y) as inner:
            d = {place: block.output.sum() for place, block in enumerate(chain.h)}
    wanted, small = hooked(chain._module, (X,)), hooked(chain._module, (Y,))
    assert torch.allclose(a, wanted["h.0.output"][0], atol=1e-6)
    assert torch.allclose(b, wanted["h.1.output"][0], atol=1e-6)
    assert torch.allclose(c[1], wanted["h.3.output"][0] * 3, atol=1e-5)
    assert torch.allclose(d[2], small["h.2.output"][0].sum(), atol=1e-5)


def test_an_error_in_an_invoke_is_the_users_own_on_their_line(chain):
    with pytest.raises(ZeroDivisionError) as caught:
        with chain.trace() as tracer:
            with tracer.invoke(X):
                hidden = chain.h[0].output
                1 / 0  # the line
            with tracer.invoke(Y):
                chain.output.save()
    lines = [entry.name for entry in caught.traceback]
    assert "test_an_error_in_an_invoke_is_the_users_own_on_their_line" in lines
    with chain.trace(X):
        out = chain.output.save()
    assert torch.equal(out, chain._module(X))


def test_a_skip_for_the_whole_batch_stands_in_an_empty_invoke(chain):
    with chain.trace() as tracer:
        with tracer.invoke(X):
            out = chain.output.save()
        with tracer.invoke(Y):
            other = chain.output.save()
        with tracer.invoke():
            chain.h[1].skip(chain.h[1].input)
    for value, given in ((out, X), (other, Y)):
        hidden = given
        for place in (0, 2, 3):
            hidden = chain._module.h[place](hidden)
        assert torch.allclose(value, chain._module.head(hidden), atol=1e-6)


def test_three_invokes_meet_at_a_barrier_twice(chain):
    with chain.trace() as tracer:
        barrier = tracer.barrier(3)
        with tracer.invoke(Y):
            a = chain.h[0].output.clone()
            barrier()
            b = chain.h[2].output.clone()
            barrier()
        with tracer.invoke(Y * 2):
            barrier()
            chain.h[1].output[:] = a
            barrier()
            one = chain.output.save()
        with tracer.invoke(Y * 3):
            barrier()
            barrier()
            chain.h[3].output[:] = b
            two = chain.output.save()
    wanted = hooked(chain._module, (Y,))
    first_, third = wanted["h.0.output"][0], wanted["h.2.output"][0]
    assert torch.allclose(
        one, hooked(chain._module, (Y * 2,), edit={"h.1": lambda _: first_})[""][0], atol=1e-6
    )
    assert torch.allclose(
        two, hooked(chain._module, (Y * 3,), edit={"h.3": lambda _: third})[""][0], atol=1e-6
    )


def test_the_result_in_an_invoke_is_that_prompts_own(model):
    with model.generate(max_new_tokens=3, do_sample=False) as tracer:
        with tracer.invoke(LONGER):
            one = tracer.result.save()
        with tracer.invoke([PROMPT, OTHER]):
            two = tracer.result.save()
    alone = model.generate(LONGER, max_new_tokens=3, do_sample=False)
    assert torch.equal(one[:, : alone.shape[1]], alone)
    assert two.shape[0] == 2


def test_an_edit_without_a_loop_acts_on_the_prompt_pass_alone(model):
    with model.edit() as (tracer, edited):
        edited.transformer.h[0].output[0][:] = 0
    with edited.generate(LONGER, max_new_tokens=3, min_new_tokens=3, do_sample=False) as tracer:
        sums = []
        for step in tracer.iter[:]:
            sums.append(float(edited.transformer.h[0].output[0].abs().sum()))
    assert sums[0] == 0
    assert all(value > 0 for value in sums[1:])


def test_an_edit_stays_when_the_weights_are_loaded():
    lazy = nnsight.LanguageModel("nbsight/demo", rename={"transformer.h": "layers"})
    with lazy.edit(inplace=True):
        lazy.layers[2].output[0][:] = 0
    assert not lazy.dispatched
    with lazy.trace(PROMPT):
        hidden = lazy.layers[2].output[0].save()
    assert lazy.dispatched
    assert float(hidden.abs().sum()) == 0


def test_a_module_whose_source_was_read_can_be_copied_and_pickled():
    gpt2 = nnsight.NNsight(models.gpt2())
    ids = torch.tensor([[5, 6, 7]])
    with gpt2.trace(ids):
        gpt2.transformer.h[0].mlp.source.self_act_0.output.save()
    for other in (copy.deepcopy(gpt2._module), pickle.loads(pickle.dumps(gpt2._module))):
        assert torch.equal(other(ids).logits, gpt2._module(ids).logits)


def test_a_dual_encoder_takes_text_and_images_together():
    config = transformers.CLIPConfig(
        text_config={**models.TINY, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1,
                     "num_attention_heads": 2, "max_position_embeddings": 12},
        vision_config={"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1,
                       "num_attention_heads": 2, "image_size": 8, "patch_size": 4},
        projection_dim=8,
    )  # fmt: skip
    clip = nnsight.TransformersModel(models.seeded(lambda: transformers.CLIPModel(config)))
    call = {"input_ids": torch.tensor([[5, 6, 2], [7, 8, 2]]), "pixel_values": noise(2, 3, 8, 8)}
    with clip.trace(**call):
        text = nnsight.save(clip.text_model.encoder.layers[0].output)
        scores = clip.output.logits_per_image.save()
    wanted = hooked(clip._module, (), call)
    assert torch.equal(first(text), first(wanted["text_model.encoder.layers.0.output"][0]))
    assert torch.equal(scores, wanted[""][0].logits_per_image)


def test_a_causal_trace_over_layers_in_one_session(model):
    clean, corrupted = PROMPT, OTHER
    effects = []
    with model.session():
        with model.trace(clean):
            donors = [block.output[0][:, -1].clone() for block in model.transformer.h]
        for layer in range(0, 12, 4):
            with model.trace(corrupted):
                model.transformer.h[layer].output[0][:, -1] = donors[layer]
                effects.append(model.lm_head.output[0, -1].softmax(-1)[7].item())

    plain = hooked(model._model, (ids_of(model, clean),))
    for place, layer in enumerate(range(0, 12, 4)):
        there = first(plain[f"transformer.h.{layer}.output"][0])[:, -1]

        def patch(value, there=there):
            first(value)[:, -1] = there

        run = hooked(model._model, (ids_of(model, corrupted),), edit={f"transformer.h.{layer}": patch})
        assert effects[place] == pytest.approx(
            run["lm_head.output"][0][0, -1].softmax(-1)[7].item(), abs=1e-6
        )


def test_heads_are_ablated_one_by_one(model):
    width = 64 // model.config.n_head
    ids = ids_of(model, PROMPT)
    for head in (0, model.config.n_head - 1):
        with model.trace(PROMPT):
            model.transformer.h[3].attn.c_proj.input[:, :, head * width : (head + 1) * width] = 0
            logits = model.output.logits.save()

        def silence(given, named, head=head):
            changed = given[0].clone()
            changed[:, :, head * width : (head + 1) * width] = 0
            return ((changed, *given[1:]), named)

        wanted = hooked(model._model, (ids,), edit_input={"transformer.h.3.attn.c_proj": silence})[""][
            0
        ].logits
        assert torch.equal(logits, wanted)


def test_a_probe_is_trained_through_the_model(model):
    module = nnsight.LanguageModel(copy.deepcopy(model._model), tokenizer=model.tokenizer)
    for parameter in module._module.parameters():
        parameter.requires_grad_(False)
    offset = torch.zeros(64, requires_grad=True)
    optimizer = torch.optim.SGD([offset], lr=1.0)
    losses = []
    for _ in range(3):
        with module.trace(PROMPT, grad=True):
            module.transformer.h[2].output[0][:] += offset
            loss = -module.output.logits[0, -1].log_softmax(-1)[7]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > losses[1] > losses[2]


def test_old_names_of_iteration_mean_nothing_outside_a_trace(model):
    # Departure: deprecated in nnsight; they are there while a trace runs (test_generation.py).
    for name in ("iter", "all", "next", "wait_for_output"):
        with pytest.raises(AttributeError):
            getattr(model, name)


def test_values_cannot_be_written_where_nothing_runs(chain):
    with pytest.raises(ValueError, match="inside a trace"):
        chain.h[0].output = torch.zeros(1)


def test_a_backward_block_on_plain_tensors_is_a_function_here():
    # Departure: torch's own `backward` is left alone outside traces.
    x = torch.arange(3.0, requires_grad=True)
    y = x * 2
    with nnsight.backward((y * y).sum()):
        grad = y.grad.clone()
    assert torch.equal(grad, 2 * y.detach())
    with pytest.raises((TypeError, AttributeError)):
        with (x * 3).sum().backward():
            pass
