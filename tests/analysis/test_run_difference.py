"""The distance of two runs is what plain hooks on both say, and the first place is where they part."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nbsight.analysis.run_difference import compare_runs
from nbsight.errors import InputError, NbsightError, PathError
from nbsight.models.language_model import LanguageModel
from tests.models.architectures import LAYERS
from tests.models.standard_cases import TIER_A, seen_natively

PROMPT = "The Eiffel Tower is in the"
OTHER = "The Eiffel House is in the"
SHORT = "The Colosseum is in the"
IDS = torch.tensor([[7, 8, 9, 10, 11, 12, 13]])
CASES = [case for case in TIER_A if case.architecture is not None]


@pytest.fixture(scope="module")
def demo():
    return LanguageModel("nbsight/demo", dispatch=True)


@pytest.fixture(scope="module")
def half():
    return LanguageModel("nbsight/demo", dispatch=True, dtype=torch.bfloat16)


def hooked(model, prompt, layer):
    """What a block's attention gives and the block itself, by plain hooks, (position, d_model) each."""
    ids = torch.tensor([model.tokenizer(prompt)["input_ids"]])
    found, block = {}, model._model.transformer.h[layer]
    handles = [
        module.register_forward_hook(
            lambda _, __, out, name=name: found.update(
                {name: (out if isinstance(out, torch.Tensor) else out[0])[0].clone()}
            )
        )
        for name, module in (("attn_out", block.attn), ("resid_post", block))
    ]
    with torch.no_grad():
        found["logits"] = model._model(ids).logits[0]
    for handle in handles:
        handle.remove()
    return found


def said(one, other):
    """The three distances with numpy, position by position."""
    one, other = (np.asarray(value.detach().float().numpy(), np.float64) for value in (one, other))
    gap = np.linalg.norm(other - one, axis=-1) / np.linalg.norm(one, axis=-1)
    product = (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)
    return gap, product, np.abs(other - one).max(-1)


