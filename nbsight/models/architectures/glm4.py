"""GLM-4: a norm before and after each part, under names of its own."""

from nbsight.models.architectures.base import Architecture

ARCHITECTURES = (
    Architecture(
        name="glm4",
        model_types=("glm4",),
        attn_out="post_self_attn_layernorm.output",
        mlp_out="post_mlp_layernorm.output",
        gate_up="mlp.gate_up_proj",
    ),
)
