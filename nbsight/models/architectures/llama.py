"""Llama and what is built like it: rotary positions, one RMS norm before each part."""

from nbsight.models.architectures.base import Architecture

ARCHITECTURES = (
    Architecture(
        name="llama",
        model_types=(
            "llama",
            "mistral",
            "qwen2",
            "qwen3",
            "gemma",
            "olmo",
            "smollm3",
            "starcoder2",
        ),
        down=("mlp.down_proj", "mlp.c_proj"),
        up=("mlp.up_proj", "mlp.c_fc"),
    ),
)
