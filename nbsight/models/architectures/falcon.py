"""Falcon: parallel by a switch, and always in its newer form; the block adds into what its MLP returned."""

from nbsight.models.architectures.base import Architecture

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
        # One call for each kind of positions.
        attends=lambda config: (
            f"torch_nn_functional_scaled_dot_product_attention_{1 if config.alibi else 0}",
            f"F_scaled_dot_product_attention_{1 if config.alibi else 0}",
        ),
        up="mlp.dense_h_to_4h",
        gate=None,
    ),
)
