"""What the axes of a language model's values mean: batch, position, d_model."""

from __future__ import annotations

from typing import Any

import torch

from nbsight.models.limits import text_config

__all__ = ["axis_names", "ids_in"]


def ids_in(given: tuple[Any, Any]) -> torch.Tensor | None:
    """The token ids in the arguments of one call of the model, (batch, position).

    Args:
        given: The call's arguments, `(args, kwargs)`.
    """
    args, kwargs = given
    ids = kwargs.get("input_ids", args[0] if args else None)
    if isinstance(ids, torch.Tensor) and ids.ndim == 2 and not ids.is_floating_point():
        return ids
    return None


def axis_names(
    shape: tuple[int, ...], given: tuple[Any, Any], config: Any, vocabulary: int | None
) -> tuple[str, ...] | None:
    """The names of a value's axes, as far as its sizes leave no doubt.

    Args:
        shape: The value's.
        given: The arguments of the call of the model in which it was made.
        config: The model's configuration.
        vocabulary: How many words it knows.

    Returns:
        A name for each axis, "" where none is certain; None if not even the first two are.
    """
    ids = ids_in(given)
    ids = given[1].get("inputs_embeds") if ids is None else ids
    if not isinstance(ids, torch.Tensor) or ids.ndim < 2 or len(shape) not in (3, 4):
        return None
    text = text_config(config)
    batch, position = ids.shape[:2]
    heads = getattr(text, "num_attention_heads", None)
    if len(shape) == 3 and shape[:2] == (batch, position):
        return ("batch", "position", _last(shape[2], text, vocabulary))
    if len(shape) == 4 and heads != position:
        if shape[:3] == (batch, heads, position):
            return ("batch", "head", "position", "")
        if shape[:3] == (batch, position, heads):
            return ("batch", "position", "head", "")
    return None


def _last(size: int, config: Any, vocabulary: int | None) -> str:
    names = {
        "d_model": getattr(config, "hidden_size", None),
        "d_vocab": vocabulary,
        "d_mlp": getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None),
    }
    found = [name for name, known in names.items() if known == size]
    return found[0] if len(found) == 1 else ""
