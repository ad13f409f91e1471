"""Work on tensors that nobody is to notice, and comparing them."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from nbsight.core.torch_state import dispatch_depth, function_depth, is_grad_enabled, set_grad

__all__ = ["are_same", "quietly"]


class quietly:
    """`with quietly():` computes something of our own: no graph, and no mode of the user's sees it."""

    __slots__ = ("_grad", "_modes")

    def __enter__(self) -> None:
        self._grad = is_grad_enabled()
        set_grad(False)
        self._modes = ExitStack() if function_depth() or dispatch_depth() else None
        if self._modes is not None:
            self._modes.enter_context(torch._C.DisableTorchFunction())
            self._modes.enter_context(_disable_current_modes())

    def __exit__(self, *_: Any) -> None:
        if self._modes is not None:
            self._modes.close()
        set_grad(self._grad)


def are_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors hold the same numbers; NaN is the same as NaN."""
    if one is other:
        return True
    if one.shape != other.shape or one.dtype != other.dtype or one.device != other.device:
        return False
    return torch.equal(one, other) or bool(((one == other) | ((one != one) & (other != other))).all())
