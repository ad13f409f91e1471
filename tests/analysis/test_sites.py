"""Sites inside a block, in sweeps and patches, are those that plain hooks reach."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nbsight.analysis.ablation import AblationSweep, ablation
from nbsight.analysis.growing import Point
from nbsight.analysis.norms import stream_norms
from nbsight.analysis.patching import activation_patching
from nbsight.analysis.sweep import Sweep
from nbsight.errors import InputError, NbsightWarning
from nbsight.models.language_model import LanguageModel
from nbsight.results.base import load_result
from tests.models.architectures import AVAILABLE, make

CLEAN, CORRUPTED = "The Eiffel Tower is in the city of", "The Colosseum is in the city of"
ANSWERS = (" Paris", " Rome")
CAPITALS = ["The capital of Italy is", "The capital of Spain is", "The capital of Germany is"]
TIER_A = [a for a in AVAILABLE if a.name in ("gpt2", "gpt_neox", "llama", "gemma2", "qwen3", "phi3", "olmo2")]


@pytest.fixture(scope="module")
def model():
    return LanguageModel("nbsight/demo", dispatch=True)


def stored(model, text):
    """What GPT-2's own modules give and take in a plain run: by site and layer, (1, position, ...)."""
    kept, handles = {}, []
    for layer, block in enumerate(model._model.transformer.h):

        def keep(site, layer=layer):
            def hook(_, args, out=None):
                value = args[0] if out is None else out[0] if isinstance(out, tuple) else out
                kept[site, layer] = value.detach().clone()

            return hook

        handles += [
            block.register_forward_pre_hook(keep("resid_pre")),
            block.attn.register_forward_hook(keep("attn_out")),
            block.attn.c_proj.register_forward_pre_hook(keep("z")),
            block.ln_2.register_forward_pre_hook(keep("resid_mid")),
            block.mlp.register_forward_hook(keep("mlp_out")),
            block.register_forward_hook(keep("resid_post")),
        ]
    with torch.no_grad():
        logits = model._model(model.to_tokens(text)).logits[0, -1]
    for handle in handles:
        handle.remove()
    return kept, logits


def by_hand(model, text, site, layer, position, value, head=None):
    """The last logits of a run in which a plain hook writes one place."""
    block = model._model.transformer.h[layer]
    base, _ = stored(model, text)

    def on_output(_, __, out):
        hidden = (out[0] if isinstance(out, tuple) else out).clone()
        # The stream after attention is written by writing what attention adds to the stream before it.
        own = value - base["resid_pre", layer][0, position] if site == "resid_mid" else value
        hidden[0, position] = own
        return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

    def on_input(_, args):
        merged = args[0].clone()
        size = merged.shape[-1] // block.attn.num_heads
        merged[0, position, head * size : (head + 1) * size] = value
        return (merged, *args[1:])

    if site == "z":
        handle = block.attn.c_proj.register_forward_pre_hook(on_input)
    else:
        handle = (block.mlp if site == "mlp_out" else block.attn).register_forward_hook(on_output)
    with torch.no_grad():
        logits = model._model(model.to_tokens(text)).logits[0, -1]
    handle.remove()
    return logits


def difference(model, logits):
    right, wrong = (model.to_single_token(answer) for answer in ANSWERS)
    return float(logits[right] - logits[wrong])


@pytest.mark.parametrize("site", ["attn_out", "resid_mid", "mlp_out"])
def test_patching_inside_a_block_equals_a_hook(model, site):
    layers, positions = [0, 5, 11], [1, 4, 7]
    result = activation_patching(
        model, CLEAN, CORRUPTED, answers=ANSWERS, sites=[site], layers=layers, positions=positions
    )
    donors, _ = stored(model, CLEAN)
    for row, layer in enumerate(layers):
        for column, position in enumerate(positions):
            value = donors[site, layer][0, position]
            want = difference(model, by_hand(model, CORRUPTED, site, layer, position, value))
            assert result.values[0, 0, row, column] == pytest.approx(want, abs=2e-4)


