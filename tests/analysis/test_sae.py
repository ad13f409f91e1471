"""Autoencoders compute what the papers say, and change a model by nothing but what was asked."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nbsight.analysis.sae import SparseAutoencoder
from nbsight.analysis.sae_files import load_sae
from nbsight.errors import EditWarning, InputError, NbsightWarning, PathError
from nbsight.models.language_model import LanguageModel
from tests.analysis.saes import CASES, D_IN, D_SAE, in_numpy, weights, write

PROMPT = "The Eiffel Tower is in the city of"


@pytest.fixture(scope="module")
def demo():
    return LanguageModel("nbsight/demo", dispatch=True)


@pytest.mark.parametrize("case", CASES)
def test_features_and_reconstruction_are_those_of_the_formulas(case, tmp_path):
    sae = load_sae(write(tmp_path, case))
    x = torch.randn(5, D_IN, generator=torch.Generator().manual_seed(1))
    acts, out = in_numpy(case, x.numpy())
    assert (acts > 0).any()
    np.testing.assert_allclose(sae.encode(x), acts, atol=2e-5)
    np.testing.assert_allclose(sae(x), out, atol=5e-5)
    heads = x.reshape(5, 4, 16)
    assert torch.equal(sae.encode(heads), sae.encode(x))


def logits(demo, prompt=PROMPT):
    with torch.no_grad():
        return demo._module(torch.tensor([demo.tokenizer(prompt)["input_ids"]])).logits


@pytest.mark.parametrize("case", CASES)
def test_with_nothing_changed_the_logits_are_the_models_own_bit_for_bit(demo, case, tmp_path):
    sae = load_sae(write(tmp_path, case))
    with pytest.warns(EditWarning, match="changed nothing"):  # noqa: PT031 - the trace has two lines
        with demo.trace(PROMPT):
            sae.change(demo, lambda acts: acts)
            out = demo.output.logits.save()
    assert torch.equal(out, logits(demo))


@pytest.mark.parametrize("case", CASES)
def test_a_change_is_the_difference_of_two_reconstructions(demo, case, tmp_path):
    """By plain hooks: the value plus what decodes from the new features, less what decodes from the old."""
    sae = load_sae(write(tmp_path, case))
    with demo.trace(PROMPT):
        before = sae.change(demo, {3: 0.0, 11: 2.5}, positions=slice(2, None)).save()
        out = demo.output.logits.save()
    block = demo._module.transformer.h[4]
    seen = {}

    def moved(value, x):
        acts = sae.encode(x)
        new = acts.clone()
        new[:, 2:, 3], new[:, 2:, 11] = 0.0, 2.5
        return value + (sae.decode(new, x) - sae.decode(acts, x)).reshape(value.shape)

    def at_output(module, args, value):
        if isinstance(value, tuple):
            return (moved(value[0], value[0]), *value[1:])
        return moved(value, value)

    if sae.config.is_transcoder:
        hooks = [
            block.mlp.register_forward_pre_hook(lambda m, args: seen.update(x=args[0])),
            block.mlp.register_forward_hook(lambda m, args, value: moved(value, seen["x"])),
        ]
    elif case == "heads":
        hooks = [block.attn.c_proj.register_forward_pre_hook(lambda m, args: (moved(args[0], args[0]),))]
    else:
        hooks = [block.register_forward_hook(at_output)]
    try:
        expected = logits(demo)
    finally:
        for hook in hooks:
            hook.remove()
    assert before.shape == (1, 8, D_SAE)
    assert not torch.allclose(out, logits(demo), atol=1e-3)
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)


def test_a_kept_edit_acts_in_every_trace(demo, tmp_path):
    sae = load_sae(write(tmp_path, "standard"))
    with demo.edit() as steered:
        sae.change(steered, {11: 6.0})
    with demo.trace(PROMPT):
        sae.change(demo, {11: 6.0})
        expected = demo.output.logits.save()
    with steered.trace(PROMPT):
        out = steered.output.logits.save()
    assert torch.equal(out, expected)
    with demo.trace(PROMPT):
        own = demo.output.logits.save()
    assert torch.equal(own, logits(demo))


def test_a_kept_edit_with_steps_acts_at_every_token_of_a_generation(demo, tmp_path):
    sae = load_sae(write(tmp_path, "standard"))
    with demo.edit() as (tracer, steered):
        for _ in tracer.iter[:]:
            sae.change(steered, {11: 60.0})

    def moved(module, args, value):
        stream = value[0] if isinstance(value, tuple) else value
        acts = sae.encode(stream)
        new = acts.clone()
        new[..., 11] = 60.0
        stream = stream + (new - acts) @ sae.W_dec
        return (stream, *value[1:]) if isinstance(value, tuple) else stream

    ids = torch.tensor([demo.tokenizer(PROMPT)["input_ids"]])
    own = demo._module.generate(ids, max_new_tokens=5, do_sample=False)
    hook = demo._module.transformer.h[4].register_forward_hook(moved)
    expected = demo._module.generate(ids, max_new_tokens=5, do_sample=False)
    hook.remove()
    assert not torch.equal(own, expected)
    made = steered.generate(PROMPT, 5)
    assert list(made.ids) == expected[0, ids.shape[1] :].tolist()


def test_batches_get_the_features_that_each_has_alone(demo, tmp_path):
    sae = load_sae(write(tmp_path, "jumprelu"))
    with demo.trace() as tracer:
        with tracer.invoke("A young dog is called a"):
            sae.features(demo)
        with tracer.invoke(PROMPT):
            second = sae.features(demo).save()
    with demo.trace(PROMPT):
        alone = sae.features(demo).save()
    torch.testing.assert_close(second[:, -8:], alone, atol=2e-5, rtol=1e-4)


# --- files ----------------------------------------------------------------------------------------


def test_older_configurations_are_read(tmp_path):
    new, old = write(tmp_path / "new", "standard"), write(tmp_path / "old", "standard")
    raw = json.loads((old / "cfg.json").read_text())
    hook = raw.pop("metadata")["hook_name"]
    del raw["architecture"]
    raw |= {"hook_point": hook, "activation_fn_str": "relu", "hook_point_head_index": None}
    (old / "cfg.json").write_text(json.dumps(raw))
    x = torch.randn(3, D_IN)
    assert torch.equal(load_sae(new)(x), load_sae(old)(x))


def test_a_constant_scale_of_the_inputs_is_asked_for_and_folded(tmp_path):
    folder = write(tmp_path, "standard", normalize_activations="expected_average_only_in")
    with pytest.raises(InputError, match="input_scale"):
        load_sae(folder)
    x = torch.randn(3, D_IN)
    plain = load_sae(write(tmp_path / "plain", "standard"))
    scaled = load_sae(folder, input_scale=2.5)
    torch.testing.assert_close(scaled.encode(x), plain.encode(x * 2.5), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scaled(x), plain(x * 2.5) / 2.5, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"architecture": "temporal"}, "known are standard, gated, jumprelu, topk"),
        ({"activation_fn_str": "tanh-relu"}, "tanh-relu"),
        ({"normalize_activations": "covariance_whitening"}, "covariance_whitening"),
        ({"metadata": {}}, "has no `hook_name`"),
        ({"hook_head_index": 3}, "one head"),
        ({"architecture": "topk"}, "does not say `k`"),
        ({"architecture": "jumprelu"}, "has no threshold"),
        ({"architecture": "transcoder"}, "no `hook_name_out`"),
    ],
)
def test_what_is_not_known_is_refused(tmp_path, changed, match):
    folder = write(tmp_path, "standard")
    raw = {**json.loads((folder / "cfg.json").read_text()), **changed}
    (folder / "cfg.json").write_text(json.dumps(raw))
    with pytest.raises(InputError, match=match):
        load_sae(folder)


def test_broken_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"has no cfg\.json"):
        load_sae(tmp_path)
    folder = write(tmp_path / "a", "standard")
    held = load_file(folder / "sae_weights.safetensors")
    save_file({**held, "b_enc": torch.zeros(5)}, folder / "sae_weights.safetensors")
    with pytest.raises(InputError, match=r"b_enc .* has shape \(5,\) and not \(96,\)"):
        load_sae(folder)
    (folder / "sae_weights.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match="cannot be read"):
        load_sae(folder)


def of(hook: str, width: int = D_IN, name: str = "nbsight/demo") -> SparseAutoencoder:
    from nbsight.analysis.sae import SaeConfig

    held = weights("standard")
    held |= {"W_enc": torch.zeros(width, D_SAE), "W_dec": torch.zeros(D_SAE, width)}
    held["b_dec"] = torch.zeros(width)
    return SparseAutoencoder(SaeConfig("standard", hook, hook, model_name=name), held)


def test_features_of_another_model_are_refused(demo):
    with pytest.raises(InputError, match=r"width 768 at layers\.4\.resid_post and nbsight/demo has width 64"):
        of("blocks.4.hook_resid_post", 768, "gpt2-small").sites(demo)
    with pytest.raises(PathError, match="no 40"):
        of("blocks.40.hook_resid_post").sites(demo)
    with pytest.warns(NbsightWarning, match="trained on pythia-70m"):
        of("blocks.4.hook_resid_post", name="pythia-70m").sites(demo)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        of("blocks.4.hook_resid_post", name="demo").sites(demo)
    with pytest.raises(InputError, match="96 features"), demo.trace(PROMPT):
        of("blocks.4.hook_resid_post").change(demo, {96: 1.0})
    with pytest.raises(InputError, match="features of that shape"), demo.trace(PROMPT):
        of("blocks.4.hook_resid_post").change(demo, lambda acts: acts[0])


def test_an_autoencoder_says_what_it_is(tmp_path):
    assert "jumprelu autoencoder, 96 features of blocks.4.hook_resid_post" in repr(
        load_sae(write(tmp_path / "a", "jumprelu"))
    )
    assert "ln2.hook_normalized → blocks.4.hook_mlp_out" in repr(
        load_sae(write(tmp_path / "b", "transcoder"))
    )
