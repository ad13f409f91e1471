"""What sees `.grad` while it means more than torch's own: torch function modes.

A mode belongs to its thread and is asked before torch is, so nothing on the class is replaced and
no other thread notices.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from greenlet import getcurrent
from torch.overrides import (
    TorchFunctionMode,
    _get_current_function_mode_stack,
    _pop_mode,
    _push_mode,
)

from nbsight.core.gradients import Handed, name_of
from nbsight.core.greenlets import Carrier
from nbsight.core.sites import Line, show_line
from nbsight.errors import GraphError

__all__ = ["GradMode", "guard", "plain", "remove", "shares_graph", "torchs_own"]

_GRAD = torch.Tensor.grad


class GradMode(TorchFunctionMode):
    """Sees `.grad` on this thread while the block is open."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self._block = block
        self._home = getcurrent()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__self__", None) is _GRAD and getcurrent() is self._home:
            if func.__name__ == "__get__":
                return self._block.read(plain(args[0]))
            if func.__name__ == "__set__":
                return self._block.write(plain(args[0]), args[1])
        return func(*args, **(kwargs or {}))


class _Guard(TorchFunctionMode):
    """Lets no `.grad` of a traced tensor be None between a plain `loss.backward()` and the end."""

    def __init__(self, handed: Handed, line: Line) -> None:
        super().__init__()
        self._handed = handed
        self._line = line
        self._home = getcurrent()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        value = func(*args, **(kwargs or {}))
        if value is None and getattr(func, "__self__", None) is _GRAD:
            place = self._handed.places().get(id(plain(args[0])))
            if func.__name__ == "__get__" and place is not None and getcurrent() is self._home:
                raise GraphError(
                    f"`{name_of(place[1])}` has no gradient: the loss does not depend on it.\n"
                    f"  {show_line(place[1][2])}\nThe backward pass was here:\n"
                    f"  {show_line(self._line)}\nRead the tensor that the model goes on with, "
                    "before the loss is computed from it."
                )
        return value


def guard(handed: Handed, line: Line) -> None:
    """Watch `.grad` on this side until the trace ends; a block needs no guard, it answers itself."""
    modes = _get_current_function_mode_stack()
    if not any(type(mode) is _Guard and mode._handed is handed for mode in modes):
        mode = _Guard(handed, line)
        if not shares_graph():  # a captured body takes its modes with it
            handed.guard = partial(remove, mode)
        _push_mode(mode)


#: Within it no other block sees `.grad`.
torchs_own = torch._C.DisableTorchFunction


def remove(mode: Any) -> None:
    """Take a mode off the stack, wherever it stands (blocks in generators may end out of order)."""
    if mode not in _get_current_function_mode_stack():
        return
    above = []
    while (top := _pop_mode()) is not mode:
        above.append(top)
    for other in reversed(above):
        _push_mode(other)


def plain(value: Any) -> Any:
    """The tensor that the model uses, for what stands for one (see `models/outputs.py`)."""
    return value if type(value) is torch.Tensor else getattr(value, "_plain", value)


def shares_graph() -> bool:
    """Whether this is the body of an invoke, one of several that share one graph."""
    current = getcurrent()
    return type(current) is Carrier and current.worker is not None
