"""Tiny random models of many architectures; no two sizes of one model are equal.

Rows of the table: what the configuration is called, what makes it tiny, and where the blocks are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import transformers
from torch import nn

WIDTH, LAYERS, VOCABULARY = 48, 2, 101

LLAMA_LIKE = {
    "hidden_size": WIDTH,
    "intermediate_size": 80,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": 64,
}
GPT2_LIKE = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 6, "n_positions": 64}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40}


@dataclass(frozen=True, eq=False)
class Architecture:
    """One row of the table."""

    name: str
    config: str
    options: dict
    blocks: str = "model.layers"

    def __str__(self) -> str:
        return self.name


def heads(**more: int) -> dict:
    return {**LLAMA_LIKE, "head_dim": 8, **more}


TABLE = [
    # tier A: every widget, on every change
    Architecture("gpt2", "GPT2Config", GPT2_LIKE, "transformer.h"),
    Architecture(
        "gpt_neox",
        "GPTNeoXConfig",
        {k: v for k, v in LLAMA_LIKE.items() if k != "num_key_value_heads"},
        "gpt_neox.layers",
    ),
    Architecture("llama", "LlamaConfig", LLAMA_LIKE),
    Architecture("mistral", "MistralConfig", LLAMA_LIKE),
    Architecture("qwen2", "Qwen2Config", LLAMA_LIKE),
    Architecture("qwen3", "Qwen3Config", heads()),
    Architecture("gemma", "GemmaConfig", heads()),
    Architecture("gemma2", "Gemma2Config", heads()),
    Architecture("gemma3", "Gemma3TextConfig", heads()),
    Architecture("phi3", "Phi3Config", LLAMA_LIKE),
    Architecture("olmo", "OlmoConfig", LLAMA_LIKE),
    Architecture("olmo2", "Olmo2Config", LLAMA_LIKE),
    Architecture("olmo3", "Olmo3Config", LLAMA_LIKE),
    # tier B: standard names, lens and patching
    Architecture(
        "gpt_neo",
        "GPTNeoConfig",
        {
            "hidden_size": WIDTH,
            "num_layers": LAYERS,
            "num_heads": 6,
            "attention_types": [[["global", "local"], 1]],
            "intermediate_size": 80,
            "max_position_embeddings": 64,
        },
        "transformer.h",
    ),
    Architecture("gptj", "GPTJConfig", {**GPT2_LIKE, "rotary_dim": 4}, "transformer.h"),
    Architecture(
        "opt",
        "OPTConfig",
        {
            "hidden_size": WIDTH,
            "word_embed_proj_dim": WIDTH,
            "ffn_dim": 80,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 6,
            "max_position_embeddings": 64,
        },
        "model.decoder.layers",
    ),
    Architecture(
        "bloom", "BloomConfig", {"hidden_size": WIDTH, "n_layer": LAYERS, "n_head": 6}, "transformer.h"
    ),
    Architecture(
        "falcon",
        "FalconConfig",
        {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 6},
        "transformer.h",
    ),
    Architecture(
        "mpt",
        "MptConfig",
        {"d_model": WIDTH, "n_layers": LAYERS, "n_heads": 6, "max_seq_len": 64},
        "transformer.blocks",
    ),
    Architecture("phi", "PhiConfig", LLAMA_LIKE),
    Architecture("stablelm", "StableLmConfig", LLAMA_LIKE),
    Architecture("granite", "GraniteConfig", LLAMA_LIKE),
    Architecture("smollm3", "SmolLM3Config", LLAMA_LIKE),
    Architecture("starcoder2", "Starcoder2Config", LLAMA_LIKE),
    Architecture("cohere", "CohereConfig", LLAMA_LIKE),
    Architecture("glm4", "Glm4Config", heads()),
    Architecture("mixtral", "MixtralConfig", {**LLAMA_LIKE, "num_local_experts": 4}),
    Architecture(
        "qwen2_moe", "Qwen2MoeConfig", {**LLAMA_LIKE, **EXPERTS, "shared_expert_intermediate_size": 40}
    ),
    Architecture("qwen3_moe", "Qwen3MoeConfig", {**heads(), **EXPERTS}),
    Architecture("olmoe", "OlmoeConfig", {**LLAMA_LIKE, **EXPERTS}),
    Architecture("gpt_oss", "GptOssConfig", {**heads(), "num_local_experts": 4, "num_experts_per_tok": 2}),
    Architecture(
        "deepseek_v2",
        "DeepseekV2Config",
        {
            **LLAMA_LIKE,
            "num_key_value_heads": 6,
            "kv_lora_rank": 16,
            "q_lora_rank": 12,
            "qk_nope_head_dim": 10,
            "qk_rope_head_dim": 4,
            "v_head_dim": 14,
            "first_k_dense_replace": 1,
            "moe_intermediate_size": 40,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
        },
    ),
    Architecture(
        "deepseek_v3",
        "DeepseekV3Config",
        {
            **LLAMA_LIKE,
            "num_key_value_heads": 6,
            "kv_lora_rank": 16,
            "q_lora_rank": 12,
            "qk_nope_head_dim": 10,
            "qk_rope_head_dim": 4,
            "v_head_dim": 14,
            "first_k_dense_replace": 1,
            "moe_intermediate_size": 40,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
        },
    ),
]

AVAILABLE = [a for a in TABLE if hasattr(transformers, a.config)]
"""What this release of transformers has."""


def make(architecture: Architecture) -> nn.Module:
    """A model with random weights, the same each time."""
    options = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = getattr(transformers, architecture.config)(**{**options, **architecture.options})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for tensor in model.parameters():  # else zeros and ones hide mistakes
            tensor.add_(0.02 * torch.randn_like(tensor))
    return model
