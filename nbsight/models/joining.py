"""Several prompts as one call, such that each gets the numbers that it has alone.

Prompts of one length are simply stacked. Others are padded, with an attention mask and, where the forward
takes them, position ids, so that a prompt's first token is at position 0 whatever stands before it.

The length that prompts are padded to is no other size of the model. The core recognises the position
dimensions of a value by their size; with 12 heads and a padded length of 12 it would cut heads. A few more
pads cost nothing in the numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from nbsight.core.batching import Rows
from nbsight.errors import InputError, NbsightWarning
from nbsight.models.inputs import Prompt
from nbsight.models.limits import Limits

__all__ = ["join_prompts", "padded_length"]

FILLERS = {"labels": -100, "special_tokens_mask": 1}
"""What stands in a field where a prompt has no token; 0 in the others, the pad token in `input_ids`."""


def join_prompts(
    prompts: Sequence[Prompt],
    limits: Limits,
    *,
    side: str,
    pad_id: int,
    device: torch.device,
    positions: bool = True,
    need_mask: bool = False,
) -> tuple[dict[str, Any], list[Rows]]:
    """Make one call of several prompts.

    Args:
        prompts: What each invoke gave, at least one.
        limits: What the model can take.
        side: "left" or "right", where pads are put.
        pad_id: The id put there.
        device: Where the tensors are needed.
        positions: Whether to give position ids where they are needed; `generate` makes its own.
        need_mask: Whether to give an attention mask even if nothing is masked.

    Returns:
        The keyword arguments of the call, and each invoke's rows.

    Raises:
        InputError: the prompts cannot share one forward.
    """
    total = sum(prompt.size for prompt in prompts)
    lone = len(prompts) == 1
    is_level = len({length for prompt in prompts for length in prompt.lengths}) == 1
    if is_level or lone:
        target = max(prompt.width for prompt in prompts)
    else:
        target = padded_length(max(prompt.width for prompt in prompts), total, limits)
    if lone and is_level:
        # As it was given, so that a trace equals a plain call.
        fields: dict[str, Any] = dict(prompts[0].fields)
    else:
        fields = _joined_fields(prompts, target, side, pad_id, device)
    if need_mask and "attention_mask" not in fields and "input_ids" in fields:
        fields["attention_mask"] = torch.ones_like(fields["input_ids"])
    # Nothing is masked in what was tokenized here and not padded.
    if positions and not (is_level and all(prompt.tokenized for prompt in prompts)):
        _add_positions(fields, limits)
    fields = {name: value.to(device) for name, value in fields.items()}
    if all(prompt.tokenized for prompt in prompts):
        # A tokenizer may give more than its model knows.
        fields = {n: v for n, v in fields.items() if limits.takes(n) or not _is_token_type(n)}
    return {**fields, **_options(prompts)}, _rows(prompts, total, None if is_level or lone else target, side)


def padded_length(longest: int, total: int, limits: Limits) -> int:
    """The smallest length for a padded batch that no other dimension of the model's values has.

    Args:
        longest: Tokens of the longest prompt.
        total: Rows of the batch.
        limits: What the model can take.
    """
    length = longest
    while length in limits.sizes or length == total:
        length += 1
    if limits.positions is None or length <= limits.positions:
        return length
    warnings.warn(
        f"prompts of different lengths are padded to {longest} positions, which is also another size of this "
        "model, and longer the model does not take. In this batch, values with a dimension of that size are "
        "cut to a prompt's positions even where it means something else. Use one trace for each prompt to be "
        "sure.",
        NbsightWarning,
        stacklevel=3,
    )
    return longest


# --- fields ---------------------------------------------------------------------------------------


def _joined_fields(
    prompts: Sequence[Prompt], target: int, side: str, pad_id: int, device: torch.device
) -> dict[str, Any]:
    mains = {"inputs_embeds" if "inputs_embeds" in prompt.fields else "input_ids" for prompt in prompts}
    if len(mains) > 1:
        raise InputError(
            "some invokes of this trace give ids or text and others `inputs_embeds`; one forward takes "
            "one kind."
        )
    pads = any(length != target for prompt in prompts for length in prompt.lengths)
    names = list(dict.fromkeys(name for prompt in prompts for name in prompt.fields))
    if pads and "attention_mask" not in names:
        names.append("attention_mask")
    if pads and "position_ids" in names:
        names.remove("position_ids")
        if any("position_ids" in prompt.fields for prompt in prompts):
            raise InputError(
                "`position_ids` were given for prompts of different lengths. Leave them out: each prompt's "
                "positions are counted from its own first token."
            )
    return {name: _joined_field(name, prompts, target, side, pad_id, device) for name in names}


def _joined_field(
    name: str, prompts: Sequence[Prompt], target: int, side: str, pad_id: int, device: torch.device
) -> torch.Tensor:
    filler = pad_id if name == "input_ids" else FILLERS.get(name, 0)
    at_once = _joined_at_once(name, prompts, target, side, filler, device)
    if at_once is not None:
        return at_once
    rows: list[torch.Tensor] = []
    follows = True  # whether this field has one entry for each token
    for prompt in prompts:
        own = prompt.fields.get(name)
        if own is None:
            own = _absent(name, prompt, prompts)
        follows &= all(row.ndim > 0 and len(row) == n for row, n in zip(own, prompt.lengths, strict=True))
        rows.extend(row.to(device) for row in own)
    if follows:
        return torch.stack([_padded(row, target, side, filler) for row in rows])
    shapes = {tuple(row.shape) for row in rows}
    if len(shapes) == 1:
        return torch.stack(rows)
    if len({shape[1:] for shape in shapes}) == 1 and all(shapes):
        longest = max(shape[0] for shape in shapes)  # a sequence of its own, such as a decoder's
        return torch.stack([_padded(row, longest, "right", filler) for row in rows])
    raise InputError(
        f"`{name}` has rows of shapes {sorted(shapes)}, which cannot share one forward. Use a trace for each."
    )


def _joined_at_once(
    name: str, prompts: Sequence[Prompt], target: int, side: str, filler: int, device: torch.device
) -> torch.Tensor | None:
    """The same where each prompt has a tensor with one entry for each token, as text has; or None.

    A hundred short prompts are quicker written into one tensor than padded and stacked row by row.
    """
    first = prompts[0].fields.get(name)
    if not isinstance(first, torch.Tensor) or first.ndim != 2:
        return None
    parts = []
    for prompt in prompts:
        own = prompt.fields.get(name)
        if not isinstance(own, torch.Tensor) or own.ndim != 2 or own.requires_grad:
            return None
        if own.dtype is not first.dtype or own.device != first.device:
            return None
        rows, length = own.shape
        if rows != prompt.size or any(n != length for n in prompt.lengths):
            return None
        parts.append((own, rows, length))
    if all(length == target for _, _, length in parts):
        return torch.cat([own for own, _, _ in parts]).to(device)
    joined = first.new_full((sum(rows for _, rows, _ in parts), target), filler)
    start = 0
    for own, rows, length in parts:
        left = target - length if side == "left" else 0
        joined[start : start + rows, left : left + length] = own
        start += rows
    return joined.to(device)


def _absent(name: str, prompt: Prompt, prompts: Sequence[Prompt]) -> list[torch.Tensor]:
    """The field of a prompt that was given without it, where another has it."""
    if name == "attention_mask":
        return [torch.ones(length, dtype=torch.long) for length in prompt.lengths]
    if name == "token_type_ids":
        return [torch.zeros(length, dtype=torch.long) for length in prompt.lengths]
    if name == "position_ids":
        return [torch.arange(length) for length in prompt.lengths]
    other = next(p.fields[name] for p in prompts if name in p.fields)
    if name == "labels" and other[0].ndim:
        return [torch.full((length,), -100) for length in prompt.lengths]
    raise InputError(f"some invokes of this trace give `{name}` and others do not. Give it to all of them.")


def _padded(row: torch.Tensor, length: int, side: str, filler: int) -> torch.Tensor:
    missing = length - len(row)
    if missing == 0:
        return row
    pads = row.new_full((missing, *row.shape[1:]), filler)
    return torch.cat([pads, row] if side == "left" else [row, pads])


def _add_positions(fields: dict[str, Any], limits: Limits) -> None:
    """Count positions from each prompt's first token, where something stands before it."""
    mask = fields.get("attention_mask")
    if mask is None or mask.ndim != 2 or "position_ids" in fields or not limits.takes("position_ids"):
        return
    length = fields["input_ids"].shape[1] if "input_ids" in fields else mask.shape[1]
    if mask.shape[1] != length or bool(mask[:, 0].all()):  # with a cache the mask is longer than the ids
        return
    fields["position_ids"] = (mask.long().cumsum(-1) - 1).clamp_min(0)


def _is_token_type(name: str) -> bool:
    return name in ("token_type_ids", "special_tokens_mask", "mm_token_type_ids")


# --- options and rows -----------------------------------------------------------------------------


def _options(prompts: Sequence[Prompt]) -> dict[str, Any]:
    joined: dict[str, Any] = {}
    for prompt in prompts:
        for name, value in prompt.options.items():
            if name in joined and joined[name] is not value and not _is_same(joined[name], value):
                raise InputError(
                    f"invokes of one trace give different values for `{name}`: {joined[name]!r} and "
                    f"{value!r}. One forward has one; use a trace for each."
                )
            joined[name] = value
    return joined


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return False
    return bool(one == other)


def _rows(prompts: Sequence[Prompt], total: int, padded: int | None, side: str) -> list[Rows]:
    rows, start = [], 0
    for prompt in prompts:
        if padded is None:
            rows.append(Rows(start, prompt.size, total))
        else:
            left = padded - prompt.width if side == "left" else 0
            rows.append(Rows(start, prompt.size, total, left, prompt.width, padded))
        start += prompt.size
    return rows
