"""Programs in nnsight's style: generation step by step, and caches."""

# These programs are written as nnsight's users write them.
# ruff: noqa: B007, B905

from __future__ import annotations

import pickle

import pytest
import torch

import nbsight as nnsight
from tests.compat import models
from tests.compat.models import LONGER, PROMPT, first, ids_of
from tests.core.small import Repeats, build, hooked, rows

X = rows(2)


def generated(model, prompt, steps, **more):
    """A plain generation with hooks: the ids, and each step's values."""
    ids = ids_of(model, prompt)
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": steps, "do_sample": False, **more}
    return hooked(model._model, (ids,), options, method="generate")


def test_a_loop_reads_every_step(model):
    with model.generate(LONGER, max_new_tokens=4, do_sample=False) as tracer:
        hidden = nnsight.save([])
        for step in tracer.iter[:]:
            hidden.append(model.transformer.h[2].output[0])
        ids = tracer.result.save()
    wanted = generated(model, LONGER, 4)
    assert len(hidden) == 4
    for value, plain in zip(hidden, wanted["transformer.h.2.output"]):
        assert torch.equal(value, first(plain))
    assert torch.equal(ids, wanted[""][0])


@pytest.mark.parametrize(
    ("which", "expected"), [(slice(None, 2), [0, 1]), (slice(1, None), [1, 2, 3]), (2, [2]), ([0, 3], [0, 3])]
)
def test_a_loop_takes_some_of_the_steps(model, which, expected):
    seen = []
    with model.generate(LONGER, max_new_tokens=4, do_sample=False) as tracer:
        for step in tracer.iter[which]:
            seen.append((step, model.lm_head.output[0, -1].argmax()))
    ids = generated(model, LONGER, 4)[""][0][0, -4:]
    assert [step for step, _ in seen] == expected
    assert [int(token) for _, token in seen] == [int(ids[step]) for step in expected]


def test_all_is_every_step(model):
    steps = []
    with model.generate(PROMPT, max_new_tokens=3, do_sample=False) as tracer:
        for step in tracer.all():
            steps.append(step)
    assert steps == [0, 1, 2]


def test_what_follows_a_loop_runs_even_if_the_model_ended_early(model):
    seen = []
    with model.generate(PROMPT, max_new_tokens=2, do_sample=False) as tracer:
        for step in tracer.iter[:10]:
            seen.append(step)
        after = True
        ids = tracer.result.save()
    assert seen == [0, 1]
    assert after
    assert torch.equal(ids, generated(model, PROMPT, 2)[""][0])


def test_negative_steps_are_refused(model):
    with pytest.raises(ValueError, match="steps are counted"):
        with model.generate(PROMPT, max_new_tokens=2) as tracer:
            for step in tracer.iter[-1]:
                pass


def test_an_edit_acts_at_the_step_where_it_is_written(model):
    with model.generate(PROMPT, max_new_tokens=3, do_sample=False) as tracer:
        for step in tracer.iter[:]:
            if step == 1:
                model.transformer.h[0].output[0][:] = 0
        ids = tracer.result.save()
    calls = []

    def silence(value):
        calls.append(1)
        if len(calls) == 2:
            first(value)[:] = 0

    prompt = ids_of(model, PROMPT)
    wanted = hooked(
        model._model,
        (prompt,),
        {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 3, "do_sample": False},
        method="generate",
        edit={"transformer.h.0": silence},
    )
    assert torch.equal(ids, wanted[""][0])


def test_invokes_loop_on_their_own(model):
    with model.generate(max_new_tokens=3, do_sample=False) as tracer:
        with tracer.invoke(PROMPT):
            one = nnsight.save([])
            for step in tracer.iter[:2]:
                one.append(model.lm_head.output[:, -1].argmax(-1))
        with tracer.invoke(LONGER):
            two = nnsight.save([])
            for step in tracer.iter[:]:
                two.append(model.lm_head.output[:, -1].argmax(-1))
    assert [int(token) for token in one] == generated(model, PROMPT, 3)[""][0][0, -3:-1].tolist()
    assert [int(token) for token in two] == generated(model, LONGER, 3)[""][0][0, -3:].tolist()


