"""BLOOM: its modules return the stream with their contribution added, which the last matrix gives alone."""

from nbsight.models.architectures.base import Architecture, always, never

ARCHITECTURES = (
    Architecture(
        name="bloom",
        model_types=("bloom",),
        layers="h",
        embed="word_embeddings_layernorm.output",
        ln_final="ln_f",
        attn="self_attention",
        mix="self_attention.dense",
        down="mlp.dense_4h_to_h",
        attn_out="self_attention.dense.output",
        mlp_out="mlp.dense_4h_to_h.output",
        is_post_norm=lambda config: bool(config.apply_residual_connection_post_layernorm),
        why_no_positions="positions are biases on the attention scores (ALiBi)",
        qkv="self_attention.query_key_value",
        is_grouped=always,
        is_rotary=never,
        attends=lambda config: (),
        pattern=lambda config: "self_attention_dropout_0.output",
        up="mlp.dense_h_to_4h",
        gate=None,
    ),
)
