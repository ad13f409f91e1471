"""How far one value is from another that it should equal."""

from __future__ import annotations

import torch

__all__ = ["distance"]


def distance(wanted: torch.Tensor | None, got: torch.Tensor | None) -> float:
    """The largest over all positions of the difference's length, relative to the wanted one's.

    Args:
        wanted: (batch, position, ...); what follows the position is one vector.
        got: The same shape.

    Returns:
        Infinity where they cannot be compared: one is missing, the shapes differ, or numbers are none.
    """
    if wanted is None or got is None or wanted.shape != got.shape:
        return float("inf")
    one, other = (value.double().cpu() for value in (wanted, got))
    if one.dim() > 3:
        one, other = one.flatten(2), other.flatten(2)
    length = one.norm(dim=-1).clamp_min(torch.finfo(torch.float64).tiny)
    found = float(((other - one).norm(dim=-1) / length).max())
    return found if found == found else float("inf")
