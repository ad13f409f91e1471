"""MAGIC: `.save()` on tensors, and `nbsight.save(x)` for anything.

What: marks a value that is meant to outlive its trace. In a plain trace every name survives
anyway; the mark matters where a block runs elsewhere (only saved values travel back), and it lets
nbsight notice when a saved tensor is changed in place afterwards.

Why on the class: nnsight code says `x.save()` everywhere. `torch.Tensor.save` is the one thing
that nbsight adds to torch, and nothing is added to `object`.

What breaks it: another package that puts its own `save` on `torch.Tensor` itself; then ours stays
away and `nbsight.save(x)` does the same. (nnsight puts one on `object`: outside our traces a
tensor's `save` is still that one, so both can be used in one process.)

Tested in `tests/core/test_saving.py`.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from nbsight.core.badges import say
from nbsight.core.context import _stack, current_tracer, running
from nbsight.core.held import any_held
from nbsight.core.measuring import memory_of
from nbsight.core.participant import place_of
from nbsight.core.room import MANY, note_large_save
from nbsight.core.sites import Line, locate
from nbsight.errors import OutsideTraceError

__all__ = [
    "Saved",
    "check_rows",
    "find_saved",
    "is_saved",
    "newest_saved",
    "note_rows",
    "save",
    "warn_of_changes",
]

T = TypeVar("T")


class Saved(weakref.ref[torch.Tensor]):
    """What is known of a saved tensor: where it was saved and what it looked like then."""

    __slots__ = ("key", "line", "origin", "tokens", "version")

    key: int
    line: Line
    #: The place in the model that was read last before the value was saved.
    origin: Any
    tokens: Any
    #: The count of in-place changes when it was saved; None when that cannot be compared.
    version: int | None

    @property
    def path(self) -> str | None:
        """The place in the model that was read last before the value was saved."""
        return None if self.origin is None else place_of(self.origin)


# By id: tensors compare elementwise, so they cannot be keys. Entries leave with their tensor.
_saved: dict[int, Saved] = {}


def _drop(record: weakref.ref[torch.Tensor]) -> None:
    key = record.key  # type: ignore[attr-defined]
    if _saved.get(key) is record:
        del _saved[key]


def find_saved(value: Any) -> Saved | None:
    """The record of a saved tensor, if this very object was saved."""
    record = _saved.get(id(value))
    return record if record is not None and record() is value else None


def newest_saved(count: int) -> list[Saved]:
    """The records of the tensors that were saved last, the newest first."""
    return list(_saved.values())[: -count - 1 : -1]


def _save_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Keep this value after the trace.

    Returns:
        The tensor itself. It is not copied: an edit in place after this line shows in it.

    Raises:
        OutsideTraceError: no trace is running.
    """
    frame = sys._getframe(1)
    stack = _stack.get()
    tracer = None if stack is None else stack[0]
    if tracer is None or tracer.done:
        tracer = current_tracer()
        if tracer is None:
            if hasattr(object, "save"):
                return object.save(tensor)
            return _mark(None, tensor, frame)
    # What `_record` does, written out: this is the way of nearly everything that is saved.
    record = Saved(tensor, _drop)
    record.key = key = id(tensor)
    record.line = (frame.f_code, frame.f_lasti)
    plain = tensor if type(tensor) is torch.Tensor else getattr(tensor, "_plain", tensor)
    record.version = None if plain.is_inference() else plain._version
    _saved[key] = record
    tracer.note_saved(tensor, record)
    if plain.numel() >= MANY:
        note_large_save(tracer, plain, record.origin)
    return tensor


def save(value: T) -> T:
    """Keep any value after the trace: a tensor, a container of tensors, a number.

    Args:
        value: What to keep. Containers are kept with everything in them.

    Returns:
        The same object.

    Raises:
        OutsideTraceError: no trace is running.
    """
    return _mark(current_tracer(), value, sys._getframe(1))


def _mark(tracer: Any, value: Any, frame: Any) -> Any:
    if tracer is None and any_held():
        return value  # a run held open by hand: what it shows is the user's already
    if tracer is None:
        raise OutsideTraceError(
            "`save()` was called where no trace is running. A value is saved inside the block "
            "that makes it: `with model.trace(prompt): h = model.layer.output.save()`. Outside, "
            "the value is already yours."
        )
    if isinstance(value, torch.Tensor):
        tracer.note_saved(value, _record(value, frame))
    else:
        tracer.note_saved(value, None)
        for outer in running():
            if outer.root is None and outer is not tracer:  # a session, whose job asks for it
                outer.note_saved(value, None)
    return value


def _record(value: torch.Tensor, frame: Any) -> Saved:
    record = Saved(value, _drop)
    record.key = key = id(value)
    record.line = (frame.f_code, frame.f_lasti)
    plain = value if type(value) is torch.Tensor else plain_of(value)
    record.version = None if plain.is_inference() else plain._version
    record.origin = record.tokens = None
    _saved[key] = record
    return record


def plain_of(value: torch.Tensor) -> torch.Tensor:
    """The tensor that the model uses, for what stands for one: asking that is ten times as quick."""
    return value if type(value) is torch.Tensor else getattr(value, "_plain", value)


def note_rows(participant: Any, value: torch.Tensor, record: Saved) -> None:
    """One of several invokes has saved a value.

    Rows of one batch count their changes together: another invoke's edit of its own rows would look
    like a change of these. So theirs are compared when this invoke has changed something itself.
    """
    plain = plain_of(value)
    if record.version is not None and plain._is_view():
        if not participant.kept:
            participant.kept = []
        participant.kept.append((value, record, record.version))
        record.version = None


def check_rows(participant: Any, changed: list[torch.Tensor]) -> None:
    """An invoke has changed these tensors in place: has it saved rows of them before?"""
    if not participant.kept:
        return
    memory = set(map(memory_of, changed))
    for value, record, version in participant.kept:
        plain = plain_of(value)
        if plain._version != version and memory_of(plain) in memory:
            record.version = _CHANGED


#: In the place of a count: it was changed.
_CHANGED = -1


def warn_of_changes(saved: list[tuple[Any, Saved | None]], names: dict[str, Any]) -> None:
    """Say it when a saved tensor was changed in place between its `save()` and now.

    Args:
        names: The globals of the block.
    """
    for value, record in saved:
        if record is None or record.version is None:
            continue
        plain = value if type(value) is torch.Tensor else plain_of(value)
        if plain._version == record.version:
            continue
        filename, number = locate(record.line)
        # The parts of a tensor count their changes together.
        shows = "may show" if plain._is_view() and not _is_all(plain) else "shows"
        text = (
            f"the value saved on line {number}"
            + (f" from `{record.path}`" if record.path else "")
            + f" was changed in place later in the trace, so it {shows} the changed numbers; write "
            "`.clone().save()` to keep what was there before"
        )
        say(text, "saved", filename, number, names)


def _is_all(view: torch.Tensor) -> bool:
    return view._base is not None and view._base.numel() == view.numel()


def is_saved(value: Any) -> bool:
    """Whether this very tensor carries a save mark."""
    return find_saved(value) is not None


def _mount(method: Callable[..., Any]) -> None:
    if "save" not in torch.Tensor.__dict__:
        torch.Tensor.save = method


_mount(_save_tensor)