def test_patching_heads_equals_a_hook(model):
    layers, positions, heads = [1, 9], [2, 7], [0, 3]
    result = activation_patching(
        model,
        CLEAN,
        CORRUPTED,
        answers=ANSWERS,
        sites=["z"],
        layers=layers,
        positions=positions,
        heads=heads,
    )
    donors, _ = stored(model, CLEAN)
    size = model.std.d_head
    for row, layer in enumerate(layers):
        for column, position in enumerate(positions):
            for place, head in enumerate(heads):
                value = donors["z", layer][0, position, head * size : (head + 1) * size]
                want = difference(model, by_hand(model, CORRUPTED, "z", layer, position, value, head))
                assert result.head_values[0, row, column, place] == pytest.approx(want, abs=2e-4)
    assert np.isnan(result.values).all()
    assert result.is_complete


def test_all_heads_at_once_are_the_whole_of_attention(model):
    options = {"answers": ANSWERS, "layers": [2, 9], "positions": [7]}
    whole = activation_patching(model, CLEAN, CORRUPTED, sites=["z"], heads=False, **options)
    attention = activation_patching(model, CLEAN, CORRUPTED, sites=["attn_out"], **options)
    assert whole.head_values is None
    assert np.allclose(whole.values, attention.values, atol=2e-4)


@pytest.mark.parametrize("architecture", TIER_A, ids=str)
def test_growing_and_plain_batches_agree_at_every_site(architecture):
    model = LanguageModel(make(architecture))
    ids = torch.tensor([[7, 8, 9, 10, 11]])
    sites = ["resid_pre", "z", "attn_out", "resid_mid", "mlp_out", "resid_post"]
    if "resid_mid" in model.std.layout.absent:
        sites.remove("resid_mid")
    points = [
        Point(layer, site, (position,), (1,) if site == "z" else None)
        for layer in range(2)
        for site in sites
        for position in (1, 4)
    ]

    def change(layer, site, where, current):
        return -current + 0.5

    def measure(logits):
        return logits[:, 0, :3]

    grown = Sweep(model, ids, points, change, measure, grow=True)
    plain = Sweep(model, ids, points, change, measure, grow=False)
    single = Sweep(model, ids, points, change, measure, grow=False, batch=1)
    for sweep in (grown, plain, single):
        sweep.run()
    scale = np.abs(single.values).max()
    assert np.abs(grown.values - single.values).max() < 1e-4 * scale
    assert np.abs(plain.values - single.values).max() < 1e-4 * scale
    assert (np.abs(single.values - single.base).max(-1) > 1e-6 * scale).any()


def test_heads_and_layers_that_are_not_there_are_named(model):
    with pytest.raises(InputError, match="the model has 4 heads, 0 to 3; there is no 4"):
        activation_patching(model, CLEAN, CORRUPTED, answers=ANSWERS, sites=["z"], heads=[4])


# -- ablation ----------------------------------------------------------------------------------------


def test_zero_ablation_equals_a_hook_that_writes_zeros(model):
    result = ablation(model, CLEAN, method="zero", answers=ANSWERS, layers=[1, 6], positions=[2, 7])
    assert result.baseline == pytest.approx(difference(model, stored(model, CLEAN)[1]), abs=1e-4)
    for place, site in enumerate(("attn_out", "mlp_out")):
        for row, layer in enumerate((1, 6)):
            for column, position in enumerate((2, 7)):
                logits = by_hand(model, CLEAN, site, layer, position, 0.0)
                assert result.values[place, row, column] == pytest.approx(difference(model, logits), abs=2e-4)


def test_mean_ablation_writes_the_mean_over_the_references_positions(model):
    result = ablation(
        model,
        CAPITALS[0],
        method="mean",
        reference=CAPITALS,
        answers=ANSWERS,
        layers=[3],
        sites=["mlp_out", "z"],
        heads=[2],
    )
    kept = [stored(model, text)[0] for text in CAPITALS]
    mean = torch.cat([values["mlp_out", 3][0] for values in kept]).mean(0)
    size = model.std.d_head
    head = torch.cat([values["z", 3][0] for values in kept]).mean(0)[2 * size : 3 * size]
    for position in range(len(result.positions)):
        want = by_hand(model, CAPITALS[0], "mlp_out", 3, position, mean)
        assert result.values[0, 0, position] == pytest.approx(difference(model, want), abs=2e-4)
        want = by_hand(model, CAPITALS[0], "z", 3, position, head, 2)
        assert result.head_values[0, position, 0] == pytest.approx(difference(model, want), abs=2e-4)


