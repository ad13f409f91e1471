"""Errors on the user's own line: what was asked, what is there, what to write instead."""

from __future__ import annotations

import linecache
import os
import re
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nbsight.core.run import place_of
from nbsight.core.saving import find_saved
from nbsight.core.sites import Line, Site, describe, show_line, show_text
from nbsight.core.source import Operation
from nbsight.errors import (
    EditError,
    GraphError,
    ModelRunError,
    NbsightError,
    NeverCalledError,
    OutOfOrderError,
)

if TYPE_CHECKING:
    from nbsight.core.envoy import Envoy
    from nbsight.core.run import Participant, Run
    from nbsight.core.tracer import Tracer

__all__ = ["check_inputs", "leave_block", "missed", "model_failed", "passed_in_step"]

_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


# -- a place that was not reached ------------------------------------------------------------------


def missed(
    tracer: Tracer,
    run: Run,
    participant: Participant,
    envoy: Envoy,
    what: str,
    line: Line,
    stood: Site | None,
) -> NbsightError:
    """The error for a place that the run ended without reaching."""
    asked = f"{envoy._path}.{what}".lstrip(".")
    if run.failure is not None:
        return OutOfOrderError(
            f"`{asked}` was asked for, but the model failed earlier in this run: {run.failure}\n"
            f"  {show_line(line)}\nNothing after that place has a value."
        )
    for module, skipped in run.skipped.items():
        if envoy._module is not module and _lies_in(envoy, module):
            return NeverCalledError(
                f"`{asked}` was asked for, but `{run.name(module)}` was skipped, so nothing inside "
                f"it runs.\n  {show_line(line)}\nIt was skipped here:\n  {show_line(skipped)}"
            )
    home: Any = envoy._home if isinstance(envoy, Operation) else envoy
    if not (run.was_called(home._module) or _is_called(run, home._module)):
        return NeverCalledError(
            f"`{asked}` was asked for, but this run never calls `{home._path or 'model'}` "
            f"({type(home._module).__name__}).\n  {show_line(line)}\n"
            "Ask a module that the forward calls: its parent "
            f"`{home._parent._path or 'model' if home._parent else 'model'}` or its submodules."
        )
    if isinstance(envoy, Operation) and not run.was_called(envoy):
        return _operation_missed(run, participant, envoy, asked, line)
    text = f"`{asked}` was asked for after the model had passed it.\n  {show_line(line)}\n"
    if participant.last is not None:
        text += (
            f"By then the model stood at `{place_of(participant.last)}`:\n"
            f"  {show_line(participant.last[2])}\n"
        )
    source = getattr(participant, "got_from", None)
    if source is not None and stood is not None:
        name, binder = source
        text += (
            f"`{name}`, which this block waited for, is made by the block on line "
            f"{binder.block.line}, at `{run.name(stood.module)}.{stood.kind}`: later than "
            f"`{asked}`. That takes two traces: save `{name}` in the first and use it in the "
            "second."
        )
    else:
        text += "Write the lines in the order in which the model computes, inner modules first."
    return OutOfOrderError(text)


def _lies_in(envoy: Any, other: Any) -> bool:
    """Whether what an envoy stands for is inside a module or an operation that was skipped."""
    if isinstance(envoy, Operation):
        return envoy._lies_in(other)
    inner = other if isinstance(other, nn.Module) else other._submodule
    return inner is not None and any(envoy._module is sub for sub in inner.modules())


def _operation_missed(
    run: Run, participant: Participant, operation: Operation, asked: str, line: Line
) -> NbsightError:
    """The error for an operation that did not run, or ran before anybody could see it."""
    function = operation._owner_path or "model"
    if any(run.was_called(other) for other in operation._view):
        return NeverCalledError(
            f"`{asked}` was asked for, but this run does not get to it: the branch of `{function}` "
            f"that holds {operation._where()} was not taken.\n  {show_line(line)}\n"
            f"`print({operation._view._code})` shows its other operations."
        )
    text = (
        f"`{asked}` was asked for when the model had already begun `{function}` or gone past it, so "
        f"its operations can no longer be stopped at.\n  {show_line(line)}\n"
    )
    if participant.last is not None:
        text += (
            f"By then the model stood at `{place_of(participant.last)}`:\n"
            f"  {show_line(participant.last[2])}\n"
        )
    return OutOfOrderError(
        text + "Ask for the operations before anything inside or after it, or let the block begin "
        f"with `source = {operation._view._code}` and use `source.{operation.name}` later."
    )


