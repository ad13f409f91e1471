"""Gemma 2 and 3: a norm before and after each part, so the contribution is what the second norm gives."""

from nbsight.models.architectures.base import Architecture

ARCHITECTURES = (
    Architecture(
        name="gemma2",
        model_types=("gemma2", "gemma3_text", "gemma3"),
        attn_out="post_attention_layernorm.output",
        resid_mid="pre_feedforward_layernorm.input",
        mlp_out="post_feedforward_layernorm.output",
    ),
)