def test_resampling_is_the_same_for_a_seed_and_draws_what_the_references_hold(model, tmp_path):
    options = {"method": "resample", "reference": CAPITALS, "answers": ANSWERS, "sites": ["mlp_out"]}
    one = ablation(model, CAPITALS[0], layers=[3], seed=1, **options)
    same = ablation(model, CAPITALS[0], layers=[3], seed=1, batch=2, **options)
    other = ablation(model, CAPITALS[0], layers=[3], seed=2, **options)
    assert np.allclose(one.values, same.values, atol=2e-4)
    assert not np.allclose(one.values, other.values, atol=2e-4)
    pool = torch.cat([stored(model, text)[0]["mlp_out", 3][0] for text in CAPITALS])
    possible = [difference(model, by_hand(model, CAPITALS[0], "mlp_out", 3, 4, value)) for value in pool]
    assert min(abs(one.values[0, 0, 4] - value) for value in possible) < 2e-4
    assert one.provenance["seed"] == 1
    assert load_result(one.save(tmp_path / "ablation")).hash == one.hash


def test_ablation_says_what_it_needs(model):
    with pytest.raises(InputError, match=r'`reference=\["\.\.\.", "\.\.\."\]`'):
        ablation(model, CLEAN, answers=ANSWERS)
    with pytest.raises(InputError, match="there is no ablation 'noise'"):
        ablation(model, CLEAN, method="noise", answers=ANSWERS)
    with pytest.raises(InputError, match="one prompt and was given 2"):
        ablation(model, CAPITALS[:2], method="zero", answers=ANSWERS)


def test_ablation_can_be_stopped_and_gone_on_with(model):
    options = {"method": "zero", "answers": ANSWERS, "batch": 30}
    whole = ablation(model, CLEAN, **options)
    seen = []

    def stop(partial):
        seen.append(partial)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.warns(NbsightWarning, match=r"stopped after 60 of 192 runs; .*`result\.resume\(\)`"):
        part = ablation(model, CLEAN, on_batch=stop, **options)
    assert "not complete" in repr(part)
    assert int(np.isfinite(part.values).sum()) == 60
    assert part.resume().is_complete
    known = [int(np.isfinite(one.values).sum()) for one in AblationSweep(model, CLEAN, **options)]
    assert known == [30, 60, 90, 120, 150, 180, 192]
    assert np.allclose(part.resume().values, whole.values, atol=1e-4)


def test_ablation_names_what_moved_most_and_draws_it(model):
    result = ablation(model, CLEAN, method="zero", answers=ANSWERS, sites=["mlp_out", "z"], layers=[0, 6])
    assert "most moved by mlp_out of layer" in repr(result)
    assert "most moved by head" in repr(result)
    assert len(result.plot().axes) >= 2


# -- norms -------------------------------------------------------------------------------------------


def test_norms_are_those_of_what_hooks_see(model):
    norms = stream_norms(model, CLEAN)
    kept, _ = stored(model, CLEAN)
    for component in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"):
        for layer in range(12):
            want = kept[component, layer][0].norm(dim=-1).numpy()
            np.testing.assert_allclose(norms.of(component)[layer], want, rtol=1e-5)
    turn = torch.cosine_similarity(kept["resid_pre", 4][0], kept["resid_post", 4][0], dim=-1)
    np.testing.assert_allclose(norms.turn[4], turn.numpy(), rtol=1e-5)
    ratio = kept["attn_out", 4][0].norm(dim=-1) / kept["resid_pre", 4][0].norm(dim=-1)
    np.testing.assert_allclose(norms.ratio("attn_out")[4], ratio.numpy(), rtol=1e-5)


