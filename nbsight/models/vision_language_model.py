"""`VisionLanguageModel`: a prompt and images."""

from __future__ import annotations

from typing import Any

from torch import nn

from nbsight.models.transformers_model import ProcessedModel

__all__ = ["VisionLanguageModel"]


class VisionLanguageModel(ProcessedModel):
    """A language model that also sees; its blocks and its output answer as a `LanguageModel`'s do.

        model = VisionLanguageModel("llava-hf/llava-1.5-7b-hf")
        with model.trace("<image> What is this?", images=[image]):
            hidden = model.model.language_model.layers[3].output[0].save()

    Args:
        name_or_module: A folder, a hub id, or a loaded module.
        processor: What turns a prompt and images into tensors; by default the model's own.
        options: As for `LanguageModel`.

    Raises:
        ModelLoadError: the model cannot be had.
    """

    def __init__(self, name_or_module: str | nn.Module, *, processor: Any = None, **options: Any) -> None:
        options.setdefault("task", "image-text-to-text")
        super().__init__(name_or_module, processor=processor, **options)
