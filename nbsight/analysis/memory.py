"""How many rows of a prompt fit into memory, and whether an error says that they did not."""

from __future__ import annotations

import math

import torch

from nbsight.core.room import free_bytes
from nbsight.models.language_model import LanguageModel
from nbsight.models.limits import text_config

__all__ = ["is_out_of_memory", "let_go", "rows_that_fit"]

_MOST = 1024


def rows_that_fit(model: LanguageModel, positions: int, read: int) -> int:
    """Rows whose values fit into a third of the free memory; at least 1.

    Args:
        model: A language model.
        positions: Length of the prompt.
        read: How many positions have logits.
    """
    parameter = next(model._model.parameters())
    text = text_config(model.config)
    width = int(getattr(text, "hidden_size", 1024))
    inner = max(int(getattr(text, "intermediate_size", None) or 4 * width), 4 * width)
    heads = int(getattr(text, "num_attention_heads", 1) or 1)
    # The stream and its copies, one MLP, the scores of one attention; then logits and a float copy.
    numbers = positions * (8 * width + 3 * inner) + 2 * heads * positions**2
    bytes_ = numbers * parameter.element_size() + 3 * 4 * read * (model._limits.vocabulary or 50_000)
    return max(1, min(_MOST, math.floor(free_bytes(parameter.device) / 3 / bytes_)))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def let_go() -> None:
    """Give back what the allocator of a GPU holds for later, which may be in the wrong pieces."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
