"""Errors on the user's own line: what was asked, what is there, what to write instead."""

from __future__ import annotations

import functools
import linecache
import os
import re
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nbsight.core.run import Reached, place_of
from nbsight.core.saving import find_saved
from nbsight.core.sites import Line, Site, describe, locate, show_line, show_text
from nbsight.core.source import Operation
from nbsight.errors import (
    EditError,
    GraphError,
    ModelRunError,
    NbsightError,
    NeverCalledError,
    NotFiniteError,
    OutOfOrderError,
)

if TYPE_CHECKING:
    from nbsight.core.envoy import Envoy
    from nbsight.core.run import Participant, Run
    from nbsight.core.tracer import Tracer

__all__ = [
    "check_inputs",
    "leave_block",
    "missed",
    "model_failed",
    "order_of",
    "passed_in_step",
    "refuse_hopeless",
]

_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


# -- a place that was not reached ------------------------------------------------------------------


def refuse_hopeless(run: Run, asked: Reached) -> None:
    """Raise for a place that no forward like this one can come to.

    Raises:
        OutOfOrderError: the model has failed.
        NeverCalledError: the place lies in what was skipped, or is nothing that can be called.
    """
    envoy, _, line = asked
    if run.failure is not None:
        raise OutOfOrderError(
            f"`{place_of(asked)}` was asked for, but the model failed earlier in this run: {run.failure}\n"
            f"  {show_line(line)}\nNothing after that place has a value."
        )
    for module, skipped in run.skipped.items():
        if envoy._module is not module and _lies_in(envoy, module):
            raise NeverCalledError(
                f"`{place_of(asked)}` was asked for, but `{run.name(module)}` was skipped, so nothing "
                f"inside it runs.\n  {show_line(line)}\nIt was skipped here:\n  {show_line(skipped)}"
            )
    home = _home(envoy)
    if home._module not in home._gates():
        raise _never_called(asked)


def _never_called(asked: Reached) -> NeverCalledError:
    """The error for a module that the forward does not call."""
    home = _home(asked[0])
    return NeverCalledError(
        f"`{place_of(asked)}` was asked for, but this run never calls `{home._path or 'model'}` "
        f"({type(home._module).__name__}).\n  {show_line(asked[2])}\n"
        "Ask a module that the forward calls: its parent "
        f"`{home._parent._path or 'model' if home._parent else 'model'}` or its submodules."
    )


def missed(
    run: Run,
    participant: Participant,
    asked: Reached,
    last: Reached | None,
    stood: Site | None,
    seen: Run | None,
    why: str = "",
) -> NbsightError:
    """The error for a place that the run ended without reaching.

    Args:
        run: The run.
        participant: Who asked.
        asked: The place and the line.
        last: What had been reached before.
        stood: Where the run stood when it was asked for.
        seen: A forward like that of the run with a gate at the place from its start, if there is one.
        why: Why a second forward would not give it.
    """
    envoy, _, line = asked
    home = _home(envoy)
    if seen is not None and not (run.was_called(home._module) or seen.was_called(home._module)):
        return _never_called(asked)
    if isinstance(envoy, Operation) and not run.was_called(envoy):
        return _operation_missed(envoy, asked, last, seen or run, why)
    text = f"`{place_of(asked)}` was asked for after the model had passed it.\n  {show_line(line)}\n"
    text += _stood_at(last)
    source = getattr(participant, "got_from", None)
    if source is not None and stood is not None:
        name, binder = source
        return OutOfOrderError(
            f"{text}`{name}`, which this block waited for, is made by the block on line "
            f"{binder.block.line}, at `{run.name(stood.module)}.{stood.kind}`: later than "
            f"`{place_of(asked)}`. That takes two traces: save `{name}` in the first and use it in the "
            "second."
        )
    return OutOfOrderError(text + _no_second(why) + order_of(line, last))


def _stood_at(last: Reached | None) -> str:
    """Where the model stood, and the line that had asked for that."""
    if last is None:
        return ""
    return f"By then the model stood at `{place_of(last)}`:\n  {show_line(last[2])}\n"


def order_of(line: Line, last: Reached | None) -> str:
    """The order of two lines that works."""
    rule = "in the order in which the model computes, inner modules first."
    if last is not None:
        (file, number), (other, before) = locate(line), locate(last[2])
        if file == other and number > before:
            return f"Put line {number} before line {before}: lines stand {rule}"
    return f"Write the lines {rule}"


def _no_second(why: str) -> str:
    return f"A second forward would not give it: {why}.\n" if why else ""


def _home(envoy: Any) -> Any:
    """The envoy of the module that must be called for a place to be reached."""
    return envoy._home if isinstance(envoy, Operation) else envoy


def _lies_in(envoy: Any, other: Any) -> bool:
    """Whether what an envoy stands for is inside a module or an operation that was skipped."""
    if isinstance(envoy, Operation):
        return envoy._lies_in(other)
    inner = other if isinstance(other, nn.Module) else other._submodule
    return inner is not None and any(envoy._module is sub for sub in inner.modules())


def _operation_missed(
    operation: Operation, asked: Reached, last: Reached | None, seen: Run, why: str
) -> NbsightError:
    """The error for an operation that did not run, or ran before anybody could see it."""
    line = asked[2]
    function = operation._owner_path or "model"
    if not seen.was_called(operation) and any(seen.was_called(other) for other in operation._view):
        return NeverCalledError(
            f"`{place_of(asked)}` was asked for, but this run does not get to it: the branch of "
            f"`{function}` that holds {operation._where()} was not taken.\n  {show_line(line)}\n"
            f"`print({operation._view._code})` shows its other operations."
        )
    return OutOfOrderError(
        f"`{place_of(asked)}` was asked for when the model had already begun `{function}` or gone past "
        f"it, so its operations can no longer be stopped at.\n  {show_line(line)}\n"
        + _stood_at(last)
        + _no_second(why)
        + "Ask for the operations before anything inside or after it, or let the block begin "
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


# -- the model failed ------------------------------------------------------------------------------


def model_failed(run: Run, error: BaseException) -> BaseException:
    """The error for a failure inside the model, naming the module and the edit before it."""
    if isinstance(error, NotFiniteError):
        return error.with_traceback(None)  # where it was found is in its text
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
    original: Any = type(error)
    return kind if issubclass(kind, original) else _joined(kind, original)


@functools.lru_cache(maxsize=64)  # a class is a knot of references, so one is made once
def _joined(kind: Any, original: Any) -> Any:
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
