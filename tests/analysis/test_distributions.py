"""Log-probabilities, entropy and KL of logits, against torch's own functions on unpadded runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from nbsight import LanguageModel
from nbsight.analysis import distributions
from nbsight.analysis.distributions import entropy, kl, log_probs, perplexity
from nbsight.errors import InputError
from tests.compat import models

PROMPTS = ["The Eiffel Tower is in the city of Paris.", "Lily saw a", "One day, a dog saw a cat"]


@pytest.fixture(scope="module")
def model():
    return LanguageModel("nbsight/demo", dispatch=True)


def plain(model, prompt):
    ids = torch.tensor([model.tokenizer(prompt)["input_ids"]])
    with torch.no_grad():
        return ids[0], model._model(ids).logits[0]


def test_log_probs_are_torchs_to_the_bit(model):
    with model.trace(PROMPTS[0]):
        logits = model.output.logits
    found = log_probs(model, PROMPTS[0], logits)
    ids = model.to_tokens(PROMPTS[0])[0]
    wanted = torch.log_softmax(logits[0, :-1].float(), -1).gather(1, ids[1:, None])[:, 0]
    assert math.isnan(found.values[0])
    assert np.array_equal(found.values[1:], wanted.numpy())
    assert found.values.dtype == np.float32
    assert found.total == pytest.approx(float(wanted.sum()), abs=1e-4)
    assert found.tokens == tuple(model.to_str_tokens(PROMPTS[0]))


def test_perplexity_is_the_exponential_of_the_models_own_loss(model):
    ids = model.to_tokens(PROMPTS[0])
    with torch.no_grad():
        loss = model._model(ids, labels=ids).loss
    assert log_probs(model, PROMPTS[0]).perplexity == pytest.approx(float(loss.exp()), rel=1e-5)
    assert perplexity(model, PROMPTS[0]) == pytest.approx(float(loss.exp()), rel=1e-5)
    losses = []
    for prompt in PROMPTS:
        own, logits = plain(model, prompt)
        losses.append(functional.cross_entropy(logits[:-1], own[1:], reduction="none"))
    assert perplexity(model, PROMPTS) == pytest.approx(float(torch.cat(losses).mean().exp()), rel=1e-5)
    with pytest.raises(InputError, match="at least two tokens"):
        perplexity(model, [[5]])


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows_are_as_alone(model, side):
    before = model.tokenizer.padding_side
    model.tokenizer.padding_side = side
    direction = torch.randn(64, generator=torch.Generator().manual_seed(0))
    try:
        with model.trace(PROMPTS):
            logits = model.output
        with model.trace(PROMPTS):
            model.layers[5].resid_post = model.layers[5].resid_post + direction
            changed = model.output.logits
        scores, sure, apart = (
            log_probs(model, PROMPTS, logits),
            entropy(model, PROMPTS, logits),
            kl(model, PROMPTS, changed, logits),
        )
    finally:
        model.tokenizer.padding_side = before
    for row, prompt in enumerate(PROMPTS):
        ids, own = plain(model, prompt)
        logs = own.log_softmax(-1)
        assert np.allclose(scores[row].values[1:], logs[:-1].gather(1, ids[1:, None])[:, 0], atol=1e-4)
        assert np.allclose(sure[row].values, torch.distributions.Categorical(logits=own).entropy(), atol=1e-4)
        with model.trace(prompt):
            model.layers[5].resid_post = model.layers[5].resid_post + direction
            other = model.output.logits[0]
        wanted = functional.kl_div(other.log_softmax(-1), logs, log_target=True, reduction="none").sum(-1)
        assert np.allclose(apart[row].values, wanted, atol=1e-4)
        assert len(apart[row]) == len(ids)
    assert apart[0].values.max() > 1e-3


def test_a_prediction_is_at_no_distance_from_itself_and_by_default_from_the_plain_run(model):
    with model.trace(PROMPTS[1]):
        logits = model.output.logits
    assert (kl(model, PROMPTS[1], logits, logits).values == 0).all()
    assert kl(model, PROMPTS[1], logits).values.max() < 1e-6
    doubled = kl(model, PROMPTS[1], 2 * logits)
    wanted = functional.kl_div(
        (2 * logits[0]).log_softmax(-1), logits[0].log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    assert np.allclose(doubled.values, wanted, atol=1e-4)


def test_tokens_that_are_ruled_out_count_nothing(model):
    with model.trace(PROMPTS[1]):
        logits = model.output.logits.clone()
    logits[..., 10:] = -torch.inf
    assert np.isfinite(entropy(model, PROMPTS[1], logits).values).all()
    assert np.isfinite(kl(model, PROMPTS[1], logits + 0, logits).values).all()
    assert (kl(model, PROMPTS[1], logits, logits.clone().fill_(0)).values == np.inf).all()


def test_half_precision_is_summed_in_float32(model):
    with model.trace(PROMPTS[0]):
        logits = model.output.logits.bfloat16()
    ids = model.to_tokens(PROMPTS[0])[0]
    wanted = logits[0, :-1].double().log_softmax(-1).gather(1, ids[1:, None])[:, 0]
    assert np.allclose(log_probs(model, PROMPTS[0], logits).values[1:], wanted, atol=1e-5)


def test_positions_are_read_in_parts_with_the_same_result(model, monkeypatch):
    whole = [log_probs(model, PROMPTS[0]), entropy(model, PROMPTS[0])]
    monkeypatch.setattr(distributions, "_ROWS", 2)
    parts = [log_probs(model, PROMPTS[0]), entropy(model, PROMPTS[0])]
    for one, other in zip(whole, parts, strict=True):
        assert np.allclose(one.values, other.values, atol=1e-6, equal_nan=True)


def test_an_invokes_logits_are_those_of_its_prompt(model):
    with model.trace() as tracer:
        with tracer.invoke(PROMPTS[0]):
            model.output.logits
        with tracer.invoke(PROMPTS[1]):
            own = model.output.logits
    found = log_probs(model, PROMPTS[1], own)
    assert np.allclose(found.values[1:], log_probs(model, PROMPTS[1]).values[1:], atol=1e-4)


def test_ids_and_a_model_without_a_tokenizer():
    model = LanguageModel(models.gpt2())
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        logits = model._model(ids).logits[0]
    assert np.allclose(log_probs(model, ids).values[1:], logits.log_softmax(-1)[[0, 1], [6, 7]], atol=1e-5)


def test_logits_of_another_prompt_are_refused(model):
    with model.trace(PROMPTS[0]):
        logits = model.output.logits
    with pytest.raises(InputError, match=r"1 row of .* positions, and this prompt is 1 row of 6"):
        log_probs(model, PROMPTS[1], logits)
    with pytest.raises(InputError, match="not cut"):
        entropy(model, PROMPTS[0], logits[:, -1:])
    with pytest.raises(InputError, match=r"logits have shape \(row, position, d_vocab\)"):
        entropy(model, PROMPTS[0], logits[0, 0])


def test_the_text_says_what_the_page_says(model):
    for shown in (log_probs(model, PROMPTS[0]), log_probs(model, PROMPTS)):
        page, text = shown._repr_html_(), repr(shown)
        assert text.splitlines()[0].replace("'", "&#x27;") in page
    assert "perplexity" in repr(log_probs(model, PROMPTS[0]))
    assert "–" in repr(log_probs(model, PROMPTS[0]))
