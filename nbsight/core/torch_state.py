"""Torch's thread-local switches, kept apart for the two sides of a run.

Grad mode, inference mode, autocast, the default dtype and the mode stacks belong to the thread,
not to the greenlet: without care a `with torch.no_grad():` in the user's block would also act on
the model's layers, and `generate`'s own `no_grad` would act on the block. Each side takes a
snapshot when it is left and gets it back when it is entered.

A snapshot is the tuple (grad mode, inference mode, default dtype, autocast, function modes,
dispatch modes). It is taken twice per switch, so the common case is six C calls.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import get_default_dtype, is_grad_enabled, is_inference_mode_enabled
from torch.overrides import _get_current_function_mode_stack, _pop_mode, _push_mode
from torch.utils import _python_dispatch

__all__ = [
    "SideState",
    "any_autocast",
    "dispatch_depth",
    "function_depth",
    "get_default_dtype",
    "is_grad_enabled",
    "is_inference_mode_enabled",
    "is_more_than_grad",
    "set_grad",
    "snapshot",
    "switch_to",
    "with_grad",
]

SideState = tuple[bool, bool, torch.dtype, Any, tuple[Any, ...], tuple[Any, ...]]

set_grad = torch._C._set_grad_enabled
any_autocast = torch._C._is_any_autocast_enabled
function_depth = torch._C._len_torch_function_stack
dispatch_depth = torch._C._len_torch_dispatch_stack


def is_more_than_grad(
    inference: Any = is_inference_mode_enabled,
    autocast: Any = any_autocast,
    functions: Any = function_depth,
    dispatches: Any = dispatch_depth,
) -> bool:
    """A quick look: whether inference mode, autocast or a mode stack is set beside grad mode."""
    return inference() or autocast() or functions() != 0 or dispatches() != 0


def snapshot() -> SideState:
    """What this thread's switches are now."""
    return (
        is_grad_enabled(),
        is_inference_mode_enabled(),
        get_default_dtype(),
        _autocast() if any_autocast() else None,
        tuple(_get_current_function_mode_stack()) if function_depth() else (),
        tuple(_python_dispatch._get_current_dispatch_mode_stack()) if dispatch_depth() else (),
    )


def with_grad(state: SideState, grad: bool) -> SideState:
    """The same switches with grad mode on or off."""
    return (grad, *state[1:])


def switch_to(target: SideState, now: SideState, guards: list[Any]) -> None:
    """Make the thread's switches `target`; `now` is the snapshot just taken.

    Args:
        guards: A list that belongs to the run. Inference mode is only changed by a guard that
            lives as long as the change, so one may be left in it until the next switch.
    """
    if target[0] != now[0] and target[1:] == now[1:] and not guards:
        set_grad(target[0])  # all that differs between a block and its model, as a rule
        return
    if guards:
        guards.clear()
        now = snapshot()
    if target[1] != now[1]:
        guards.append(torch._C._InferenceMode(target[1]))
    set_grad(target[0])
    if target[2] != now[2]:
        torch.set_default_dtype(target[2])
    if target[3] != now[3]:
        _set_autocast(target[3])
    if target[4] != now[4]:
        for _ in range(function_depth()):
            _pop_mode()
        for mode in target[4]:
            _push_mode(mode)
    if target[5] != now[5]:
        for _ in range(dispatch_depth()):
            _python_dispatch._pop_mode()
        for mode in target[5]:
            _python_dispatch._push_mode(mode)


def _devices() -> tuple[str, ...]:
    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def _autocast() -> tuple[Any, ...]:
    kinds = tuple(
        (device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in _devices()
    )
    return (torch.is_autocast_cache_enabled(), kinds)


# `autocast` sets these before it is left, so they must come back with it.
_dtypes = {device: torch.get_autocast_dtype(device) for device in ("cpu", "cuda")}


def _set_autocast(state: tuple[Any, ...] | None) -> None:
    if state is None:
        for device in _devices():
            torch.set_autocast_enabled(device, False)
            torch.set_autocast_dtype(device, _dtypes[device])
        return
    cache, kinds = state
    torch.set_autocast_cache_enabled(cache)
    for device, enabled, dtype in kinds:
        torch.set_autocast_enabled(device, enabled)
        torch.set_autocast_dtype(device, dtype)
