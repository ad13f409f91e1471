"""What a trace that records gradients remembers for a backward pass.

Recording a graph costs half as much time again and keeps every activation alive. So a trace
records one only when the code around it speaks of gradients (`mentions.py`) or `grad=True` is given.

Such a trace remembers what it handed out (`Handed`): one backward pass then serves every `.grad`
that the block asks for, and a message can name the place that a tensor was read at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from nbsight.core.batching import tensors_in
from nbsight.core.torch_state import is_grad_enabled

if TYPE_CHECKING:
    from nbsight.core.sites import Line

__all__ = ["Handed", "Place", "leaves_of", "name_of", "release"]

#: Where a value was handed out, and the line that asked: (envoy, what, line).
Place = tuple[Any, str, "Line | None"]


def name_of(place: Place) -> str:
    """A place as the user writes it."""
    envoy, what, _ = place
    return f"{envoy._path or 'model'}.{what}"


class Handed:
    """The tensors that a trace has handed out, and where; lives as long as the trace.

    Attributes:
        enabled: Whether gradients were enabled where the trace began.
        is_watched: Whether `torch.Tensor.backward` is ours for this trace's sake.
        spent: Losses whose graph is to be released when the trace ends.
        released: Whether a backward pass has freed the graph already.
        guard: Takes away what watches `.grad` after a plain `loss.backward()`.
    """

    __slots__ = ("_places", "_values", "enabled", "guard", "is_watched", "released", "spent")

    def __init__(self) -> None:
        self._values: list[tuple[Any, Place]] = []
        self._places: dict[int, tuple[torch.Tensor, Place]] = {}
        self.enabled = is_grad_enabled()
        self.is_watched = False
        self.spent: list[torch.Tensor] = []
        self.released = False
        self.guard: Callable[[], None] | None = None

    def note(self, value: Any, place: Place) -> None:
        """Remember that `value` was read or written at a place."""
        self._values.append((value, place))

    def places(self) -> dict[int, tuple[torch.Tensor, Place]]:
        """By id: each tensor that was handed out and the place where that happened first."""
        values, self._values = self._values, []
        for value, place in values:
            self._add(value, place)
        return self._places

    def _add(self, value: Any, place: Place) -> None:
        for tensor in tensors_in(value):
            if tensor.is_floating_point() or tensor.is_complex():
                self._places.setdefault(id(tensor), (tensor, place))

    def retain(self) -> None:
        """Let torch's own `backward` fill `.grad` of what was handed out."""
        for tensor, _ in self.places().values():
            if tensor.requires_grad and not tensor.is_leaf:
                tensor.retain_grad()

    def close(self) -> None:
        """The trace is over: let a later `loss.backward()` fill `.grad`, or free the graph."""
        if self.guard is not None:
            self.guard()
        if self.spent:
            for loss in self.spent:
                release(loss)
        elif not self.released:
            self.retain()


class _Nothing(torch.autograd.Function):
    """Hands an undefined gradient to what lies above it."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        """A number that depends on `value`."""
        return value.new_zeros(())

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> None:
        """No gradient at all, which torch passes on without computing anything."""
        return None


def release(loss: torch.Tensor) -> None:
    """Free what the graph of `loss` holds, as torch does after its own backward pass.

    torch frees a graph only while it runs through it. A pass with undefined gradients does so in
    about two microseconds per node and computes nothing.
    """
    try:
        with torch.enable_grad():
            torch.autograd.backward(_Nothing.apply(loss))
    except Exception:
        # Parts of it may be freed or changed in place already: then there is nothing to do here.
        pass


def leaves_of(loss: torch.Tensor) -> list[torch.Tensor]:
    """The leaves that a loss depends on."""
    if loss.grad_fn is None:
        return [loss]
    leaves, seen, waiting = [], {None}, [loss.grad_fn]
    while waiting:
        for above, _ in waiting.pop().next_functions:
            if above not in seen:
                seen.add(above)
                if type(above) is _LEAF:
                    leaves.append(above.variable)
                else:
                    waiting.append(above)
    return leaves


#: torch's node for a leaf.
_LEAF = type(torch.ones((), requires_grad=True).view(()).grad_fn.next_functions[0][0])
