"""Work on tensors that nobody is to notice, and comparing them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from nbsight.core.batching import map_tensors
from nbsight.core.torch_state import dispatch_depth

__all__ = ["are_same", "quietly", "tensors_in"]


@contextmanager
def quietly() -> Iterator[None]:
    """Without a graph, and unseen by modes of the user's, which are for the user's operations."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch._C.DisableTorchFunction())
        if dispatch_depth():
            stack.enter_context(_disable_current_modes())
        yield


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors of a value, in order."""
    found: list[torch.Tensor] = []

    def add(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    map_tensors(value, add)
    return found


def are_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors hold the same numbers; NaN is the same as NaN."""
    if one is other:
        return True
    if one.shape != other.shape or one.dtype != other.dtype or one.device != other.device:
        return False
    return torch.equal(one, other) or bool(((one == other) | ((one != one) & (other != other))).all())
