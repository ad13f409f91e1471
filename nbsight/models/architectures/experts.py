"""Mixtures of experts built like Llama: the MLP is several, and may return what its router said as well."""

from nbsight.models.architectures.base import Architecture

ARCHITECTURES = (
    Architecture(
        name="experts",
        model_types=(
            "mixtral",
            "qwen2_moe",
            "qwen3_moe",
            "olmoe",
        ),
        mlp=("mlp", "block_sparse_moe"),
        mlp_out=("mlp.output", "block_sparse_moe.output"),
    ),
)
