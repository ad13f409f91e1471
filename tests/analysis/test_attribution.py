"""Estimates are the gradient times the distance, by plain hooks; where a model is linear they are exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nbsight.analysis.attribution import attribution_patching
from nbsight.analysis.patching import activation_patching
from nbsight.errors import InputError
from nbsight.models.language_model import LanguageModel
from nbsight.results.base import load_result
from tests.models.standard_cases import TIER_A, TIER_B, hooks

CLEAN, CORRUPTED = "The Eiffel Tower is in the city of", "The Colosseum is in the city of"
ANSWERS = (" Paris", " Rome")
IDS = torch.tensor([[7, 8, 9, 10, 11, 12, 13]])
OTHER = torch.tensor([[7, 8, 20, 21, 11, 12, 13]])
CASES = [case for case in (*TIER_A, *TIER_B) if case.architecture is not None]


@pytest.fixture(scope="module")
def model():
    return LanguageModel("nbsight/demo", dispatch=True)


def by_hooks(case, module):
    """The distance of the two runs times the gradient of a logit difference, after every block."""
    held = {}

    def grab(run, layer):
        def hook(_, __, output):
            value = output[0] if isinstance(output, tuple) else output
            held[run, layer] = value
            if run == "corrupted":
                value.retain_grad()

        return hook

    blocks = module.get_submodule(case.blocks)
    for run, ids in (("clean", IDS), ("corrupted", OTHER)):
        with hooks(*((block, grab(run, layer), "output") for layer, block in enumerate(blocks))):
            logits = module(ids).logits
        if run == "corrupted":
            (logits[0, -1, 3] - logits[0, -1, 5]).backward()
    return [
        ((held["clean", layer] - held["corrupted", layer]) * held["corrupted", layer].grad)
        .sum(-1)[0]
        .detach()
        for layer in range(len(blocks))
    ]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_estimates_are_what_hooks_give(case):
    module = case.make()
    found = attribution_patching(LanguageModel(module), IDS, OTHER, answers=(3, 5))
    assert all(parameter.grad is None for parameter in module.parameters())
    wanted = torch.stack(by_hooks(case, module)).numpy()
    np.testing.assert_allclose(found.effect[0, 0], wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_small_step_is_what_patching_does(case):
    """Where the two runs differ little, the estimate is the patch."""
    if case.name == "gpt_oss":
        pytest.skip("its router chooses other experts after the smallest step, so no gradient is near")
    module = case.make()
    embed = module.get_input_embeddings().weight
    with torch.no_grad():
        embed[20], embed[21] = embed[9] + 0.01 * embed[20], embed[10] + 0.01 * embed[21]
    model = LanguageModel(module)
    sites = ("resid_pre", "z", "attn_out", "mlp_out", "resid_post")
    asked = {"answers": (3, 5), "sites": sites}
    estimate = attribution_patching(model, IDS, OTHER, **asked)
    exact = activation_patching(model, IDS, OTHER, **asked)
    size = np.nanmax(np.abs(exact.effect))
    np.testing.assert_allclose(estimate.effect / size, exact.effect / size, atol=0.03)
    heads = np.nanmax(np.abs(exact.head_effect))
    np.testing.assert_allclose(estimate.head_effect / heads, exact.head_effect / heads, atol=0.03)


def test_the_check_does_real_patches(model):
    found = attribution_patching(model, CLEAN, CORRUPTED, answers=ANSWERS, sites=["resid_post", "z"])
    check = found.check(15)
    exact = activation_patching(model, CLEAN, CORRUPTED, answers=ANSWERS, sites=["resid_post", "z"])
    assert len(check.places) == 15
    assert np.all(np.diff(np.abs(check.estimate)) <= 1e-12)
    for place, value in zip(check.places, check.exact, strict=True):
        site, layer, *rest = place.split()
        position = int(place.rsplit("(", 1)[1][:-1])
        if site == "z":
            assert value == pytest.approx(exact.head_effect[0, int(layer), position, int(rest[1])], abs=1e-4)
        else:
            assert value == pytest.approx(exact.effect[0, 0, int(layer), position], abs=1e-4)
    assert -1 <= check.correlation <= 1
    assert "correlation" in repr(check)
    check.plot()


def test_more_steps_end_where_the_effects_of_all_embeddings_add_up(model):
    """At the first block's input the steps are a path integral, whose sum over positions is the whole way."""
    asked = {"answers": ANSWERS, "sites": ["resid_pre"], "layers": [0]}
    many = attribution_patching(model, CLEAN, CORRUPTED, steps=64, **asked)
    whole = float(many.clean[0] - many.corrupted[0])
    assert float(many.effect.sum()) == pytest.approx(whole, rel=0.02)
    one = attribution_patching(model, CLEAN, CORRUPTED, **asked)
    assert abs(float(one.effect.sum()) - whole) > abs(float(many.effect.sum()) - whole)


def test_several_pairs_spans_alignment_and_both_directions(model):
    longer = "The famous Colosseum is in the city of"
    aligned = attribution_patching(
        model, CLEAN, longer, answers=ANSWERS, align="diff", positions=[-1], direction="noise"
    )
    assert aligned.values.shape == (1, 1, 12, 1)
    pairs = [(CLEAN, CORRUPTED), ("The capital of France is", "The capital of Italy is")]
    many = attribution_patching(
        model, *zip(*pairs, strict=True), answers=ANSWERS, positions={"subject": [2, 3], "last": -1}
    )
    one = attribution_patching(model, CLEAN, CORRUPTED, answers=ANSWERS)
    np.testing.assert_allclose(many.effect[0, 0, :, 0], one.effect[0, 0, :, 2:4].sum(-1), rtol=1e-6)
    assert many.check(3).exact.shape == (3,)


def test_what_cannot_be_done_is_said(model, tmp_path):
    with pytest.raises(InputError, match="needs the gradient of the metric"):
        attribution_patching(model, CLEAN, CORRUPTED, metric=lambda logits: logits[:, 0].detach().numpy())
    with pytest.raises(InputError, match="takes the gradient nowhere"):
        attribution_patching(model, CLEAN, CORRUPTED, answers=ANSWERS, steps=0)
    with pytest.raises(InputError, match="aligned in parts only"):
        attribution_patching(
            model, CLEAN, "The Colosseum is in", answers=ANSWERS, align="diff", positions=[0], steps=3
        )
    found = attribution_patching(model, CLEAN, CORRUPTED, answers=ANSWERS, layers=[1])
    with pytest.raises(InputError, match="checks nothing"):
        found.check(0)
    back = load_result(found.save(tmp_path / "found"))
    assert back.hash == found.hash
    with pytest.raises(InputError, match="loaded from a file"):
        back.check()
