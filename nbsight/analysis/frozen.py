"""The way to the logits with the final norm held: a linear function of the stream, so parts add up.

A norm divides by the size of the whole stream, so it is not linear. Held at the size that it had in a run
it is: every part of the stream then has a logit of its own, and these add up to the model's.

What a norm does is found by asking it: what it gives for nothing is its bias, what it gives for entries of
one size is its gain. The finding counts only if it gives the norm's own result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from nbsight.analysis.unembedding import TOLERANCE, Unembedding
from nbsight.errors import UnknownArchitectureError

__all__ = ["Frozen", "frozen"]

#: A power of two, so that halves are exact; large, so that no epsilon of a norm counts beside it.
_SIZE = 1024.0


@dataclass(frozen=True)
class Frozen:
    """Logits of some tokens as a linear function of the stream, the norm held at some rows.

    Args:
        directions: What a vector of the stream is multiplied by, float64, (row, token, d_model).
        constant: What is added whatever the stream holds, float64, (row, token).
        factor: What the logits are multiplied by after the unembedding; 1 in most models.
        cap: Whether the model bends its logits afterwards (Gemma 2), so that these are those before.
    """

    directions: torch.Tensor
    constant: torch.Tensor
    factor: float
    cap: bool

    def of(self, part: torch.Tensor) -> torch.Tensor:
        """What a part of the stream, (row, d_model), adds to the logits, float64, (row, token)."""
        part = part.to(self.directions.device, torch.float64)
        return torch.einsum("rtd,rd->rt", self.directions, part)


def frozen(unembedding: Unembedding, stream: torch.Tensor, tokens: Sequence[int]) -> Frozen:
    """Hold the final norm at the size that the stream has.

    Args:
        unembedding: The model's way to the logits.
        stream: The stream after the last block, (row, d_model), not normalised.
        tokens: Ids.

    Raises:
        UnknownArchitectureError: a module before the unembedding is neither a norm nor a matrix, or the
            unembedding has no matrix.
    """
    head = unembedding.head
    weight = getattr(head, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2 or not weight.is_floating_point():
        raise UnknownArchitectureError(
            f"the unembedding is a {type(head).__name__} without a plain matrix, so no direction of the "
            "stream can be said to be a token's. Use the logit lens, which only applies it."
        )
    with torch.no_grad():
        steps = _steps(unembedding.chain, stream)
        chosen = torch.as_tensor(list(tokens), device=weight.device)
        directions = weight[chosen].double().expand(len(stream), -1, -1)
        bias = getattr(head, "bias", None)
        constant = torch.zeros(directions.shape[:2], dtype=torch.float64, device=weight.device)
        if bias is not None:
            constant = constant + bias[chosen].double()
        for step in reversed(steps):
            constant = constant + directions @ step.bias.to(directions)
            directions = step.back(directions)
        factor, is_bent = _after(unembedding, weight)
    return Frozen(directions * factor, constant * factor, factor, is_bent)


@dataclass(frozen=True)
class _Norm:
    gain: torch.Tensor  # (row, d_model): the norm's gain over the size of the row
    bias: torch.Tensor
    is_centred: bool

    def back(self, directions: torch.Tensor) -> torch.Tensor:
        found = directions * self.gain[:, None].to(directions)
        return found - found.mean(-1, keepdim=True) if self.is_centred else found


@dataclass(frozen=True)
class _Matrix:
    weight: torch.Tensor
    bias: torch.Tensor

    def back(self, directions: torch.Tensor) -> torch.Tensor:
        return directions @ self.weight.to(directions)


def _steps(chain: Sequence[nn.Module], stream: torch.Tensor) -> list[_Norm | _Matrix]:
    steps: list[_Norm | _Matrix] = []
    rows = stream
    for module in chain:
        after = module(rows[None])[0]
        steps.append(_matrix(module) if isinstance(module, nn.Linear) else _norm(module, rows, after))
        rows = after
    return steps


def _matrix(module: nn.Linear) -> _Matrix:
    weight = module.weight.double()
    bias = module.bias
    return _Matrix(weight, weight.new_zeros(len(weight)) if bias is None else bias.double())


def _norm(module: nn.Module, rows: torch.Tensor, after: torch.Tensor) -> _Norm:
    """The norm as gain and bias, held at these rows."""
    width, wide = rows.shape[-1], rows.double()
    bias = module(rows.new_zeros(1, 1, width))[0, 0].double()
    gain = torch.zeros_like(bias)
    # Entries of one size and of both signs have mean 0; of an odd number of them one is left out, in turn.
    for left_out in (width - 1, 0) if width % 2 else (None,):
        probe = torch.where(torch.arange(width, device=rows.device) % 2 == 0, _SIZE, -_SIZE).double()
        if left_out is not None:
            probe = probe * (torch.arange(width, device=rows.device) != left_out)
        size = probe.square().mean().sqrt()
        given = module(probe.to(rows.dtype)[None, None])[0, 0].double()
        gain = torch.where(probe == 0, gain, (given - bias) / (probe / size))
    wanted = after.double() - bias
    for is_centred in (False, True):
        own = gain * (wide - wide.mean(-1, keepdim=True) if is_centred else wide)
        share = (own * wanted).sum(-1, keepdim=True) / own.square().sum(-1, keepdim=True).clamp_min(1e-30)
        error = (own * share - wanted).norm() / wanted.norm().clamp_min(1e-12)
        if error <= TOLERANCE.get(rows.dtype, 1e-4):
            return _Norm(gain * share, bias, is_centred)
    raise UnknownArchitectureError(
        f"a {type(module).__name__} stands before the unembedding, and it is no norm that divides a vector "
        "by its size, so the parts of the stream have no logits of their own. Use the logit lens, which only "
        "applies it."
    )


def _after(unembedding: Unembedding, like: torch.Tensor) -> tuple[float, bool]:
    """What the model multiplies its logits by, and whether it bends them instead."""
    if unembedding.after is None:
        return 1.0, False
    one, many = unembedding.after(like.new_tensor([1.0, 64.0], dtype=torch.float64)).tolist()
    is_bent = abs(many - 64 * one) > 1e-6 * abs(many)
    return (1.0, True) if is_bent else (one, False)
