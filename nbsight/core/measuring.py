"""What an edit changed, in numbers: computed where the tensors are, read when somebody looks.

Reading a number of a GPU's makes the program wait for it. So the numbers of an edit stay tensors of
one element until the trace ends or somebody asks, and nothing larger is kept.
"""

from __future__ import annotations

from typing import Any

import torch

from nbsight.core.batching import map_tensors, tensors_in

__all__ = [
    "Change",
    "Pair",
    "compare",
    "copy_of",
    "is_plain",
    "is_same_but_tensors",
    "memory_of",
    "pairs_of",
]

#: What was there, and what is there now.
Pair = tuple[torch.Tensor, torch.Tensor]

#: Larger tensors are compared in pieces, so that the difference needs little memory.
PIECE = 1 << 24

#: The others are too narrow for a difference or a sum of squares.
_EXACT = (torch.float32, torch.float64, torch.complex64, torch.complex128)


class Change:
    """How much of some tensors changed; the numbers are read once.

    Args:
        elements: How many elements were compared.
        same: For each pair, how many of them are equal (tensors of one element).
        steps: For each pair, the norm of the difference.
        before: For each pair, the norm of what was there.
    """

    __slots__ = ("before", "elements", "same", "steps")

    def __init__(self, elements: int, same: list[Any], steps: list[Any], before: list[Any]) -> None:
        self.elements = elements
        self.same = same
        self.steps = steps
        self.before = before

    def read(self) -> tuple[float, float, float]:
        """The fraction of elements that changed, the norm of the change, the norm before it."""
        same = sum(int(count.item()) for count in self.same)
        fraction = (self.elements - same) / self.elements if self.elements else 0.0
        return fraction, _norm_of(self.steps), _norm_of(self.before)


def _norm_of(norms: list[Any]) -> float:
    return float(sum(norm.item() ** 2 for norm in norms) ** 0.5)


def is_plain(tensor: Any) -> bool:
    """Whether a tensor has numbers that can be compared: no fake, sparse or quantised one."""
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.layout is torch.strided
        and tensor.device.type != "meta"
        and not tensor.is_quantized
    )


def pairs_of(before: Any, after: Any, memory: set[int] | None = None) -> list[Pair] | None:
    """The tensors that two values differ in.

    Args:
        before: Tensors, nested or not.
        after: The same structure.
        memory: Only those whose memory is among these.

    Returns:
        None where the two are not made alike.
    """
    old, new = tensors_in(before), tensors_in(after)
    if len(old) != len(new):
        return None
    return [
        (one, other)
        for one, other in zip(old, new, strict=True)
        if one is not other and (memory is None or memory_of(other) in memory)
    ]


def compare(pairs: list[Pair]) -> Change | None:
    """Measure what changed between tensors; to be called `quietly`.

    Args:
        pairs: What was there and what is there now; that may be smaller if it spreads over the first.

    Returns:
        None where two cannot be compared element by element.
    """
    change = Change(sum(old.numel() for old, _ in pairs), [], [], [])
    for old, new in pairs:
        if not (is_plain(old) and is_plain(new)) or old.device != new.device:
            return None
        try:
            _measure(old, new if new.shape == old.shape else new.expand(old.shape), change)
        except (RuntimeError, NotImplementedError):  # another shape, or a dtype without these operations
            return None
    return change


def _measure(old: torch.Tensor, new: torch.Tensor, change: Change) -> None:
    if old.numel() > PIECE:
        parts = (old.unbind(0), new.unbind(0)) if old.shape[0] == 1 else (old.chunk(2), new.chunk(2))
        for one, other in zip(*parts, strict=True):
            _measure(one, other, change)
        return
    equal = old == new
    if old.dtype not in _EXACT or new.dtype != old.dtype:
        kind = torch.promote_types(torch.promote_types(old.dtype, new.dtype), torch.float32)
        old, new = old.to(kind), new.to(kind)
    # Where both are the same infinity the difference would be no number.
    step = (new - old).masked_fill_(equal, 0)
    change.same.append(torch.count_nonzero(equal))
    change.steps.append(torch.linalg.vector_norm(step))
    change.before.append(torch.linalg.vector_norm(old))


def copy_of(value: Any) -> Any:
    """The value with a copy of every tensor in it; to be called `quietly`."""
    return map_tensors(value, lambda tensor: tensor.detach().clone())


def is_same_but_tensors(before: Any, after: Any) -> bool:
    """Whether two values are made alike and hold the same beside their tensors."""
    if isinstance(before, torch.Tensor) or isinstance(after, torch.Tensor):
        return isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor)
    if isinstance(before, dict):
        if not isinstance(after, dict) or before.keys() != after.keys():
            return False
        return all(is_same_but_tensors(before[key], after[key]) for key in before)
    if isinstance(before, (tuple, list)):
        if type(after) is not type(before) or len(after) != len(before):
            return False
        return all(map(is_same_but_tensors, before, after))
    if before is after:
        return True
    return isinstance(before, (int, float, str)) and bool(before == after)


def memory_of(tensor: torch.Tensor) -> int:
    """Which memory a tensor lies in: the same for all its views."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # a tensor without storage
        return id(tensor)
