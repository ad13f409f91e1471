"""What the parts add is a sum that is the model's own logit, and each term is what hooks give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nbsight.analysis.direct import direct_attribution
from nbsight.analysis.frozen import frozen
from nbsight.analysis.unembedding import unembedding_of
from nbsight.errors import InputError, UnknownArchitectureError
from nbsight.models.language_model import LanguageModel
from tests.models.architectures import LAYERS
from tests.models.standard_cases import TIER_A, TIER_B, Case, seen_natively

IDS = torch.tensor([[7, 8, 9, 10, 11, 12, 13]])
PROMPT = "The Eiffel Tower is in the city of"
CASES = [case for case in (*TIER_A, *TIER_B) if case.architecture is not None]
AFTER = ("gemma2", "gemma3", "olmo2", "olmo3", "glm4")


@pytest.fixture(scope="module")
def demo():
    return LanguageModel("nbsight/demo", dispatch=True)


def slope(module, case: Case, final: torch.Tensor, part: torch.Tensor, token: int) -> torch.Tensor:
    """d/ds of the logit at final + s·part with the norm's divisor held, by the chain rule on the real norm.

    A norm's Jacobian is that of the held norm minus a term along the normalised stream; adding that term
    back is arithmetic of another kind than `frozen` does.
    """
    norm = module.get_submodule(case.ln_final)
    final, part = final.double(), part.double()
    norm = norm.double()
    _, moved = torch.autograd.functional.jvp(norm, final, part)
    centred = final - final.mean(-1, keepdim=True)
    is_centred = torch.allclose(norm(final), norm(final + 1.0), atol=1e-4)
    base = centred if is_centred else final
    names = [name for name in ("eps", "variance_epsilon") if hasattr(norm, name)]
    eps = getattr(norm, names[0]) if names else 1e-5  # OLMo's is written into its forward
    along = (base * part).mean(-1, keepdim=True) / (base.square().mean(-1, keepdim=True) + eps)
    bias = norm(torch.zeros_like(final))
    return (moved + along * (norm(final) - bias)) @ module.get_output_embeddings().weight[token].double()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_parts_add_up_to_the_models_own_logit(case):
    module = case.make()
    found = direct_attribution(LanguageModel(module), IDS, 3, positions=[2, -1])
    with torch.no_grad():
        logits = module(IDS).logits[0, [2, 6], 3].double()
    cap = getattr(module.config, "final_logit_softcapping", None)
    own = found.contribution.sum(0)
    own = np.tanh(own / cap) * cap if found.capped else own
    assert found.capped == bool(cap)
    np.testing.assert_allclose(own, logits, atol=2e-5)
    assert found.parts[-1] == "bias"
    assert found.kinds.count("mlp_out") == LAYERS


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_part_adds_what_the_held_norm_gives_for_it(case):
    module = case.make()
    found = direct_attribution(LanguageModel(module), IDS, (3, 5))
    seen = seen_natively(case, module, IDS)
    final = seen["resid_post", LAYERS - 1][:, -1:]
    way = unembedding_of(LanguageModel(module), IDS)
    if len(way.chain) != 1:
        pytest.skip("the oracle knows one norm before the unembedding; the sum is checked above")
    factor = frozen(way, final[0], [3]).factor
    for layer in range(LAYERS):
        for name in ("attn_out", "mlp_out"):
            part = seen[name, layer][:, -1:]
            wanted = slope(module, case, final, part, 3) - slope(module, case, final, part, 5)
            row = list(found.parts).index(f"{name} {layer}")
            np.testing.assert_allclose(
                found.contribution[row], wanted.detach()[0] * factor, rtol=1e-4, atol=2e-6
            )


def test_heads_and_the_bias_of_attention_add_up_to_attention(demo):
    whole = direct_attribution(demo, PROMPT, (" Paris", " Rome"), positions=["Eiffel Tower", -1])
    split = direct_attribution(demo, PROMPT, (" Paris", " Rome"), positions=["Eiffel Tower", -1], heads=True)
    heads = split.by_head()
    assert heads.shape == (12, 4, 3)
    both = heads.sum(1) + split.by_layer("attn bias")
    np.testing.assert_allclose(both, whole.by_layer("attn_out"), atol=1e-5)
    np.testing.assert_allclose(split.logit, whole.logit)
    assert np.abs(split.gap).max() < 1e-4
    with torch.no_grad():
        logits = demo._model(demo.to_tokens(PROMPT)).logits[0, -1].double()
    paris, rome = demo.to_single_token(" Paris"), demo.to_single_token(" Rome")
    assert split.logit[-1] == pytest.approx(float(logits[paris] - logits[rome]), abs=1e-4)


@pytest.mark.parametrize("case", [case for case in CASES if case.name in AFTER], ids=str)
def test_heads_behind_which_a_norm_stands_are_refused(case):
    with pytest.raises(UnknownArchitectureError, match="the heads of layer 0 do not add up"):
        direct_attribution(LanguageModel(case.make()), IDS, 3, heads=True)


def test_an_edit_that_adds_to_the_stream_is_no_silent_part(demo):
    with demo.edit(inplace=True):
        demo.transformer.h[4].output[0][:, -1] += torch.randn(64)
    try:
        with pytest.raises(UnknownArchitectureError, match="do not add up to its logits"):
            direct_attribution(demo, PROMPT, " Paris")
    finally:
        demo.clear_edits()


def test_a_norm_of_odd_width_and_a_module_that_is_none():
    from nbsight.analysis.unembedding import Unembedding

    norm, head = torch.nn.LayerNorm(7), torch.nn.Linear(7, 11)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    stream = torch.randn(3, 7)
    way = frozen(Unembedding((norm,), head), stream, [2, 9])
    wanted = head(norm(stream))[:, [2, 9]].double()
    torch.testing.assert_close(way.of(stream) + way.constant, wanted, atol=1e-5, rtol=1e-5)
    with pytest.raises(UnknownArchitectureError, match="a Tanh stands before the unembedding"):
        frozen(Unembedding((torch.nn.Tanh(),), head), stream, [2])
    quantised = torch.nn.Linear(7, 11)
    del quantised.weight
    with pytest.raises(UnknownArchitectureError, match="a Linear without a plain matrix"):
        frozen(Unembedding((norm,), quantised), stream, [2])


def test_what_cannot_be_done_is_said(demo):
    for answers, said in [
        ([], "answers are one token"),
        ((" Paris", " Rome", " Berlin"), "answers are one token"),
        ((" Paris", " Paris"), "answers are one token"),
        (" Eiffel Tower", "2 tokens, not one"),
    ]:
        with pytest.raises(InputError, match=said):
            direct_attribution(demo, PROMPT, answers)
    found = direct_attribution(demo, PROMPT, " Paris")
    with pytest.raises(InputError, match="Write `direct_attribution"):
        found.by_head()
    with pytest.raises(InputError, match="1 positions were split, 0 to 0; there is no 1"):
        found.top(position=1)
    with pytest.raises(InputError, match="draws waterfall or heads; not 'pie'"):
        found.plot("pie")


def test_the_picture_ends_at_the_logit(demo):
    found = direct_attribution(demo, PROMPT, (" Paris", " Rome"), heads=True)
    steps = found._steps(0, 20)
    assert len(steps) == 21
    assert steps[-1][0] == f"{len(found.parts) - 20} others"
    assert sum(value for _, value in steps) == pytest.approx(found.logit[0], abs=1e-4)
    figure = found.plot()
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[-1] == f"{found.contribution.sum():+.2f}"
    assert found.top(3)[0][0] in {label.get_text() for label in figure.axes[0].get_yticklabels()}