def compare(result, site, wanted):
    row = list(result.sites).index(site)
    for name, values in zip(("relative", "cosine", "max_abs"), wanted, strict=True):
        np.testing.assert_allclose(getattr(result, name)[row], values, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("layer", [0, 7])
def test_distances_of_two_prompts_are_those_of_plain_hooks(demo, layer):
    result = compare_runs(demo, PROMPT, OTHER)
    one, other = hooked(demo, PROMPT, layer), hooked(demo, OTHER, layer)
    for name in ("attn_out", "resid_post"):
        compare(result, f"{layer}.{name}", said(one[name], other[name]))
    compare(result, "logits", said(one["logits"], other["logits"]))


def test_two_dtypes_are_two_models_and_rounding_is_no_parting(demo, half):
    result = compare_runs(demo, PROMPT, other=half)
    for layer in (0, 11):
        one, other = hooked(demo, PROMPT, layer), hooked(half, PROMPT, layer)
        compare(result, f"{layer}.attn_out", said(one["attn_out"], other["attn_out"]))
    assert result.tolerance == 3e-2
    assert result.first is None or result.first.relative > 3e-2
    assert result.first_beyond(0).site == "embed"
    assert "bfloat16, not float32" in result.what


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_family_is_read_where_its_own_hooks_are(case):
    module = case.make()
    ids = IDS.clone()
    ids[0, 3] = 40
    result = compare_runs(LanguageModel(module), IDS, ids)
    one, other = seen_natively(case, module, IDS), seen_natively(case, module, ids)
    for layer in range(LAYERS):
        for name in ("resid_pre", "attn_out", "mlp_out", "resid_post"):
            values = [seen[name, layer][0] for seen in (one, other)]
            row = list(result.sites).index(f"{layer}.{name}")
            gap = (values[1] - values[0]).abs().amax(-1)
            np.testing.assert_allclose(result.max_abs[row], gap, rtol=1e-4, atol=1e-6)
    assert (result.first.site, result.first.position) == ("embed", 3)
    assert not result.relative[:, :3].any()  # no model looks ahead


def test_a_run_is_equal_to_itself_here_and_elsewhere(demo):
    for options in ({}, {"remote": "local"}):
        result = compare_runs(demo, PROMPT, **options)
        assert not result.relative.any()
        assert not result.max_abs.any()
        assert (result.cosine == 1).all()
        assert result.first is None
        assert "equal to the last bit at every site" in repr(result)
    assert result.what == "run at local"


@pytest.mark.parametrize("remote", [None, "local"])
def test_a_steering_parts_runs_where_it_acts(demo, remote):
    vector = torch.randn(64, generator=torch.Generator().manual_seed(0))
    steering = demo.steer(vector, layer=4, strength=2, positions=2)
    result = compare_runs(demo, PROMPT, other=steering, remote=remote)
    assert (result.first.site, result.first.position, result.first.token) == ("4.resid_post", 2, " Tower")
    assert [one and one.site for one in result.first_of_tokens()] == [
        *(None, None, "4.resid_post"),
        *["5.attn_out"] * 3,
    ]
    row = list(result.sites).index("4.resid_post")
    np.testing.assert_allclose(result.max_abs[row, 2], 2 * vector.abs().max(), rtol=1e-4)
    assert steering.owner is None


def test_an_edited_copy_parts_where_it_is_edited(demo):
    with demo.edit() as (_, edited):
        edited.transformer.h[3].mlp.output = edited.transformer.h[3].mlp.output * 0
    result = compare_runs(demo, PROMPT, other=edited)
    assert result.first.site == "3.mlp_out"
    assert result.first.relative == 1.0
    assert np.isnan(result.first.cosine)  # of zeros there is none


def test_prompts_of_two_lengths_are_compared_where_they_correspond(demo):
    result = compare_runs(demo, PROMPT, SHORT, align={"Eiffel Tower": "Colosseum"})
    one, other = hooked(demo, PROMPT, 6), hooked(demo, SHORT, 6)
    own, others = list(result.positions), list(result.other_positions)
    assert len(own) < 7
    assert result.tokens[-1] == result.other_tokens[-1] == " the"
    compare(result, "6.resid_post", said(one["resid_post"][own], other["resid_post"][others]))
    with pytest.raises(InputError, match=r'align="diff"'):
        compare_runs(demo, "The Eiffel Tower is in", PROMPT)


def test_masked_scores_are_no_difference(demo):
    names = ["q", "scores", "pattern", "z"]
    result = compare_runs(demo, PROMPT, OTHER, components=names, layers=[-1])
    assert result.sites == ("11.q", "11.scores", "11.pattern", "11.z")
    assert np.isfinite(result.relative).all()
    with demo.trace(PROMPT):
        one = demo.layers[11].attn.pattern[0].clone()
    with demo.trace(OTHER):
        other = demo.layers[11].attn.pattern[0].clone()
    wanted = said(*(value.transpose(0, 1).flatten(1) for value in (one, other)))
    compare(result, "11.pattern", wanted)


def test_masks_of_two_dtypes_do_not_hide_the_scores(demo, half):
    result = compare_runs(demo, PROMPT, other=half, components=["scores"], layers=[6])
    values = []
    for model in (demo, half):
        with model.trace(PROMPT):
            values.append(model.layers[6].attn.scores[0].double().clone())
    seen = torch.ones(6, 6).tril().bool()
    for query in range(6):
        one, other = (value[:, query][:, seen[query]].flatten() for value in values)
        wanted = float((other - one).norm() / one.norm())
        np.testing.assert_allclose(result.relative[0, query], wanted, rtol=1e-6)


def test_a_number_that_is_none_is_infinitely_far(demo):
    with demo.edit() as (_, edited):
        edited.transformer.h[2].mlp.output = edited.transformer.h[2].mlp.output / 0.0
    result = compare_runs(demo, PROMPT, other=edited)
    assert result.first.site == "2.mlp_out"
    assert np.isinf(result.first.relative)
    assert "inf" in repr(result)
    result.plot()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"components": ["resid"]}, "resid_pre, q"),
        ({"components": []}, "at least one component"),
        ({"other": "The Colosseum"}, "`other_prompt`"),
        ({"other": []}, "an empty list"),
        ({"layers": [50]}, "50"),
        ({"components": ["gate"]}, "gate"),
    ],
)
def test_what_cannot_be_compared_is_said(demo, given, named):
    with pytest.raises((InputError, PathError), match=named):
        compare_runs(demo, PROMPT, **given)


def test_models_of_two_shapes_have_no_sites_in_common(demo):
    small = LanguageModel(CASES[0].make())
    with pytest.raises(NbsightError, match="width"):
        compare_runs(demo, IDS, other=small)


def test_a_cell_can_be_asked_by_name_and_pictures_by_statistic(demo):
    result = compare_runs(demo, PROMPT, OTHER)
    cell = result.at("6.resid_post", -1)
    assert (cell.layer, cell.position, cell.token) == (6, 5, " the")
    assert result.at("logits", 0).layer is None
    for what in ("relative", "cosine", "max_abs"):
        assert "apart from embed on" in result.plot(what).get_suptitle()
    with pytest.raises(InputError, match=r"7\.none"):
        result.at("7.none", 0)
    with pytest.raises(InputError, match="there is no 9"):
        result.at("logits", 9)
    with pytest.raises(InputError, match="draws relative"):
        result.plot("kl")
