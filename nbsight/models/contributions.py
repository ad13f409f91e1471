"""`attn.result`: what each head adds, computed when it is asked for.

No model computes it: the heads' vectors lie side by side, and one matrix takes all of them back into the
stream at once. That matrix is a sum over heads, so each head's part of the sum is what that head adds.

It is read while the run stands at what the matrix gives. A change goes there: the model goes on with the sum
of the changed parts and the bias.
"""

from __future__ import annotations

from types import FrameType
from typing import Any

import torch
from torch import nn

from nbsight.core.sites import Site
from nbsight.errors import PathError
from nbsight.models.fetching import parameter_of
from nbsight.models.parts import Heads
from nbsight.models.places import Derived, Place, first_tensor, fitted, read, with_first

__all__ = ["bias_of", "contributions", "read_result", "write_result"]


def contributions(
    mix: nn.Module, z: torch.Tensor, *, is_recorded: bool, root: nn.Module | None = None
) -> torch.Tensor:
    """What each head adds, (batch, position, head, d_model), without the bias.

    Args:
        mix: The module that takes the heads side by side, (…, head · d_head), to (…, d_model).
        z: What the heads found, (batch, position, head, d_head).
        is_recorded: Whether gradients of the weights must go through it.
        root: The model, where its weights may be kept elsewhere.
    """
    weight = parameter_of(mix, "weight", root)
    kind = type(mix)
    if isinstance(weight, torch.Tensor) and (kind is nn.Linear or kind.__name__ == "Conv1D"):
        matrix = weight if is_recorded else weight.detach()
        matrix = matrix if kind.__name__ == "Conv1D" else matrix.T
        by_head = matrix.unflatten(0, (z.shape[2], -1))
        return torch.einsum("bphd,hdm->bphm", z.to(by_head.dtype), by_head)
    # Adapters, quantised weights: the module itself, on one head at a time.
    nothing = mix(torch.zeros_like(z).flatten(-2))
    parts = []
    for head in range(z.shape[2]):
        alone = torch.zeros_like(z)
        alone[:, :, head] = z[:, :, head]
        parts.append(mix(alone.flatten(-2)) - nothing)
    return torch.stack(parts, dim=2)


def bias_of(mix: nn.Module, like: torch.Tensor, root: nn.Module | None = None) -> torch.Tensor:
    """What the matrix adds whatever the heads find, (d_model)."""
    bias = parameter_of(mix, "bias", root)
    if isinstance(bias, torch.Tensor):
        return bias.detach()
    return torch.zeros(like.shape[-1], dtype=like.dtype, device=like.device)


def read_result(envoy: Any, place: Place, z: Place, tracer: Any, frame: FrameType) -> torch.Tensor:
    """The contributions of the heads, for the participant that asks.

    Args:
        envoy: The module that takes the heads side by side.
        place: The place of the contributions.
        z: The place of what the heads found.
        tracer: The running trace.
        frame: The user's frame.
    """
    return _derived(envoy, place, z, tracer, frame).value


def write_result(envoy: Any, place: Place, z: Place, tracer: Any, value: Any, frame: FrameType) -> None:
    """Let the model go on with other contributions.

    Raises:
        EditError: the value does not fit.
    """
    derived = _derived(envoy, place, z, tracer, frame)
    derived.assign(fitted(envoy._root, place, derived.value, value))


def _derived(envoy: Any, place: Place, z: Place, tracer: Any, frame: FrameType) -> Derived:
    run, participant = tracer.run, tracer.participant()
    rows = participant.rows
    key = (place.label, None if rows is None or rows.is_whole else participant)
    site = None if run is None else run.site
    if site is not None and site.module is envoy._module and site.kind == "output" and key in site.derived:
        return site.derived[key]
    found = read(envoy, z, tracer, frame)
    is_recorded = tracer.handed is not None
    native = tracer.read(envoy, "output", frame)
    mix = envoy._module
    if found.ndim != 4 or not isinstance(z.part, Heads):
        raise PathError(f"`model.{place.label}` needs heads side by side at `{z.native}`.")
    if tracer.scan:  # no numbers, and perhaps no weights
        value = first_tensor(native).unsqueeze(2).repeat(1, 1, found.shape[2], 1)
        bias = None
    else:
        module = envoy._root._module
        value = contributions(mix, found, is_recorded=is_recorded, root=module) * place.factor
        bias = parameter_of(mix, "bias", module) if is_recorded else bias_of(mix, value, module)

    def put(site: Site, value: torch.Tensor) -> None:
        whole = (value / place.factor).sum(2)
        whole = whole if bias is None else whole + bias
        now = with_first(site.view(participant), whole.to(found.dtype))
        site.assign(participant, now, envoy._show("output", now))

    derived = tracer.run.site.derive(key, Derived(value, put))
    if is_recorded:
        tracer.handed.note(derived.value, (envoy, "output", tracer.run.site.line))
    return derived