def passed_in_step(
    tracer: Tracer, run: Run, participant: Participant, envoy: Envoy, what: str, line: Line
) -> NbsightError:
    """The error for a place that the present step of a generation had already passed."""
    asked = f"{envoy._path}.{what}".lstrip(".")
    last = participant.last
    generation = tracer.generation
    if generation is not None and generation.asked.get(participant) == participant.step:
        return OutOfOrderError(
            f"`{asked}` was asked for in step {participant.step}, after the token that this step chose; to "
            f"know that, the model had to end the step.\n  {show_line(line)}\n"
            "Ask for the token last in the body of the loop, or after the block: `tracer.steps[0].token`."
        )
    return OutOfOrderError(
        f"`{asked}` was asked for in step {participant.step}, after the model had passed it in that "
        f"step.\n  {show_line(line)}\n"
        + (f"By then it stood at `{place_of(last)}`:\n  {show_line(last[2])}\n" if last else "")
        + "Write the lines in the order in which the model computes; for later steps loop with "
        "`for step in tracer.iter[:]:`."
    )


class _Found(BaseException):
    pass


def _is_called(run: Run, module: nn.Module) -> bool:
    """Whether a second, unobserved forward on the same input calls the module."""
    if run.repeat is None:
        return True
    args, kwargs = run.repeat

    me = threading.get_ident()

    def found(*_: Any) -> None:
        if threading.get_ident() == me:  # another thread may be using the model
            raise _Found

    hook = module.register_forward_pre_hook(found)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            run.root(*args, **kwargs)
    except _Found:
        return True
    except Exception:  # the forward fails before it gets there: then it does not get there
        return False
    finally:
        hook.remove()
    return False


# -- the model failed ------------------------------------------------------------------------------


def model_failed(run: Run, error: BaseException) -> BaseException:
    """The error for a failure inside the model, naming the module and the edit before it."""
    if not isinstance(error, Exception) or isinstance(error, NbsightError):
        return error
    lines = [f"the model failed in `{_where(run.model, error)}`: {type(error).__name__}: {error}"]
    for edit in run.edits[-3:]:
        lines.append(
            f"`{edit.path}.{edit.kind}` had been changed before that:\n  {show_line(edit.line)}\n"
            f"  {edit.before} -> {edit.after}"
        )
    if run.edits:
        lines.append("A value that replaces another needs its shape, dtype and device.")
    lines.append("The model's own traceback is in the error's `.original`.")
    failure = _like(error, ModelRunError)("\n".join(lines))
    failure.original = error
    del error
    return failure


def _like(error: BaseException, kind: Any) -> Any:
    """A class that is `kind` and also an error of the original's type: `except` still works."""
    original = type(error)
    if issubclass(kind, original):
        return kind
    try:
        return type(kind.__name__, (kind, original), {"__module__": kind.__module__})
    except TypeError:  # the two layouts do not go together
        return kind


def _where(root: Any, error: BaseException) -> str:
    """The path of the innermost module on the traceback."""
    place, trace = "model", error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and id(owner) in root._paths:
            place = root._path_of(owner)
        trace = trace.tb_next
    return place


# -- leaving a block with an error -----------------------------------------------------------------

_SIZES = re.compile(r"must match|size mismatch|shape mismatch|expanded size|not broadcastable")


