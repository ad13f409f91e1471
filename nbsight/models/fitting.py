"""Whether a value fits the place it is assigned to: shape, dtype, device.

Shapes must agree, except for the number of rows: one row is given to every prompt, and a run that has one row
may go on with several. Between two float types, and between devices, a value is converted, because only
one thing can be meant; everything else is an error that names both sides. So is a value whose numbers the
model's dtype cannot hold: float16 ends at 65504, and what is larger would become infinite.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch

from nbsight.core.measuring import is_plain
from nbsight.errors import EditError

__all__ = ["fitted_to", "refuse_kind"]


def fitted_to(current: torch.Tensor, assigned: Any, what: str, *, rows_may_differ: bool) -> torch.Tensor:
    """`assigned` in the dtype and on the device of `current`; an error unless its shape fits."""
    if not isinstance(assigned, torch.Tensor):
        refuse_kind(assigned, current, what)
    if assigned.dtype != current.dtype and not (assigned.is_floating_point() and current.is_floating_point()):
        raise EditError(
            f"{what} of dtype {current.dtype} was assigned a value of dtype {assigned.dtype}. If that is "
            f"meant, write `value.to({current.dtype})`."
        )
    if assigned.shape != current.shape:
        assigned = _with_rows(current, assigned, what, rows_may_differ)
    if assigned.dtype != current.dtype or assigned.device != current.device:
        # Between float types, and between devices, only one thing can be meant.
        given, assigned = assigned, assigned.to(dtype=current.dtype, device=current.device)
        if given.dtype != current.dtype and torch.finfo(current.dtype).max < torch.finfo(given.dtype).max / 2:
            _refuse_overflow(given, assigned, what)
    return assigned


def _refuse_overflow(given: torch.Tensor, held: torch.Tensor, what: str) -> None:
    """Raise EditError if finite numbers became infinite."""
    if not is_plain(given):  # a scan's, which has no numbers
        return
    lost = given.detach().isfinite() & ~held.detach().isfinite().to(given.device)
    count = int(lost.sum())
    if not count:
        return
    dtype = str(held.dtype).removeprefix("torch.")
    largest = float(given.detach()[lost].abs().max())
    raise EditError(
        f"{what} is {dtype}, whose largest number is {torch.finfo(held.dtype).max:.6g}, and {count} of the "
        f"{given.numel()} numbers that were assigned are larger (up to {largest:.3g}): they would become "
        "infinite. Write `value.clamp(-6e4, 6e4)` if that is meant, or load the model with "
        "`dtype=torch.bfloat16`, which holds them."
    )


def _with_rows(
    current: torch.Tensor, assigned: torch.Tensor, what: str, rows_may_differ: bool
) -> torch.Tensor:
    if assigned.ndim == current.ndim and assigned.shape[1:] == current.shape[1:]:
        if assigned.shape[0] == 1:  # one donor for all prompts
            return assigned.expand(current.shape)
        if current.shape[0] == 1 and rows_may_differ:  # the run goes on with several versions of one prompt
            return assigned
    text = f"{what} of shape {tuple(current.shape)} was assigned a value of shape {tuple(assigned.shape)}"
    if assigned.ndim == current.ndim - 1 and assigned.shape == current.shape[1:]:
        text += "; the batch dimension is missing: write `value[None]`"
    elif current.ndim == assigned.ndim == 3 and assigned.shape[1] != current.shape[1]:
        text += (
            f"; they have {current.shape[1]} and {assigned.shape[1]} positions. To change some positions "
            "write `block.output[:, -1] = value[:, -1]`, or use prompts with the same number of tokens"
        )
    elif assigned.ndim < current.ndim:
        text += "; to write it to every position use `block.output[0][:] = value`"
    raise EditError(text + ".")


def refuse_kind(assigned: Any, current: torch.Tensor, what: str) -> NoReturn:
    raise EditError(
        f"{what} was assigned a {type(assigned).__name__}; it holds a tensor of shape "
        f"{tuple(current.shape)}, {current.dtype}. Write a tensor of that shape; to fill it with one number, "
        "`module.output[:] = number`."
    )
