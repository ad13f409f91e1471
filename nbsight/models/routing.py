"""Mixtures of experts: where the router's choice is in one layer, and what each chosen expert adds.

    layers[i].mlp.router          the router's scores, before any softmax, (batch, position, expert)
    layers[i].mlp.expert_ids      the experts that were chosen, (batch, position, choice)
    layers[i].mlp.expert_weights  what each is multiplied with, (batch, position, choice)
    layers[i].mlp.expert_out      what each adds, weight included, (batch, position, choice, d_model)

The scores are read where the router's matrix gives them, so a change goes through the model's own choice; ids
and weights where the experts get them. No model keeps what one expert adds: the experts are asked again, one
choice at a time, when somebody wants to see it. Shared experts are no choice and not among them.
"""

from __future__ import annotations

import inspect
from types import FrameType
from typing import Any

import torch
from torch import nn

from nbsight.core.participant import Participant
from nbsight.core.sites import UNSEEN, Site
from nbsight.core.source import source_of
from nbsight.errors import SourceNotAvailable
from nbsight.models.layout import has_module
from nbsight.models.places import Derived, Place, count_rows, first_tensor, fitted, with_first

__all__ = ["EXPERT_NAMES", "choices", "find_place", "read_expert_out", "write_expert_out"]

EXPERT_NAMES = ("router", "expert_ids", "expert_weights", "expert_out")

ROUTERS = ("gate", "router")
_ALL = Participant()
_ARGUMENTS = {"expert_ids": 1, "expert_weights": 2}


def find_place(root: Any, mlp: str | None, label: str, name: str) -> Place | str:
    """The place of a name in one layer, or why it has none.

    Args:
        root: The model's root envoy.
        mlp: The path of the layer's MLP.
        label: The name as the user writes it.
        name: One of `EXPERT_NAMES`.
    """
    module: nn.Module = root._module
    router = next((f"{mlp}.{one}" for one in ROUTERS if mlp and has_module(module, f"{mlp}.{one}")), None)
    if mlp is None or router is None or not has_module(module, f"{mlp}.experts"):
        return "its MLP is one, and no mixture of experts"
    if name == "router":
        return _router(root, router, label)
    experts = module.get_submodule(f"{mlp}.experts")
    if isinstance(experts, nn.ModuleList):
        return (
            "in this release of transformers the choice is made in the MLP's own forward, and no module "
            f"gets it. Read `{label.rpartition('.')[0]}.router`, or one expert: `{mlp}.experts[0].output`"
        )
    if name == "expert_out":
        return Place(label, f"{mlp}.experts", "result")
    number = _ARGUMENTS[name]
    parameters = list(inspect.signature(type(experts).forward).parameters)[1:]
    argument = (number, parameters[number] if number < len(parameters) else name)
    return Place(label, f"{mlp}.experts", "inputs", argument=argument, is_flat=True)


def _router(root: Any, path: str, label: str) -> Place | str:
    if isinstance(root._module.get_submodule(path), nn.Linear):
        return Place(label, path, "output", is_flat=True)
    try:
        source = source_of(root._at(path), inspect.currentframe())  # type: ignore[arg-type]
        operation = next(one for one in source if one.name.endswith("linear_0"))
    except (SourceNotAvailable, StopIteration):
        return f"the forward of `model.{path}` has no matrix product that could be read"
    return Place(label, operation._path, "output", find=lambda _: operation, is_flat=True)


def choices(
    experts: nn.Module, hidden: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """What each chosen expert adds, (row, choice, d_model).

    Args:
        experts: The module of all experts.
        hidden: What they read, (row, d_model).
        ids: (row, choice).
        weights: (row, choice).
    """
    alone = range(ids.shape[-1])
    parts = [first_tensor(experts(hidden, ids[:, one : one + 1], weights[:, one : one + 1])) for one in alone]
    return torch.stack(parts, dim=1)


def read_expert_out(envoy: Any, place: Place, tracer: Any, frame: FrameType) -> torch.Tensor:
    """What the chosen experts add, for the participant that asks.

    Args:
        envoy: The module of all experts.
        place: The place.
        tracer: The running trace.
        frame: The user's frame.
    """
    return _derived(envoy, place, tracer, frame).value


def write_expert_out(envoy: Any, place: Place, tracer: Any, value: Any, frame: FrameType) -> None:
    """Let the model go on with other contributions of the experts.

    Raises:
        EditError: the value does not fit.
    """
    derived = _derived(envoy, place, tracer, frame)
    derived.assign(fitted(envoy._root, place, derived.value, value))


def _derived(envoy: Any, place: Place, tracer: Any, frame: FrameType) -> Derived:
    run, participant = tracer.run, tracer.participant()
    rows = participant.rows
    key = (place.label, None if rows is None or rows.is_whole else participant)
    site = None if run is None else run.site
    if site is not None and site.module is envoy._module and site.kind == "output" and key in site.derived:
        return site.derived[key]
    tracer.read(envoy, "inputs", frame)
    given: Site = tracer.run.site
    tracer.read(envoy, "output", frame)
    args, kwargs = given.value  # of the whole batch, as it is now that the run has left that place
    hidden, ids, weights = (*args, *kwargs.values())[:3]
    site = tracer.run.site
    count = rows.total if rows is not None else count_rows(place, tracer)
    if tracer.scan:  # no numbers, and perhaps no weights
        whole = first_tensor(site.value).unsqueeze(1).repeat(1, ids.shape[-1], 1)
    else:
        with torch.set_grad_enabled(torch.is_grad_enabled() and tracer.handed is not None):
            whole = choices(envoy._module, hidden, ids, weights)
    whole = whole.unflatten(0, (count, -1))
    own = (whole if rows is None else rows.narrow(whole)).clone()

    def put(site: Site, value: torch.Tensor) -> None:
        changed = first_tensor(site.value).unflatten(0, (count, -1)).clone()
        index = None if rows is None else rows.index(changed.shape)
        changed[... if index is None else index] = value.sum(2).to(changed.dtype)
        site.assign(_ALL, with_first(site.value, changed.flatten(0, 1)), UNSEEN)

    derived = site.derive(key, Derived(own, put))
    if tracer.handed is not None:
        tracer.handed.note(derived.value, (envoy, "output", site.line))
    return derived