def leave_block(tracer: Tracer, error: BaseException) -> BaseException:
    """The error with which a block is left: our frames cut, torch's size errors explained."""
    line = _users_line(error.__traceback__)
    if type(error) is RuntimeError and _SIZES.search(str(error)) and line is not None:
        text = _mismatch(tracer, error, line)
        if text is not None:
            return _like(error, EditError)(text)
    if type(error) is RuntimeError and "does not require grad" in str(error) and not tracer.grad:
        why = (
            "it was opened with grad=False"
            if tracer.grad_asked is False
            else "neither the code around it nor the functions it calls mention gradients"
        )
        return GraphError(
            f"a gradient was asked for, but this trace records no graph: {why}. Write "
            "`model.trace(..., grad=True)`.\n" + (f"  {show_text(*line)}" if line else "")
        )
    if type(error) is AttributeError and error.name == "save":
        advice = (
            "on tensors; for anything else, such as a list or a tuple, write `nbsight.save(...)` around it."
        )
        error.args = (f"{error}. `.save()` is there {advice}",)
    generation = tracer.generation
    if isinstance(error, NbsightError) or (generation is not None and error is generation.failed):
        error.__traceback__ = _without_own(error.__traceback__)
    return error


def _users_line(trace: TracebackType | None) -> tuple[str, int] | None:
    """The innermost line on a traceback that is neither ours nor an installed library's."""
    line = None
    while trace is not None:
        filename = trace.tb_frame.f_code.co_filename
        if not filename.startswith((_OWN, _TORCH)):
            line = (filename, trace.tb_lineno)
        trace = trace.tb_next
    return line


def _without_own(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without this package's frames (all of it, if there is nothing else)."""
    frames = []
    current = trace
    while current is not None:
        if not current.tb_frame.f_code.co_filename.startswith(_OWN):
            frames.append(current)
        current = current.tb_next
    if not frames:
        return trace
    result = None
    for entry in reversed(frames):
        result = TracebackType(result, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return result


def _mismatch(tracer: Tracer, error: BaseException, line: tuple[str, int]) -> str | None:
    """What to say about a torch size error on a line of the block."""
    run = tracer.run
    participant = tracer.failed or tracer.participant()
    site = tracer.failed_at or (run.site if run is not None else None)
    shown = None if site is None else site.shown_to(participant)
    if run is None or site is None or shown is None:
        return None
    path = f"{run.name(site.module)}.{site.kind}"
    lines = [f"the shapes on this line do not fit: {error}", f"  {show_text(*line)}"]
    lines.append(f"`{path}` is {describe(shown)} here{_tokens(participant.tokens)}")
    for name, value in _tensors_on(line, error):
        record = find_saved(value)
        origin = f", saved from `{record.path}`" if record is not None and record.path else ""
        tokens = _tokens(record.tokens) if record is not None else ""
        lines.append(f"`{name}` is {describe(value)}{origin}{tokens}")
    lines.append(
        "Prompts of different lengths have no common positions: choose prompts of equal length, or "
        "patch positions that correspond, such as `[:, -1]` on both sides."
    )
    return "\n".join(lines)


def _tokens(find: Any) -> str:
    tokens = find() if find is not None else None
    if not tokens:
        return ""
    shown = " ".join(repr(token) for token in tokens[:24])
    return f"\n    {len(tokens)} tokens: {shown}" + (" …" if len(tokens) > 24 else "")


def _tensors_on(line: tuple[str, int], error: BaseException) -> list[tuple[str, torch.Tensor]]:
    """The user's variables on a line that hold tensors."""
    words = dict.fromkeys(re.findall(r"\b[A-Za-z_]\w*\b", linecache.getline(*line)))
    trace, frame = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == line[0]:
            frame = trace.tb_frame
        trace = trace.tb_next
    if frame is None:
        return []
    found = []
    for word in words:
        try:
            value = frame.f_locals[word] if word in frame.f_locals else frame.f_globals[word]
        except KeyError:
            continue
        if isinstance(value, torch.Tensor):
            found.append((word, value))
    return found


def check_inputs(envoy: Envoy, value: Any) -> Any:
    """The pair (args, kwargs) that a user wrote to `.inputs`.

    Raises:
        EditError: it is not such a pair.
    """
    if (
        isinstance(value, tuple)
        and len(value) == 2
        and isinstance(value[0], (tuple, list))
        and isinstance(value[1], dict)
    ):
        return (tuple(value[0]), value[1])
    raise EditError(
        f"`{envoy._path}.inputs` is a pair (args, kwargs) and was set to {describe(value)}. Write "
        f"`{envoy._path}.inputs = ((x,), {{}})`, or set the first argument alone with "
        f"`{envoy._path}.input = x`."
    )