def test_the_generation_output_of_transformers_is_the_result(model):
    with model.generate(
        PROMPT, max_new_tokens=2, do_sample=False, return_dict_in_generate=True, output_scores=True
    ) as tracer:
        result = nnsight.save(tracer.result)
    wanted = generated(model, PROMPT, 2, return_dict_in_generate=True, output_scores=True)[""][0]
    assert torch.equal(result.sequences, wanted.sequences)
    assert torch.equal(result.scores[1], wanted.scores[1])


def test_sampling_with_a_seed_is_what_transformers_samples(model):
    torch.manual_seed(11)
    with model.generate(PROMPT, max_new_tokens=5, do_sample=True, temperature=1.5) as tracer:
        ids = tracer.result.save()
    torch.manual_seed(11)
    assert torch.equal(ids, generated(model, PROMPT, 5, do_sample=True, temperature=1.5)[""][0])


def test_the_block_form_runs_its_body_at_every_step(model):
    with model.generate(LONGER, max_new_tokens=3, do_sample=False) as tracer:
        hidden = nnsight.save([])
        with tracer.iter[:] as step:
            hidden.append(model.transformer.h[2].output[0])
        ids = tracer.result.save()
    wanted = generated(model, LONGER, 3)
    assert len(hidden) == 3
    for value, plain in zip(hidden, wanted["transformer.h.2.output"]):
        assert torch.equal(value, first(plain))
    assert torch.equal(ids, wanted[""][0])


def test_the_block_form_of_all_edits_every_step(model):
    with model.generate(PROMPT, max_new_tokens=3, do_sample=False) as tracer:
        with tracer.all():
            model.transformer.h[0].mlp.output[:] = 0
        ids = tracer.result.save()
    prompt = ids_of(model, PROMPT)
    wanted = hooked(
        model._model,
        (prompt,),
        {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 3, "do_sample": False},
        method="generate",
        edit={"transformer.h.0.mlp": torch.zeros_like},
    )
    assert torch.equal(ids, wanted[""][0])


def test_the_block_form_in_an_invoke(model):
    with model.generate(max_new_tokens=3, do_sample=False) as tracer:
        with tracer.invoke(PROMPT):
            tokens = nnsight.save([])
            with tracer.iter[:2]:
                tokens.append(model.lm_head.output[0, -1].argmax(-1))
        with tracer.invoke(LONGER):
            ids = tracer.result.save()
    assert [int(token) for token in tokens] == generated(model, PROMPT, 3)[""][0][0, -3:-1].tolist()
    assert torch.equal(ids, generated(model, LONGER, 3)[""][0])


def test_loops_of_the_model_and_of_a_module(model):
    with model.generate(LONGER, max_new_tokens=3, do_sample=False):
        some = [model.lm_head.output[0, -1].argmax() for _ in model.iter[:2]]
    with model.generate(LONGER, max_new_tokens=3, do_sample=False):
        every = [model.lm_head.output[0, -1].argmax() for _ in model.lm_head.all()]
    ids = generated(model, LONGER, 3)[""][0][0, -3:]
    assert torch.equal(torch.stack(some), ids[:2])
    assert torch.equal(torch.stack(every), ids)


def test_next_moves_a_module_on(model):
    with model.generate(LONGER, max_new_tokens=3, do_sample=False):
        first_one = model.lm_head.output[0, -1].argmax().save()
        second = model.lm_head.next().output[0, -1].argmax().save()
        third = model.lm_head.next().output[0, -1].argmax().save()
    assert [int(x) for x in (first_one, second, third)] == generated(model, LONGER, 3)[""][0][0, -3:].tolist()


def test_the_generators_output_is_the_result(model):
    with model.generate(LONGER, max_new_tokens=3, do_sample=False):
        ids = model.generator.output.save()
    assert torch.equal(ids, generated(model, LONGER, 3)[""][0])


def test_the_streamer_has_the_token_of_each_step(model):
    # Departure: nnsight's begins with the prompt; here step k is what step k chose.
    with model.generate(LONGER, max_new_tokens=3, do_sample=False) as tracer:
        tokens = nnsight.save([])
        for step in tracer.iter[:]:
            tokens.append(model.generator.streamer.output)
    assert torch.equal(torch.cat(tokens), generated(model, LONGER, 3)[""][0][0, -3:])


