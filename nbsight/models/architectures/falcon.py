"""Falcon: parallel by a switch, and always in its newer form; the block adds into what its MLP returned."""

from typing import Any

from nbsight.models.architectures.base import Architecture

_PATTERNS = ("attention_scores_2.output", "self_attention_dropout_0.output")


def _kind(config: Any) -> int:
    """Its forward has one branch for rotary positions and one, further down, for ALiBi."""
    return 1 if config.alibi else 0


def _is_eager(config: Any) -> bool:
    return bool(config._attn_implementation == "eager")


def _attends(config: Any) -> tuple[str, ...]:
    return () if _is_eager(config) else (f"torch_nn_functional_scaled_dot_product_attention_{_kind(config)}",)


ARCHITECTURES = (
    Architecture(
        name="falcon",
        model_types=("falcon",),
        layers="h",
        embed="word_embeddings.output",
        ln_final="ln_f",
        attn="self_attention",
        mix="self_attention.dense",
        down="mlp.dense_4h_to_h",
        attn_out="self_attention.output",
        is_parallel=lambda config: bool(config.new_decoder_architecture or config.parallel_attn),
        overwritten=frozenset({"mlp_out"}),
        why_no_positions="positions are rotary or biases on the attention scores (ALiBi)",
        qkv="self_attention.query_key_value",
        is_grouped=lambda config: bool(config.new_decoder_architecture or not config.multi_query),
        is_rotary=lambda config: not config.alibi,
        attends=_attends,
        scores=lambda config: f"F_softmax_{_kind(config)}.input" if _is_eager(config) else None,
        pattern=lambda config: _PATTERNS[_kind(config)] if _is_eager(config) else None,
        up="mlp.dense_h_to_4h",
        gate=None,
    ),
)
