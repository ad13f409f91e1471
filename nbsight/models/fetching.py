"""Weights that accelerate keeps elsewhere and brings in while a module runs.

Between runs such a parameter is on the meta device: it has a shape and no numbers. The numbers are with a
hook of the module, or of one above it where whole blocks are brought in at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

__all__ = ["keeper_of", "parameter_of"]


def parameter_of(module: nn.Module, name: str, root: nn.Module | None = None) -> Any:
    """A parameter with its numbers, wherever they are kept; what is no parameter as it is.

    Args:
        module: The module that has it.
        name: Its name there.
        root: The model, whose other modules may keep it.

    Returns:
        The parameter itself where it is in memory, a copy where it is not; None if there is none.
    """
    found = getattr(module, name, None)
    if not isinstance(found, torch.Tensor) or found.device.type != "meta":
        return found
    kept = keeper_of(module, name, root)
    if kept is None:
        return found
    hook, key = kept
    return hook.weights_map[key].to(hook.execution_device)


def keeper_of(module: nn.Module, name: str, root: nn.Module | None = None) -> tuple[Any, str] | None:
    """accelerate's hook that keeps a parameter, and what it calls it; None where nobody does.

    Args:
        module: The module that has the parameter.
        name: Its name there.
        root: The model, whose other modules may keep it.
    """
    for hook in _hooks(getattr(module, "_hf_hook", None)):
        if _keeps(hook):
            return hook, name
    for part in () if root is None else root.modules():
        whole = [hook for hook in _hooks(getattr(part, "_hf_hook", None)) if _keeps(hook)]
        inner = next((path for path, own in part.named_modules() if own is module), None) if whole else None
        if inner is not None and getattr(whole[0], "place_submodules", False):
            return whole[0], f"{inner}.{name}".lstrip(".")
    return None


def _keeps(hook: Any) -> bool:
    return bool(getattr(hook, "offload", False)) and getattr(hook, "weights_map", None) is not None


def _hooks(hook: Any) -> Iterator[Any]:
    """accelerate's hooks of a module; several are in one."""
    if hook is not None:
        yield hook
        for inner in getattr(hook, "hooks", ()):
            yield from _hooks(inner)
