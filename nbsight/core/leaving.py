"""Leaving a block with an error: our frames cut, and more said where torch or Python say little."""

from __future__ import annotations

import linecache
import re
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.checkpoint import CheckpointError

from nbsight.core.checkpoints import ASK_LATER
from nbsight.core.explain import like
from nbsight.core.participant import place_of
from nbsight.core.saving import find_saved
from nbsight.core.sites import Line, describe, locate, show_text
from nbsight.core.tracebacks import entries_of, is_own, is_torch, joined, without_own
from nbsight.errors import EditError, GraphError, NbsightError

if TYPE_CHECKING:
    from nbsight.core.tracer import Tracer

__all__ = ["leave_block"]

_SIZES = re.compile(r"must match|size mismatch|shape mismatch|expanded size|not broadcastable")


def leave_block(tracer: Tracer, error: BaseException) -> BaseException:
    """The error with which a block is left: our frames cut, what torch and Python say explained."""
    trace = error.__traceback__
    better = _explained(tracer, error, _users_line(trace))
    if better is not None:
        better.__traceback__ = _to_users_line(without_own(trace) or trace)
        return better
    if isinstance(error, NbsightError) or not _ends_in_own(trace):
        error.__traceback__ = without_own(trace) or trace
    if type(error) is AttributeError and error.name == "save":
        advice = (
            "on tensors; for anything else, such as a list or a tuple, write `nbsight.save(...)` around it."
        )
        error.args = (f"{error}. `.save()` is there {advice}",)
    if isinstance(error, EditError):
        _point_at(error, error.line, tracer.frame)
    return error


def _explained(tracer: Tracer, error: BaseException, line: tuple[str, int] | None) -> BaseException | None:
    """The error to raise in another's place, if there is more to say."""
    if line is None:
        return None
    if type(error) is RuntimeError and _SIZES.search(str(error)):
        text = _mismatch(tracer, error, line)
        if text is not None:
            return like(error, EditError)(text)
    text = _item_assignment(tracer, error, line)
    if text is not None:
        return like(error, EditError)(text)
    if isinstance(error, CheckpointError):
        return like(error, GraphError)(f"{ASK_LATER}\n  {show_text(*line)}")
    if type(error) is RuntimeError and "does not require grad" in str(error) and not tracer.grad:
        why = (
            "it was opened with grad=False"
            if tracer.grad_asked is False
            else "neither the code around it nor the functions it calls mention gradients"
        )
        return GraphError(
            f"a gradient was asked for, but this trace records no graph: {why}. Write "
            f"`model.trace(..., grad=True)`.\n  {show_text(*line)}"
        )
    return None


def _to_users_line(trace: TracebackType | None) -> TracebackType | None:
    """A traceback up to the innermost line of the user's: what torch called below it is left out."""
    entries = entries_of(trace)
    while entries and is_torch(entries[-1]):
        entries.pop()
    return joined(entries)


def _ends_in_own(trace: TracebackType | None) -> bool:
    """Whether an error was raised by this package (then its own frames may be what is looked for)."""
    return trace is None or is_own(entries_of(trace)[-1])


def _users_line(trace: TracebackType | None) -> tuple[str, int] | None:
    """The innermost line on a traceback that is neither ours nor torch's."""
    for entry in reversed(entries_of(trace)):
        if not is_own(entry) and not is_torch(entry):
            return entry.tb_frame.f_code.co_filename, entry.tb_lineno
    return None


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
    frames = [entry.tb_frame for entry in entries_of(error.__traceback__)]
    frame = next((one for one in reversed(frames) if one.f_code.co_filename == line[0]), None)
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


def _item_assignment(tracer: Tracer, error: BaseException, line: tuple[str, int]) -> str | None:
    """What to write instead of `module.output[0] = value` where the output is a tuple.

    Args:
        tracer: The trace.
        error: What left its block.
        line: The user's line.
    """
    if type(error) is not TypeError or "'tuple' object does not support item assign" not in str(error):
        return None
    participant: Any = tracer.failed or tracer.participant()
    if participant.last is None or locate(participant.last[2]) != line:
        return None
    place = place_of(participant.last)
    return (
        f"`{place}` is a tuple, and a tuple's items cannot be assigned.\n  {show_text(*line)}\n"
        f"To change the numbers in its first item write `{place}[0][:] = value`, to put another there "
        f"`{place} = (value, *{place}[1:])`."
    )


def _point_at(error: BaseException, line: Line | None, frame: FrameType | None) -> None:
    """Let the traceback of an error that came up later end at the line that it is about.

    Args:
        line: The line.
        frame: The frame that holds the block.
    """
    if line is None or frame is None or error.__traceback__ is None:
        return
    filename, number = locate(line)
    if frame.f_code.co_filename == filename and not _is_on(error.__traceback__, filename, number):
        # No instruction: what the frame is at now has other columns than that line.
        error.__traceback__ = TracebackType(None, frame, -1, number)


def _is_on(trace: TracebackType | None, filename: str, number: int) -> bool:
    return any(
        entry.tb_frame.f_code.co_filename == filename and entry.tb_lineno == number
        for entry in entries_of(trace)
    )
