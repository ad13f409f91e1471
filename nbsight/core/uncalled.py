"""Why a run never calls a module that is in the model, where that is known."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from nbsight.core.callee import has_forward

__all__ = ["is_script_part", "why_uncalled"]


def why_uncalled(run: Any, envoy: Any) -> str:
    """One sentence, and what to write instead; "" where nothing more is known.

    Args:
        run: The run that did not call it.
        envoy: The module's envoy.
    """
    module, above = envoy._module, envoy._parent
    if above is None:
        return _of_the_root(run, module)
    place = above._path or "model"
    if isinstance(above._module, nn.MultiheadAttention):
        return (
            f"nn.MultiheadAttention uses the weights of its `{envoy._name}` without calling it; what comes "
            f"of them is `{place}.output[0]`."
        )
    if is_script_part(envoy):
        script = _outermost_script(envoy)._path or "model"
        return (
            "It is part of a TorchScript module, which calls its parts without Python. Ask for "
            f"`{script}.output`, or wrap the module that the script was made of."
        )
    root = envoy._root._module
    if isinstance(root, fx.GraphModule) and not has_forward(module):
        return (
            "An exported program computes without its modules: they only hold its weights. Wrap "
            "`torch.export.unflatten(program)`, which calls them, or the module that was exported."
        )
    return ""


def _of_the_root(run: Any, module: nn.Module) -> str:
    """The root is a shell: its `generate` calls what is inside."""
    if run.root is module:
        return ""
    inside = run.name(run.root)
    return f"Its `generate` calls `{inside}` in every step: ask for `model.{inside}.output`."


def is_script_part(envoy: Any) -> bool:
    """Whether the module is called by TorchScript, out of Python's sight."""
    above = envoy._parent
    return above is not None and isinstance(above._module, torch.jit.ScriptModule)


def _outermost_script(envoy: Any) -> Any:
    while is_script_part(envoy):
        envoy = envoy._parent
    return envoy
