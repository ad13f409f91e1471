"""What a gate lets through to, where torch would run a module by another way than module by module.

A compiled module is one graph, and torch's encoder layers have a kernel for the whole layer: neither
calls the modules inside. So what a run looks into runs uncompiled and layer by layer, for that run
alone, and what nobody looks into stays as it is.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, MethodType
from typing import Any

import torch
from greenlet import getcurrent
from torch import nn

from nbsight.core.greenlets import Carrier

__all__ = ["callee", "has_forward", "is_compiled", "never_compile"]

#: What makes torch's encoders take their own way, and the value at which they do not.
_FAST = {
    nn.TransformerEncoder: ("use_nested_tensor", False),
    nn.TransformerEncoderLayer: ("activation_relu_or_gelu", 0),
}


def is_compiled(module: nn.Module) -> bool:
    """Whether this is what `torch.compile(module)` returns: a shell around the module."""
    return "dynamo_ctx" in module.__dict__ and "_orig_mod" in module._modules


def has_forward(module: nn.Module) -> bool:
    """Whether the module can be called at all; a list of modules cannot."""
    # A scripted module's class does not say what its forward is.
    plain = getattr(type(module), "forward", None)
    return plain is not nn.Module.forward or "forward" in module.__dict__


def callee(module: nn.Module) -> Callable[..., Any]:
    """What calling the module's `forward` means to a run that looks inside."""
    if is_compiled(module):
        return module._modules["_orig_mod"]
    forward = module.forward
    original = getattr(forward, "_torchdynamo_orig_callable", None)
    if original is not None:
        is_method = isinstance(forward, MethodType)
        return MethodType(original, module) if is_method else original
    for kind, (name, off) in _FAST.items():
        if isinstance(module, kind) and hasattr(module, name):
            return _in_steps(module, forward, name, off)
    return forward


def never_compile(gate: Any) -> None:
    """Let no compiled function take a gate, and what runs while it is held there, into its graph."""
    gate._torchdynamo_disable = True
    gate._torchdynamo_disable_msg = (
        "nbsight looks into a module that a compiled function calls; trace it without fullgraph=True"
    )
    _skip(gate.__code__)


@functools.lru_cache(maxsize=8)
def _skip(code: CodeType) -> None:
    frames = torch._C._dynamo.eval_frame
    if hasattr(frames, "set_code_exec_strategy"):
        skip = frames._FrameAction.SKIP
        frames.set_code_exec_strategy(code, frames._FrameExecStrategy(skip, skip))
    else:  # releases before 2.7 go on below it
        frames.skip_code(code)


# -- encoder layers --------------------------------------------------------------------------------


def _in_steps(module: nn.Module, forward: Callable[..., Any], name: str, off: Any) -> Callable[..., Any]:
    @functools.wraps(forward)
    def forward_in_steps(*args: Any, **kwargs: Any) -> Any:
        with _slowly(module, name, off):
            return forward(*args, **kwargs)

    return forward_in_steps


_lock = threading.RLock()
_aside: dict[tuple[int, str], tuple[int, Any]] = {}


@contextmanager
def _slowly(module: nn.Module, name: str, off: Any) -> Iterator[None]:
    """Keep an encoder off its own way while a run that looks inside is in it."""
    current = getcurrent()
    run = current.model_run if type(current) is Carrier else None
    if run is None or not any(sub in run.gated for sub in module.modules() if sub is not module):
        yield
        return
    key = (id(module), name)
    with _lock:  # several threads may be in it
        users, before = _aside.get(key, (0, getattr(module, name)))
        _aside[key] = (users + 1, before)
        setattr(module, name, off)
    try:
        yield
    finally:
        with _lock:
            users, before = _aside.pop(key)
            if users > 1:
                _aside[key] = (users - 1, before)
            else:
                setattr(module, name, before)
