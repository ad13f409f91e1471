"""Rows of a batch: what one invoke sees of a value, and how its edits get back.

Several invokes share one forward. Each owns rows `[start, start + size)` of the first dimension
of every tensor whose first dimension is the whole batch. When prompts of different lengths were
padded, an invoke also sees only its own positions, so position 0 is its first token and -1 its
last whatever the others needed.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from nbsight.errors import EditError

__all__ = ["Rows", "map_tensors", "splice"]

_dispatch_depth = torch._C._len_torch_dispatch_stack


@dataclass(frozen=True, slots=True)
class Rows:
    """The part of a batch that belongs to one invoke.

    Args:
        start: First row.
        size: Number of rows.
        total: Rows in the whole batch.
        left_pad: Padding positions before the first token.
        length: The prompt's own length; None when the batch is not padded.
        padded: The length that all prompts were padded to.
        dim: The dimension of the batch; the second one in the state of recurrent layers.
    """

    start: int
    size: int
    total: int
    left_pad: int = 0
    length: int | None = None
    padded: int | None = None
    dim: int = 0

    #: Whether this is every row and every position.
    is_whole: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_whole", self.size == self.total and self.length is None)

    def index(self, shape: torch.Size | tuple[int, ...]) -> tuple[slice, ...] | None:
        """The index that selects these rows (and positions) of a tensor, or None for all of it."""
        if self.dim:
            own = slice(self.start, self.start + self.size)
            return (slice(None), own) if len(shape) > 1 and shape[1] == self.total else None
        if not shape or shape[0] != self.total:
            return None
        index = [slice(self.start, self.start + self.size)]
        if self.length is not None:
            own = slice(self.left_pad, self.left_pad + self.length)
            index += [own if size == self.padded else slice(None) for size in shape[1:]]
        return tuple(index)

    def narrow(self, value: Any) -> Any:
        """The invoke's part of a value: views of its tensors, the same containers around them."""
        if self.is_whole:
            return value
        if type(value) is torch.Tensor and not self.dim and not _dispatch_depth():  # as a rule
            if not value.ndim or value.size(0) != self.total:
                return value
            if self.length is None:
                return value.narrow(0, self.start, self.size)
            return self._narrow_tensor(value)
        if _dispatch_depth():
            # A mode in the user's block is for the user's operations, not for ours.
            with _disable_current_modes():
                return map_tensors(value, self._narrow_tensor)
        return map_tensors(value, self._narrow_tensor)

    def _narrow_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        index = self.index(tensor.shape)
        return tensor if index is None else tensor[index]


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors of a value, in order."""
    found: list[torch.Tensor] = []

    def add(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    map_tensors(value, add)
    return found


def map_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Apply `change` to every tensor in nested tuples, lists, dicts and model outputs.

    The same object comes back when nothing in it changed; other types are left as they are.
    """
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        changed = {key: map_tensors(item, change) for key, item in value.items()}
        if all(changed[key] is value[key] for key in changed):
            return value
        if type(value) is dict:
            return changed
        try:
            return type(value)(**changed)
        except TypeError:  # a mapping whose constructor does not take its keys as keywords
            return changed
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        new = {name: map_tensors(getattr(value, name), change) for name in names}
        if all(new[name] is getattr(value, name) for name in names):
            return value
        return _with_fields(value, new)
    if isinstance(value, (tuple, list)):
        items = [map_tensors(item, change) for item in value]
        if all(new is old for new, old in zip(items, value, strict=False)):
            return value
        if hasattr(value, "_fields"):  # a named tuple
            return type(value)(*items)
        return type(value)(items)
    return value


def _with_fields(value: Any, fields: dict[str, Any]) -> Any:
    """A copy of a dataclass object with other fields (also frozen ones, without `__init__`)."""
    changed = copy.copy(value)
    for name, item in fields.items():
        object.__setattr__(changed, name, item)
    return changed


def splice(full: Any, parts: list[tuple[Rows, Any]]) -> Any:
    """Put invokes' values back into their rows, out of place.

    Args:
        full: The value for the whole batch; in-place edits of rows have already landed in it.
        parts: The rows of each invoke that assigned a value, and that value.

    Raises:
        EditError: a value does not have the shape of its rows.
    """
    for rows, part in parts:
        if rows.is_whole:
            full = part
    return _merge(full, [(rows, part) for rows, part in parts if not rows.is_whole])


def _merge(full: Any, parts: list[tuple[Rows, Any]]) -> Any:
    if not parts:
        return full
    if isinstance(full, torch.Tensor):
        return _merge_tensors(full, parts)
    if isinstance(full, dict):
        merged = {
            key: _merge(item, [(rows, part[key]) for rows, part in parts if key in part])
            for key, item in full.items()
        }
        return merged if type(full) is dict else type(full)(**merged)
    if dataclasses.is_dataclass(full) and not isinstance(full, type):
        names = [field.name for field in dataclasses.fields(full)]
        return _with_fields(
            full,
            {
                name: _merge(getattr(full, name), [(rows, getattr(part, name)) for rows, part in parts])
                for name in names
            },
        )
    if isinstance(full, (tuple, list)):
        for _, part in parts:
            if not isinstance(part, (tuple, list)) or len(part) != len(full):
                raise EditError(
                    f"the module returned {len(full)} values and this invoke wrote "
                    f"{type(part).__name__}; write as many values as the module returns"
                )
        items = [
            _merge(item, [(rows, part[place]) for rows, part in parts]) for place, item in enumerate(full)
        ]
        return type(full)(*items) if hasattr(full, "_fields") else type(full)(items)
    if isinstance(full, (int, float, str)) and any(part != full for _, part in parts):
        raise EditError(_shared(f"{type(full).__name__} {full!r}"))
    return full  # a cache or the like: there is one for the whole batch


def _shared(what: str) -> str:
    return (
        f"all invokes of this trace share this {what}, which has no rows of the batch, so one "
        "invoke cannot replace it for its prompt alone. Replace it for all in an empty "
        "`with tracer.invoke():`, or give the prompt a trace of its own"
    )


def _merge_tensors(full: torch.Tensor, parts: list[tuple[Rows, Any]]) -> torch.Tensor:
    merged = None
    for rows, part in parts:
        if not isinstance(part, torch.Tensor):
            raise EditError(
                f"a tensor of shape {tuple(full.shape)} was replaced by {type(part).__name__}; write a tensor"
            )
        index = rows.index(full.shape)
        if index is None:
            if part is not full and not (part.shape == full.shape and torch.equal(part, full)):
                raise EditError(_shared(f"tensor of shape {tuple(full.shape)}"))
            continue
        wanted = full[index].shape
        if part.shape != wanted:
            raise EditError(
                f"this invoke's rows have shape {tuple(wanted)}, the value written to them has "
                f"shape {tuple(part.shape)}; the invokes share one batch, so they must agree"
            )
        if merged is None:
            # Out of place: autograd may need the old values, and other views must not change.
            merged = full.clone()
        merged[index] = part.to(full)
    return full if merged is None else merged
