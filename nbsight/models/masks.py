"""Attention masks as the eager functions take them: numbers that are added to the scores."""

from __future__ import annotations

from typing import Any

import torch

from nbsight.errors import InputError

__all__ = ["additive", "rows_that_see"]


def additive(given: dict[str, Any], module: Any) -> torch.Tensor | None:
    """The mask that means to an eager function what the given one means to another.

    Args:
        given: The arguments of the attention function by name.
        module: The attention module.

    Returns:
        (batch, 1, query position, key position): 0 where a query sees a key, else the lowest number; None
        where every query sees every key.

    Raises:
        InputError: the mask is of a kind that is not known.
    """
    mask, query, key = given.get("attention_mask", given.get("attn_mask")), given["query"], given["key"]
    if isinstance(mask, torch.Tensor) and mask.is_floating_point() and mask.ndim == 4:
        return mask[..., : key.shape[-2]]
    lowest = torch.finfo(query.dtype).min
    if mask is None:
        is_causal = given.get("is_causal")
        if is_causal is None:
            is_causal = getattr(module, "is_causal", True)
        if query.shape[-2] == 1 or not is_causal:
            return None
        # As torch does it: the first query sees the first key alone.
        seen = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        seen = seen[None, None]
    elif isinstance(mask, torch.Tensor) and mask.dtype == torch.bool and mask.ndim == 4:
        seen = mask[..., : key.shape[-2]]
    elif isinstance(mask, torch.Tensor) and mask.ndim == 2:  # flash attention's: what is no padding
        seen = _causal(query, key, given.get("sliding_window")) & mask[:, None, None].bool()
    else:
        raise InputError(
            f"scores and pattern are computed by the model's eager attention, and this run masks by a "
            f"{type(mask).__name__}, which that does not take. Load the model with "
            '`attn_implementation="eager"`.'
        )
    return torch.zeros(seen.shape, dtype=query.dtype, device=query.device).masked_fill(~seen, lowest)


def _causal(query: torch.Tensor, key: torch.Tensor, window: int | None) -> torch.Tensor:
    """Which keys a query sees; the last query stands at the last key."""
    keys = torch.arange(key.shape[-2], device=query.device)
    queries = torch.arange(query.shape[-2], device=query.device) + key.shape[-2] - query.shape[-2]
    seen = keys[None] <= queries[:, None]
    if window:
        seen = seen & (keys[None] > queries[:, None] - window)
    return seen[None, None]


def rows_that_see(mask: torch.Tensor | None) -> torch.Tensor | None:
    """Which queries see any key, (batch, query position); implementations differ for the others (padding)."""
    if mask is None:
        return None
    return (mask > torch.finfo(mask.dtype).min / 2).any(-1).any(1)
