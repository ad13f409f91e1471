"""gpt-oss: a mixture of experts whose heads may attend to nothing, which is a column of its own (a sink)."""

from nbsight.models.architectures.base import Architecture

ARCHITECTURES = (
    Architecture(
        name="gpt_oss",
        model_types=("gpt_oss",),
        # Before the sink's column is added and the largest is taken off.
        scores=lambda config: "torch_cat_0.input",
    ),
)
