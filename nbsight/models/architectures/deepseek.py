"""DeepSeek V2 and V3: keys and values are unpacked from one compressed vector; mixtures of experts."""

from nbsight.models.architectures.base import Architecture

ARCHITECTURES = (
    Architecture(
        name="deepseek",
        model_types=("deepseek_v2", "deepseek_v3"),
        q=("self_attn.q_b_proj", "self_attn.q_proj"),
        k=None,
        v=None,
    ),
)
