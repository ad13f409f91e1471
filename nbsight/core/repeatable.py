"""Whether a forward can be run once more and give the same numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules.batchnorm import _NormBase

if TYPE_CHECKING:
    from nbsight.core.run import Run
    from nbsight.core.tracer import Tracer

__all__ = ["is_stateful", "remember", "why_not"]

_Tensor = torch.Tensor

#: What cannot be changed by being passed to a model.
_FIXED = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device, torch.Size, slice)


def remember(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The arguments of a forward, and the tensors' counts of in-place changes before it began."""
    counts = []
    try:  # every trace comes by here, so it is written for speed
        for value in args:
            if type(value) is _Tensor:
                counts.append(value._version)
        if kwargs:
            for value in kwargs.values():
                if type(value) is _Tensor:
                    counts.append(value._version)
    except RuntimeError:  # tensors made in inference mode do not count
        return args, kwargs, None
    return args, kwargs, counts


def why_not(tracer: Tracer, run: Run, participant: Any) -> str | None:
    """What speaks against a second forward that gives somebody a place which the first has passed.

    Returns:
        None when nothing does; the reason; an empty text where the question hardly arises.
    """
    if (
        tracer.is_strict
        or tracer.frame is None  # a run that is held open by hand: it would jump back
        or tracer.scan
        or tracer.method != "forward"
        or participant.is_kept
        or participant.occurrence is not None
        or getattr(participant, "got_from", None) is not None
    ):
        return ""
    if run.repeat is None:
        return "the first has filled the cache that was given to it"
    if run.grad and run.model_state[0]:
        return (
            "this trace records gradients, and no value of a second forward lies on the way to a loss of "
            "the first (`grad=False` records none)"
        )
    if run.model_state[1] or run.repeat[2] is None:
        return "in inference mode torch does not tell what was changed (`torch.no_grad()` does)"
    return _changed(run) or _kept_state(tracer, run)


def _changed(run: Run) -> str | None:
    args, kwargs, counts = run.repeat  # type: ignore[misc]
    if remember(args, kwargs)[2] != counts:
        return "the input was changed in place since the first began"
    for site in dict.fromkeys(edit.site for edit in run.edits):
        if site is None:
            continue
        place = f"{run.name(site.module)}.{site.kind}"
        if site.is_touched:
            return f"the value written to `{place}` was changed in place later, so it cannot be put back"
        if site.is_mixed:
            return f"`{place}` was changed in place and replaced as well, which cannot be told apart again"
    for site, versions in run.skips:
        if any(tensor._version != version for tensor, version in versions):
            return f"the value that replaced `{run.name(site.module)}` was changed in place later"
    return None


def _kept_state(tracer: Tracer, run: Run) -> str | None:
    assert run.repeat is not None
    unknown = _first_unknown(list(run.repeat[:2]))
    if unknown is not None:
        return f"the input holds a {type(unknown).__name__}, which the first may have changed"
    if is_stateful(tracer.root):
        return "the model is in training mode, where a second would count twice in its running statistics"
    return None


def _first_unknown(value: Any) -> Any:
    """Something in the arguments that a forward may leave changed; None when there is nothing."""
    if isinstance(value, (torch.Tensor, *_FIXED)):
        return None
    if isinstance(value, (tuple, list)):
        items = list(value)
    elif type(value) is dict:
        items = list(value.values())
    else:
        return value
    return next((found for item in items if (found := _first_unknown(item)) is not None), None)


def is_stateful(root: Any) -> bool:
    """Whether every forward of the model changes statistics that it keeps."""
    return any(
        isinstance(module, _NormBase) and module.training and module.track_running_stats
        for module in root._module.modules()
    )
