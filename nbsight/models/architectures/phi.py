"""Phi 1 and 2: parallel, one norm for both parts."""

from nbsight.models.architectures.base import Architecture

ARCHITECTURES = (
    Architecture(
        name="phi",
        model_types=("phi",),
        ln_final="final_layernorm",
        mix="self_attn.dense",
        down="mlp.fc2",
        is_parallel=lambda config: True,
        up="mlp.fc1",
        gate=None,
    ),
)
