"""Scanning: the shapes of a forward without its work and without its weights.

torch's fake tensors have a shape, a dtype and a device, and no numbers. Models look at some numbers,
though: whether a mask is all ones, how many image tokens a prompt has. So what depends on neither
weights nor activations stays real: ids, masks, positions, and what is computed from them alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map_only

from nbsight.core.batching import map_tensors

__all__ = ["NO_NUMBERS", "fake_call"]

#: What torch raises where only numbers can say how to go on.
NO_NUMBERS = (DataDependentOutputException, DynamicOutputShapeException)

#: Numbers of more elements than this are not computed.
LIMIT = 2**22

_MASKS = (torch.bool, torch.uint8)

#: A product of experts' matrices; newer releases of torch have it.
_GROUPED = getattr(getattr(torch.ops.aten, "_grouped_mm", None), "default", None)


def fake_call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any]:
    """The module's call on tensors that have shapes, dtypes and devices, and no data.

    Weights that are not loaded stand on the meta device; the scan takes them to be on the cpu.
    """

    def call() -> Any:
        mode = _Shapes()

        def given(tensor: torch.Tensor) -> torch.Tensor:
            real = not (tensor.is_floating_point() or tensor.is_complex()) and _is_known([tensor])
            return tensor if real else mode.fakes.from_tensor(tensor)

        with mode:
            return module(*map_tensors(args, given), **map_tensors(kwargs, given))

    return call


class _Shapes(TorchDispatchMode):
    """Computes with numbers where they are known and small, and with shapes everywhere else."""

    def __init__(self) -> None:
        super().__init__()
        self.fakes = FakeTensorMode(allow_non_fake_inputs=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation."""
        kwargs = _off_meta(kwargs or {})
        tensors = _tensors((args, kwargs))
        # Random numbers are the user's: a scan uses none of them up.
        is_random = torch.Tag.nondeterministic_seeded in func.tags
        if tensors and not is_random and _is_known(tensors):
            with _plain():
                return func(*args, **kwargs)
        if func is torch.ops.aten.index.Tensor:
            args = (args[0], _positions(args[1]))
        args, kwargs = tree_map_only(torch.Tensor, self._loaded, (args, kwargs))
        with self.fakes:
            result = _grouped(func, args, kwargs) if func is _GROUPED else func(*args, **kwargs)
        if tensors or is_random or sum(tensor.numel() for tensor in _tensors(result)) > LIMIT:
            return result
        with _plain():  # made of nothing but its shape, as `arange` is
            return func(*args, **kwargs)

    def _loaded(self, tensor: torch.Tensor) -> torch.Tensor:
        """What a tensor on the meta device will be once it is loaded."""
        if tensor.device.type != "meta":
            return tensor
        return FakeTensor(self.fakes, tensor.detach(), torch.device("cpu"))


def _plain() -> AbstractContextManager[Any]:
    return _disable_current_modes()


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, torch.Tensor)]


def _is_known(tensors: list[torch.Tensor]) -> bool:
    """Whether these have numbers that are neither weights nor many."""
    return sum(tensor.numel() for tensor in tensors) <= LIMIT and not any(
        isinstance(tensor, (FakeTensor, nn.Parameter)) or tensor.device.type == "meta" for tensor in tensors
    )


def _grouped(func: Any, args: Any, kwargs: Any) -> torch.Tensor:
    """torch computes this in float32 too, and knows its shape in bfloat16 alone."""
    first, second, *rest = args
    return func(first.bfloat16(), second.bfloat16(), *rest, **kwargs).to(first.dtype)


def _positions(indices: list[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """An index with its masks as positions: how many they pick is known."""
    found: list[torch.Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype in _MASKS and _is_known([index]):
            with _plain():
                found += index.nonzero().unbind(1)
        else:
            found.append(index)
    return found


def _off_meta(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Models make tensors where their weights are; what is made on the meta device has no numbers."""
    device = kwargs.get("device")
    is_meta = device is not None and torch.device(device).type == "meta"
    return {**kwargs, "device": torch.device("cpu")} if is_meta else kwargs
