"""Cohere (Command R): parallel, one norm for both parts."""

from nbsight.models.architectures.base import Architecture

ARCHITECTURES = (
    Architecture(
        name="cohere",
        model_types=("cohere", "cohere2"),
        is_parallel=lambda config: True,
    ),
)
