"""Granite: built like Llama; what its modules return is scaled before it is added."""

from nbsight.models.architectures.base import Architecture

ARCHITECTURES = (
    Architecture(
        name="granite",
        model_types=("granite",),
        scale=lambda config: float(config.residual_multiplier),
    ),
)
