"""StableLM: built like Llama; parallel by a switch."""

from nbsight.models.architectures.base import Architecture

ARCHITECTURES = (
    Architecture(
        name="stablelm",
        model_types=("stablelm",),
        mlp_out="dropout.output",
        is_parallel=lambda config: bool(config.use_parallel_residual),
    ),
)
