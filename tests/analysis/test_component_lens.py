"""What a component points at is what the model says when its last norm reads that component alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nbsight.analysis.component_lens import component_lens
from nbsight.analysis.lens import logit_lens
from nbsight.errors import InputError, PathError, UnknownArchitectureError
from nbsight.models.language_model import LanguageModel
from tests.models.architectures import LAYERS
from tests.models.standard_cases import TIER_A, TIER_B, Case, hooks, seen_natively

IDS = torch.tensor([[7, 8, 9, 10, 11, 12, 13]])
PROMPT = "The Eiffel Tower is in the city of"
CASES = [case for case in (*TIER_A, *TIER_B) if case.architecture is not None]
#: A norm stands between the heads and the stream.
AFTER = ("gemma2", "gemma3", "olmo2", "olmo3", "glm4")


@pytest.fixture(scope="module")
def demo():
    return LanguageModel("nbsight/demo", dispatch=True)


def said_of(case: Case, module, vector: torch.Tensor) -> torch.Tensor:
    """The model's own probabilities when the stream before its last norm is replaced, (position, d_vocab)."""

    def instead(_, args, kwargs):
        return (vector, *args[1:]), kwargs

    with torch.no_grad(), hooks((module.get_submodule(case.ln_final), instead, "input")):
        return module(IDS).logits[0].double().softmax(-1)


def compare(lens, component: str, layer: int, wanted: torch.Tensor) -> None:
    at = lens.components.index(component)
    probs = wanted.topk(4).values.numpy()
    np.testing.assert_allclose(lens.top_probs[at, layer], probs, rtol=1e-4)
    own = np.take_along_axis(wanted.numpy(), lens.top_ids[at, layer], -1)
    np.testing.assert_allclose(own, probs, rtol=1e-4)  # the same tokens, ties aside
    logs = wanted.log()
    np.testing.assert_allclose(lens.entropy[at, layer], -(wanted * logs).sum(-1), rtol=1e-4)
    np.testing.assert_allclose(lens.track_probs[at, layer, :, 0], wanted[:, 3], rtol=1e-4)
    ranks = (wanted > wanted[:, 3:4]).sum(-1).numpy()
    assert np.abs(lens.track_ranks[at, layer, :, 0] - ranks).max() <= 1


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_component_is_read_as_the_model_reads_its_stream(case):
    module = case.make()
    lens = component_lens(LanguageModel(module), IDS, top_k=4, track=[3])
    seen = seen_natively(case, module, IDS)
    names = [name for name in lens.components if name not in ("embed", "pos_embed")]
    assert ("resid_mid" in names) == (case.mid is not None)
    final = said_of(case, module, seen["resid_post", LAYERS - 1])
    for name in names:
        for layer in range(LAYERS):
            wanted = said_of(case, module, seen[name, layer])
            compare(lens, name, layer, wanted)
            kl = (final * (final.log() - wanted.log())).sum(-1)
            at = lens.components.index(name)
            np.testing.assert_allclose(lens.kl[at, layer], kl, rtol=1e-3, atol=1e-5)
            norm = seen[name, layer][0].norm(dim=-1)
            np.testing.assert_allclose(lens.norm[at, layer], norm, rtol=1e-5)
    if case.embed is not None and case.pos is None:
        compare(lens, "embed", 0, said_of(case, module, seen["embed"]))
        assert np.isnan(lens.top_probs[lens.components.index("embed"), 1]).all()


@pytest.mark.parametrize("case", [case for case in CASES if case.name not in AFTER], ids=str)
def test_a_head_is_read_as_what_is_left_when_the_others_are_silent(case):
    module = case.make()
    lens = component_lens(LanguageModel(module), IDS, components=[], heads=[1, 4], top_k=4, track=[3])
    assert lens.components == ("head_1", "head_4")
    seen = seen_natively(case, module, IDS)
    for layer in range(LAYERS):
        block = module.get_submodule(case.blocks)[layer]
        z = seen["z", layer]
        for head in (1, 4):
            alone = torch.zeros_like(z).unflatten(-1, (6, -1))
            alone[..., head, :] = z.unflatten(-1, (6, -1))[..., head, :]
            mix = block.get_submodule(case.mix)
            with torch.no_grad():
                added = mix(alone.flatten(-2)) - mix(torch.zeros_like(z))
            compare(lens, f"head_{head}", layer, said_of(case, module, added * case.factor))


@pytest.mark.parametrize("case", [case for case in CASES if case.name in AFTER], ids=str)
def test_heads_behind_which_a_norm_stands_have_no_part_of_their_own(case):
    with pytest.raises(UnknownArchitectureError, match="the heads of layer 0 do not add up"):
        component_lens(LanguageModel(case.make()), IDS, heads=True)


def test_the_stream_after_each_block_is_the_logit_lens(demo):
    lens = component_lens(demo, PROMPT, top_k=3, track=[" Paris"])
    plain = logit_lens(demo, PROMPT, top_k=3, track=[" Paris"], statistics=True)
    own = lens.of("resid_post")
    assert np.array_equal(own.top_ids, plain.top_ids)
    for name in ("top_probs", "entropy", "kl", "track_probs", "track_ranks"):
        np.testing.assert_allclose(getattr(own, name), getattr(plain, name), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(lens.of("resid_pre").top_probs[1:], plain.top_probs[:-1], rtol=1e-4)
    assert lens.of("embed").layers == (0,)
    assert lens.of("embed").top_tokens[0, 2, 0] == " Tower"


def test_positions_are_chosen_by_number_and_string(demo):
    every = component_lens(demo, PROMPT, components=["mlp_out"])
    some = component_lens(demo, PROMPT, components=["mlp_out"], positions=["Eiffel Tower", -1])
    assert some.positions == (1, 2, 7)
    assert some.tokens == (" Eiffel", " Tower", " of")
    np.testing.assert_allclose(some.top_probs, every.top_probs[:, :, [1, 2, 7]], rtol=1e-4)
    ids = demo.to_tokens(PROMPT)
    np.testing.assert_allclose(
        component_lens(demo, ids, components="mlp_out", positions=-1).kl, every.kl[:, :, -1:], atol=1e-5
    )


def test_what_cannot_be_done_is_said(demo):
    for options, said in [
        ({"components": ["resid"]}, "there is no component 'resid'; there are embed,"),
        ({"heads": [4]}, "the model has 4 heads, 0 to 3; there is no 4"),
        ({"top_k": 0}, "keeps no tokens"),
        ({"track": [" Eiffel Tower"]}, "2 tokens, not one"),
        ({"positions": "Colosseum"}, "'Colosseum' does not occur in"),
    ]:
        with pytest.raises(InputError, match=said):
            component_lens(demo, PROMPT, **options)
    case = next(case for case in CASES if case.mid is None)
    with pytest.raises(PathError, match="attention and MLP of a block read the same stream"):
        component_lens(LanguageModel(case.make()), IDS, components=["resid_mid"])
    lens = component_lens(demo, PROMPT, components=["mlp_out"])
    with pytest.raises(InputError, match="there is no 'attn_out' here; there are mlp_out"):
        lens.of("attn_out")
    with pytest.raises(InputError, match="8 positions were read, 0 to 7; there is no 8"):
        lens.plot(position=8)