def test_waiting_for_a_module_lets_the_model_go_on(model):
    with model.trace(PROMPT, strict_order=True):
        model.transformer.h[3].wait_for_output()
        with pytest.raises(nnsight.OutOfOrderError):
            model.transformer.h[2].output


def test_calls_of_one_module_in_one_forward_are_counted():
    repeats = nnsight.NNsight(build(Repeats, 3))
    with repeats.trace(X) as tracer:
        outs = []
        for call in tracer.iter[:3]:
            outs.append(repeats.cell.output.save())
        last = repeats.output.save()
    wanted = hooked(repeats._module, (X,))
    assert len(outs) == 3
    for value, plain in zip(outs, wanted["cell.output"]):
        assert torch.equal(value, plain)
    assert torch.equal(last, wanted[""][0])


# -- caches ----------------------------------------------------------------------------------------


def test_a_cache_keeps_every_module(chain):
    with chain.trace(X) as tracer:
        cache = tracer.cache(include_inputs=True)
        chain.h[0].output[:] += 1
    wanted = hooked(chain._module, (X,), edit={"h.0": lambda value: value + 1})
    assert set(cache.keys()) >= {"model.h.0", "model.h.3.lin", "model.head"}
    assert torch.equal(cache["model.h.0"].output, wanted["h.0.output"][0])
    assert torch.equal(cache.h[2].lin.output, wanted["h.2.lin.output"][0])
    assert torch.equal(cache.model.h[2].input, wanted["h.2.inputs"][0][0][0])
    assert torch.equal(cache.head.inputs[0][0], wanted["head.inputs"][0][0][0])
    assert "model.h.1" in cache
    assert "model.h.9" not in cache


def test_a_cache_of_some_modules_has_aliases_and_a_dtype():
    chain = nnsight.NNsight(models.chain(), rename={"h": "layers", "lin": "linear"})
    with chain.trace(X) as tracer:
        cache = tracer.cache(modules=[chain.layers[1], "model.h.2.lin"], dtype=torch.float64)
    wanted = hooked(chain._module, (X,))
    assert cache.keys() == ["model.h.1", "model.h.2.lin"]
    assert cache.layers[1].output.dtype == torch.float64
    assert torch.equal(cache.layers[2].linear.output.float(), wanted["h.2.lin.output"][0])


def test_a_cache_in_an_invoke_has_its_rows(model):
    with model.trace() as tracer:
        with tracer.invoke(PROMPT):
            one = tracer.cache(modules=[model.transformer.h[1]])
        with tracer.invoke(LONGER):
            two = tracer.cache(modules=[model.transformer.h[1]])
    for cache, prompt in ((one, PROMPT), (two, LONGER)):
        plain = hooked(model._model, (ids_of(model, prompt),))["transformer.h.1.output"][0]
        assert torch.allclose(cache.transformer.h[1].output[0], first(plain), atol=1e-5)


def test_a_cache_of_a_generation_has_an_entry_for_each_step(model):
    with model.generate(PROMPT, max_new_tokens=3, do_sample=False) as tracer:
        cache = tracer.cache(modules=[model.transformer.h[1]])
    wanted = generated(model, PROMPT, 3)["transformer.h.1.output"]
    entry = cache["model.transformer.h.1"]
    assert len(entry) == 3
    for value, plain in zip(entry.output, wanted):
        assert torch.equal(value[0], first(plain))


def test_a_cache_comes_first_and_says_so(chain):
    with pytest.raises(ValueError, match="before the first value"):
        with chain.trace(X) as tracer:
            chain.h[0].output
            tracer.cache()


def test_a_cache_can_be_pickled_without_the_model(chain):
    with chain.trace(X) as tracer:
        cache = tracer.cache(modules=["model.h.1"])
    again = pickle.loads(pickle.dumps(cache))
    assert torch.equal(again.h[1].output, cache.h[1].output)
    assert len(pickle.dumps(cache)) < 5000
