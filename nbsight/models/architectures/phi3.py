"""Phi-3: like Llama, with fused projections and a dropout before each addition."""

from nbsight.models.architectures.base import Architecture

ARCHITECTURES = (
    Architecture(
        name="phi3",
        model_types=("phi3",),
        attn_out="resid_attn_dropout.output",
        mlp_out="resid_mlp_dropout.output",
        qkv="self_attn.qkv_proj",
        gate_up="mlp.gate_up_proj",
    ),
)
