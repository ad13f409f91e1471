"""Where the blocks are, for models outside the table of decoders."""

from __future__ import annotations

import pytest
import transformers
from torch import nn

from nbsight.models.names import find_blocks

SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 24}

CASES = [
    (
        "T5ForConditionalGeneration",
        "T5Config",
        {"num_layers": 2, "num_decoder_layers": 3, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_heads": 2},
        ("encoder.block", "decoder.block"),
    ),
    ("BertForMaskedLM", "BertConfig", SMALL, ("bert.encoder.layer",)),
    (
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {
            "encoder_layers": 2,
            "decoder_layers": 3,
            "d_model": 16,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 24,
            "decoder_ffn_dim": 24,
        },
        ("model.encoder.layers", "model.decoder.layers"),
    ),
    ("MambaForCausalLM", "MambaConfig", {"num_hidden_layers": 2, "hidden_size": 16}, ("backbone.layers",)),
    (
        "JambaForCausalLM",
        "JambaConfig",
        {
            **SMALL,
            "num_key_value_heads": 2,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "use_mamba_kernels": False,
            "num_experts": 2,
            "num_experts_per_tok": 1,
        },
        ("model.layers",),
    ),
]


@pytest.mark.parametrize(("kind", "config", "options", "blocks"), CASES, ids=lambda value: str(value)[:20])
def test_encoders_hybrids_and_state_space_models(kind, config, options, blocks):
    made = getattr(transformers, config)(
        vocab_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, **options
    )
    assert find_blocks(getattr(transformers, kind)(made), made) == blocks


class Config:
    def __init__(self, **numbers):
        self.numbers = numbers

    def to_dict(self):
        return self.numbers


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList([nn.Sequential(nn.Linear(2, 2)) for _ in range(3)])


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(2) for _ in range(3)])
        self.body = nn.ModuleDict({"blocks": nn.ModuleList([Block() for _ in range(3)])})
        self.mixed = nn.ModuleList(
            [*(nn.Sequential(nn.Linear(2, 2)) for _ in range(2)), nn.MultiheadAttention(2, 1)]
        )


def test_lists_of_other_things_with_as_many_entries_are_not_blocks():
    assert find_blocks(Model(), Config(num_hidden_layers=3)) == ("body.blocks",)


def test_nested_configurations_count():
    assert find_blocks(Model(), Config(text_config={"n_layer": 3})) == ("body.blocks",)


def test_nothing_is_found_where_no_list_has_that_many_entries():
    assert find_blocks(Model(), Config(num_hidden_layers=7, other=3)) == ()
    assert find_blocks(Model(), None) == ()
