"""Values of several steps as one tensor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from nbsight.core.sites import describe
from nbsight.errors import InputError

__all__ = ["stack_steps"]


def stack_steps(values: Iterable[Any]) -> torch.Tensor:
    """Put what the steps of a generation gave one after the other, along the positions.

        hidden = []
        for step in tracer.iter[:]:
            hidden.append(model.transformer.h[5].output[0])
        stacked = nbsight.stack_steps(hidden)  # (batch, position, d_model)
        stacked[:, step.position]              # what that step gave

    Args:
        values: One tensor a step, (batch, position, ...): as many positions as the prompt has in the prompt
            pass, one in each later pass.

    Returns:
        One tensor, (batch, all positions, ...). The last token that was chosen is not among the positions:
        no pass has read it.

    Raises:
        InputError: they are no such tensors, or differ in more than their positions.
    """
    tensors = [_tensor(value, at) for at, value in enumerate(values)]
    if not tensors:
        raise InputError("there is nothing to stack: the list of values is empty.")
    first = tensors[0]
    before = first.shape[1]
    for at, tensor in enumerate(tensors):
        if tensor.shape[:1] + tensor.shape[2:] != first.shape[:1] + first.shape[2:]:
            raise InputError(_unequal(first, tensor, at))
        here = tensor.shape[1]
        if here > max(before, 1):
            raise InputError(
                f"value {at} has {here} positions and the one before it {before}, so passes read some "
                "positions more than once. Without a cache (`use_cache=False`) each reads all of them, and "
                "the last value, `values[-1]`, has them all; assisted generation reads guesses."
            )
        before = here
    return torch.cat(tensors, dim=1)


def _tensor(value: Any, at: int) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        entry = (
            " Stack one of its entries: `stack_steps([value[0] for value in values])`."
            if isinstance(value, (tuple, list)) and value
            else ""
        )
        raise InputError(f"value {at} is {describe(value)}, and steps are stacked from tensors.{entry}")
    if value.ndim < 3:
        raise InputError(
            f"value {at} is {describe(value)}; `stack_steps` takes (batch, position, ...), three dimensions "
            "or more. One vector a step, such as `output[:, -1]`, goes together with `torch.stack(values, "
            "1)`, and numbers (batch, position) with `torch.cat(values, 1)`."
        )
    return value


def _unequal(first: torch.Tensor, other: torch.Tensor, at: int) -> str:
    text = (
        f"value {at} is {describe(other)} and value 0 is {describe(first)}; only their positions, dimension "
        "1, may differ."
    )
    if first.ndim == other.ndim == 4 and first.shape[:2] == other.shape[:2]:
        text += " Attention patterns grow with each step and have no common shape: keep them as a list."
    return text
