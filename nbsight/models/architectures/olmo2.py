"""OLMo 2 and 3: a norm after each part and none before."""

from nbsight.models.architectures.base import Architecture

ARCHITECTURES = (
    Architecture(
        name="olmo2",
        model_types=("olmo2", "olmo3"),
        attn_out="post_attention_layernorm.output",
        resid_mid="mlp.input",
        mlp_out="post_feedforward_layernorm.output",
    ),
)
