"""Plain and steered side by side, against transformers' own generation with a hook and full forwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from nbsight import LanguageModel
from nbsight.analysis.generation_pair import compare_generations
from nbsight.errors import InputError, NbsightWarning

LILY = "Lily saw a"
PARIS = "The Eiffel Tower is in the city of"


@pytest.fixture(scope="module")
def model():
    return LanguageModel("nbsight/demo", dispatch=True)


@pytest.fixture(scope="module")
def vector():
    return torch.randn(64, generator=torch.Generator().manual_seed(1))


def hooked(model, added, run):
    def act(module, given, output):
        return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added

    handle = model._model.transformer.h[6].register_forward_hook(act)
    try:
        with torch.no_grad():
            return run()
    finally:
        handle.remove()


def test_both_texts_and_the_kl_of_each_step_are_those_of_hooks(model, vector):
    pair = compare_generations(model, LILY, model.steer(vector, layer=6, strength=0.2), 8)
    ids = model.to_tokens(LILY)
    options = {
        "max_new_tokens": 8,
        "do_sample": False,
        "pad_token_id": 0,
        "attention_mask": torch.ones_like(ids),
    }
    plain = model._model.generate(ids, **options)[0]
    steered = hooked(model, 0.2 * vector, lambda: model._model.generate(ids, **options))[0]
    start = ids.shape[1]
    assert pair.plain_ids.tolist() == plain[start:].tolist()
    assert pair.ids.tolist() == steered[start:].tolist()
    with torch.no_grad():
        own = model._model(steered[None]).logits[0, start - 1 : -1].log_softmax(-1)
    moved = hooked(model, 0.2 * vector, lambda: model._model(steered[None])).logits[0, start - 1 : -1]
    moved = moved.log_softmax(-1)
    wanted = functional.kl_div(own, moved, log_target=True, reduction="none").sum(-1)
    assert np.allclose(pair.kl, wanted, atol=1e-4)
    chosen = steered[start:, None]
    assert np.allclose(pair.unsteered_probs, own.gather(1, chosen)[:, 0].exp(), atol=1e-5)
    assert np.allclose(pair.probs, moved.gather(1, chosen)[:, 0].exp(), atol=1e-5)
    differ = (plain[start:] != steered[start:]).nonzero()
    assert pair.divergence == (int(differ[0]) if len(differ) else None)
    assert pair.kl.max() > 1e-3
    assert pair.perplexity == pytest.approx(float(np.exp(-np.log(pair.unsteered_probs).mean())), rel=1e-5)


def test_a_strength_of_zero_is_no_difference_at_all(model, vector):
    pair = compare_generations(model, PARIS, model.steer(vector, layer=6, strength=0), 6)
    assert pair.divergence is None
    assert (pair.kl == 0).all()
    assert np.array_equal(pair.probs, pair.unsteered_probs)
    assert pair.plain_text == pair.text == " Paris."
    assert (pair.plain_stop, pair.stop) == ("end", "end")
    assert "the same tokens" in repr(pair)


def test_a_strong_steering_parts_and_is_marked(model, vector):
    pair = compare_generations(model, PARIS, model.steer(vector, layer=6, strength=6), 6)
    assert pair.divergence == 0
    marked = [line for line in repr(pair).splitlines() if line.startswith("→")]
    assert len(marked) == 1
    assert "·Paris" in marked[0]
    assert pair.steering in pair.provenance["steering"]
    assert model.edits == []


def test_texts_of_different_lengths_part_where_one_goes_on(model):
    with model.edit() as (tracer, edited):
        for step in tracer.iter[:]:
            if step == 2:
                edited.output.logits[..., 0] = -100.0
    pair = compare_generations(model, PARIS, edited, 5)
    assert pair.plain_stop == "end"
    assert pair.divergence == 2
    assert len(pair.ids) == 5
    assert pair.kl[:2] == pytest.approx(0.0)


def test_both_draw_the_same_random_numbers(model, vector):
    weak = model.steer(vector, layer=6, strength=1e-9)
    pair = compare_generations(model, LILY, weak, 6, do_sample=True, temperature=1.5, seed=3)
    assert pair.plain_ids.tolist() == pair.ids.tolist()
    assert pair.provenance["seed"] == 3


def test_several_steerings_add_up(model, vector):
    one = compare_generations(model, LILY, model.steer(vector, layer=6, strength=2), 4)
    two = compare_generations(model, LILY, [model.steer(vector, layer=6) for _ in range(2)], 4)
    assert two.ids.tolist() == one.ids.tolist()
    assert two.kl == pytest.approx(one.kl, abs=1e-4)


def test_what_is_no_steering_is_said(model, vector):
    with pytest.raises(InputError, match=r"`steer` is what `model\.steer"):
        compare_generations(model, LILY, vector)
    with pytest.raises(InputError, match="one prompt is compared"):
        compare_generations(model, [LILY, PARIS], model.steer(vector, layer=6))
    with pytest.raises(InputError, match="acts already"), model.steer(vector, layer=6) as acting:
        compare_generations(model, LILY, acting)
    other = LanguageModel("nbsight/demo")
    with pytest.raises(InputError, match="made of another model"):
        compare_generations(other, LILY, model.steer(vector, layer=6))
    assert model.edits == []


def test_an_interrupt_compares_what_there_is(model, vector):
    passes = []

    def interrupt(*_):
        passes.append(1)
        if len(passes) == 7:
            raise KeyboardInterrupt

    handle = model._model.lm_head.register_forward_hook(interrupt)
    try:
        with pytest.warns(NbsightWarning, match="interrupted after 2 tokens"):
            pair = compare_generations(model, LILY, model.steer(vector, layer=6), 4)
    finally:
        handle.remove()
    assert len(pair.plain_ids) == 4
    assert len(pair.ids) == len(pair.kl) == 2
    assert pair.stop == "interrupted"
