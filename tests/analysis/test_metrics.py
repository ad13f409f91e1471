"""Metrics are what their names say, computed a second way."""

from __future__ import annotations

import math

import pytest
import torch

from nbsight.analysis.metrics import (
    as_metric,
    kl_divergence,
    log_probability,
    logit_difference,
    probability,
)
from nbsight.errors import InputError
from nbsight.models.language_model import LanguageModel

LOGITS = torch.randn(4, 1100, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture(scope="module")
def model():
    return LanguageModel("nbsight/demo")


def test_a_logit_difference_subtracts_two_logits(model):
    paris, rome = model.to_single_token(" Paris"), model.to_single_token(" Rome")
    metric = logit_difference(model, " Paris", " Rome")
    assert metric(LOGITS).tolist() == [float(row[paris] - row[rome]) for row in LOGITS]
    assert metric.name == "logit difference ' Paris' − ' Rome'"
    assert logit_difference(model, paris, rome)(LOGITS).tolist() == metric(LOGITS).tolist()


def test_a_probability_is_the_share_of_the_exponentials(model):
    paris = model.to_single_token(" Paris")
    want = [math.exp(row[paris]) / sum(math.exp(value) for value in row) for row in LOGITS.double().tolist()]
    assert probability(model, " Paris")(LOGITS).tolist() == pytest.approx(want, rel=1e-5)
    logs = [math.log(value) for value in want]
    assert log_probability(model, " Paris")(LOGITS).tolist() == pytest.approx(logs, rel=1e-5)


def test_a_divergence_is_torchs_own(model):
    metric = kl_divergence(LOGITS[0])
    want = torch.nn.functional.kl_div(
        LOGITS.log_softmax(-1), LOGITS[0].log_softmax(-1).expand_as(LOGITS), log_target=True, reduction="none"
    ).sum(-1)
    assert torch.allclose(metric(LOGITS), want, atol=1e-5)
    assert float(metric(LOGITS)[0]) == pytest.approx(0, abs=1e-6)


def test_half_precision_is_measured_in_single(model):
    half = LOGITS.bfloat16()
    assert probability(model, " Paris")(half).dtype == torch.float32


def test_a_function_is_a_metric():
    def top_logit(logits):
        return logits.max(-1).values

    assert as_metric(top_logit).name == "top logit"
    assert as_metric(lambda logits: logits[:, 0]).name == "metric"
    metric = as_metric(top_logit)
    assert as_metric(metric) is metric


def test_what_is_no_metric_is_refused(model):
    with pytest.raises(InputError, match=r"a metric is a function of logits \(row, d_vocab\); this is a str"):
        as_metric("logit")
    with pytest.raises(InputError, match=r"`logits\[0, -1\]`"):
        kl_divergence(LOGITS)
    with pytest.raises(InputError, match="the two tokens are the same, ' Paris'"):
        logit_difference(model, " Paris", " Paris")
    with pytest.raises(InputError, match="there is no token 5000; the vocabulary has ids 0 to"):
        probability(model, 5000)


def test_an_answer_of_several_tokens_is_shown_in_pieces(model):
    with pytest.raises(InputError, match="Constantinople"):
        logit_difference(model, " Constantinople", " Rome")