def test_streams_of_every_two_layers_are_compared(model, monkeypatch):
    kept, _ = stored(model, CLEAN)
    streams = torch.stack([kept["resid_post", layer][0, 1:] for layer in range(12)])
    want = torch.cosine_similarity(streams[:, None], streams[None], dim=-1)
    norms = stream_norms(model, CLEAN)
    np.testing.assert_allclose(norms.alike, want.mean(-1).numpy(), atol=1e-5)
    np.testing.assert_allclose(np.diag(norms.alike), 1, atol=1e-5)
    assert norms.alike[0, 1] > norms.alike[0, 11]
    monkeypatch.setattr("nbsight.analysis.norms.COMPARED", 4)
    some = stream_norms(model, CLEAN)
    every = -(-len(norms.tokens) // 4)
    np.testing.assert_allclose(some.alike, want[..., ::every].mean(-1).numpy(), atol=1e-5)


def test_an_outlier_channel_and_a_large_first_position_are_named():
    module = make(next(a for a in AVAILABLE if a.name == "gpt2"))
    with torch.no_grad():
        module.transformer.wte.weight[:, 17] += 200
        module.transformer.wpe.weight[0] += 4000 * torch.randn(48)
    norms = stream_norms(LanguageModel(module), [5, 6, 7, 8])
    assert norms.channels[0] == 17
    assert norms.channel_size[:, 0].max() > 20
    assert norms.spike > 5
    first, second = norms.notes
    assert "the first position is up to" in first
    assert "channel 17 is up to" in second
    assert first in repr(norms)
    largest = norms.channel_size[:, 0].max()
    assert f"largest channels, in times the median one: 17 ({largest:.2g})," in repr(norms)


def test_an_even_stream_has_nothing_to_note():
    module = make(next(a for a in AVAILABLE if a.name == "gpt2"))
    norms = stream_norms(LanguageModel(module), [5, 6, 7, 8])
    assert norms.spike < 2
    assert norms.notes == ()


def test_the_shipped_models_first_position_is_noted(model):
    text = "The quick brown fox jumps over the lazy"
    kept, _ = stored(model, text)
    sizes = torch.stack([kept["resid_post", layer][0].norm(dim=-1) for layer in range(12)]).numpy()
    spikes = sizes[:, 0] / np.median(sizes[:, 1:], axis=1)
    norms = stream_norms(model, text)
    assert norms.spike == pytest.approx(spikes.max(), rel=1e-5)
    assert norms.spike > 7
    (note,) = norms.notes
    assert note.startswith(f"the first position is up to {spikes.max():.0f} times as large")


def test_a_parallel_block_has_no_stream_between():
    module = make(next(a for a in AVAILABLE if a.name == "gpt_neox"))
    norms = stream_norms(LanguageModel(module), [5, 6, 7])
    assert "resid_mid" not in norms.components
    ratio = norms.of("mlp_out") / norms.of("resid_pre")
    np.testing.assert_allclose(norms.ratio("mlp_out"), ratio)


def test_norms_print_draw_and_survive_a_file(model, tmp_path):
    norms = stream_norms(model, CLEAN)
    assert load_result(norms.save(tmp_path / "norms")).hash == norms.hash
    lines = repr(norms).splitlines()
    assert lines[1].split() == ["layer", *norms.components, "cosine"]
    assert lines[2].split()[0] == "11"
    assert [line.get_label() for line in norms.plot().axes[0].get_lines()] == [
        "attn_out",
        "mlp_out",
        "resid_post",
    ]
    assert [line.get_label() for line in norms.plot("ratio").axes[0].get_lines()] == ["attn_out", "mlp_out"]
    for what, shape in [("cosine", (12, 12)), ("mlp_out", norms.turn.shape)]:
        assert norms.plot(what).axes[0].get_images()[0].get_array().shape[:2] == shape
    with pytest.raises(InputError, match="norms draw norm, ratio, cosine, or one of resid_pre"):
        norms.plot("heads")
    with pytest.raises(KeyError, match="attn_out and mlp_out are"):
        norms.ratio("resid_post")
    with pytest.raises(InputError, match="norms are of one prompt"):
        stream_norms(model, CAPITALS)
