"""Recurrent, hybrid and other models without standard names: native paths, edits and steps, as with hooks.

Each is saved and loaded by its folder, as a user would.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from nbsight.errors import UnknownArchitectureError
from nbsight.models.language_model import LanguageModel
from nbsight.models.sizing import estimate_memory
from nbsight.models.standard import verify
from tests.models.architectures import EXPERTS, LLAMA_LIKE, VOCABULARY, WIDTH
from tests.models.standard_cases import hidden, hooks, replaced

IDS = torch.tensor([[7, 8, 9, 10, 11, 12, 13]])
STEPS = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
SMALL = {"hidden_size": WIDTH, "num_hidden_layers": 2}


@dataclass(frozen=True, eq=False)
class Row:
    """One model: what makes it tiny, where its blocks are, and parts of its first block."""

    name: str
    config: str
    options: dict
    blocks: str
    parts: tuple[str, ...]

    def __str__(self) -> str:
        return self.name


ROWS = [
    Row("mamba", "MambaConfig", {**SMALL, "state_size": 4}, "backbone.layers", ("mixer",)),
    Row(
        "mamba2",
        "Mamba2Config",
        {**SMALL, "state_size": 8, "num_heads": 6, "head_dim": 16, "n_groups": 2, "chunk_size": 8},
        "backbone.layers",
        ("mixer",),
    ),
    Row("falcon_mamba", "FalconMambaConfig", {**SMALL, "state_size": 4}, "backbone.layers", ("mixer",)),
    Row(
        "recurrent_gemma",
        "RecurrentGemmaConfig",
        {
            "hidden_size": WIDTH,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "lru_width": WIDTH,
            "attention_window_size": 16,
            "head_dim": 8,
        },
        "model.layers",
        ("temporal_block", "mlp_block"),
    ),
    Row(
        "rwkv",
        "RwkvConfig",
        {**SMALL, "attention_hidden_size": WIDTH, "intermediate_size": 96, "context_length": 64},
        "rwkv.blocks",
        ("attention", "feed_forward"),
    ),
    Row(
        "jamba",
        "JambaConfig",
        {
            **LLAMA_LIKE,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "mamba_d_state": 4,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
        "model.layers",
        ("mamba", "feed_forward"),
    ),
    Row(
        "llama4",
        "Llama4TextConfig",
        {
            **LLAMA_LIKE,
            "intermediate_size_mlp": 80,
            "head_dim": 8,
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 2,
            "attention_chunk_size": 16,
        },
        "model.layers",
        ("self_attn", "feed_forward"),
    ),
    Row(
        "qwen3_next",
        "Qwen3NextConfig",
        {
            **LLAMA_LIKE,
            **EXPERTS,
            "head_dim": 8,
            "shared_expert_intermediate_size": 40,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "layer_types": ["linear_attention", "full_attention"],
        },
        "model.layers",
        ("linear_attn", "mlp"),
    ),
]

_made: dict = {}


@pytest.fixture(params=[row for row in ROWS if hasattr(transformers, row.config)], ids=str)
def case(request, tmp_path_factory):
    row = request.param
    if row.name == "recurrent_gemma" and transformers.__version__.startswith("4."):
        pytest.skip("before transformers 5 its modules keep their state from call to call")
    if row not in _made:
        folder = tmp_path_factory.mktemp("model")
        options = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        config = getattr(transformers, row.config)(**{**options, **row.options})
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        plain = AutoModelForCausalLM.from_pretrained(folder).eval()
        _made[row] = LanguageModel(str(folder)), plain, folder
    return row, *_made[row]


def test_blocks_and_their_parts_are_what_plain_hooks_see(case):
    row, model, plain, _ = case
    assert model._blocks == (row.blocks,)
    first, seen = plain.get_submodule(row.blocks)[0], {}

    def keep(name):
        def hook(_, __, out):
            seen[name] = hidden(out).detach().clone()

        return hook

    pairs = [(first, keep("block"), "output")]
    pairs += [(first.get_submodule(part), keep(part), "output") for part in row.parts]
    with torch.no_grad(), hooks(*pairs):
        wanted = plain(IDS).logits
    found = {}
    with model.trace(IDS):
        block = model.get(row.blocks)[0]
        for part in row.parts:
            found[part] = hidden(getattr(block, part).output).clone()
        found["block"] = block.output[0].clone()
        logits = model.output.logits.clone()
    for name, value in seen.items():
        assert torch.equal(found[name].reshape(value.shape), value), name
    assert torch.equal(logits, wanted)
    assert found["block"].shape == (1, 7, WIDTH)


def test_an_edit_of_a_part_equals_a_hand_written_hook(case):
    row, model, plain, _ = case
    part = plain.get_submodule(row.blocks)[0].get_submodule(row.parts[0])

    def hook(_, __, out):
        return replaced(out, hidden(out) * -1)

    with torch.no_grad(), hooks((part, hook, "output")):
        wanted = plain(IDS).logits
    with model.trace(IDS):
        hidden(getattr(model.get(row.blocks)[0], row.parts[0]).output)[:] *= -1
        logits = model.output.logits.clone()
    assert torch.equal(logits, wanted)
    assert (logits - plain(IDS).logits).abs().max() > 1e-5


def test_generation_is_steered_in_steps_as_by_a_hook(case):
    row, model, plain, _ = case
    block = plain.get_submodule(row.blocks)[1]

    def hook(_, __, out):
        return replaced(out, hidden(out) * -1)

    options = {**STEPS, "attention_mask": torch.ones_like(IDS)}
    with hooks((block, hook, "output")):
        wanted = plain.generate(IDS, **options)
    with model.generate(IDS, **STEPS) as tracer:
        for _ in tracer.iter[:]:
            model.get(row.blocks)[1].output[0][:] *= -1
        result = tracer.result
    assert torch.equal(result, wanted)


def test_standard_names_say_that_they_are_not_known(case):
    _, model, _, _ = case
    assert verify(model).architecture is None
    with pytest.raises(UnknownArchitectureError, match="Its own paths work"):
        with model.trace(IDS):
            model.layers[0].resid_post


def test_sizes_are_known_before_loading(case):
    _, _, plain, folder = case
    real = sum(tensor.nbytes for tensor in [*plain.parameters(), *plain.buffers()])
    assert abs(estimate_memory(str(folder)).total - real) <= 0.01 * real
