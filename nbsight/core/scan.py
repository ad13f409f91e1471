"""Scanning: the shapes of a forward without its work and without its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nbsight.core.batching import map_tensors

__all__ = ["fake_call"]


def fake_call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any]:
    """The module's call on tensors that have shapes, dtypes and devices, and no data.

    A model whose weights are not loaded stands on the meta device; then its input goes there too.
    """
    parameter = next(module.parameters(), None)
    device = parameter.device if parameter is not None else None

    def call() -> Any:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:

            def fake(tensor: torch.Tensor) -> torch.Tensor:
                if device is not None and device.type == "meta":
                    tensor = tensor.to("meta")
                return mode.from_tensor(tensor)

            return module(*map_tensors(args, fake), **map_tensors(kwargs, fake))

    return call
