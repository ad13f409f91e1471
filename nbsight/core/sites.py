"""Sites: the places where a run can stop, and what is done to the values there."""

from __future__ import annotations

import copy
import linecache
from dataclasses import dataclass
from types import CodeType
from typing import TYPE_CHECKING, Any

import torch

from nbsight.core.batching import map_tensors, splice

if TYPE_CHECKING:
    from nbsight.core.run import Participant

__all__ = ["Edit", "Line", "Site", "describe", "locate", "show_line", "show_text"]

#: A place in the user's code: a code object and an offset in it. Finding the line number takes
#: a walk over the code's line table, so it is left to whoever needs it (see `locate`).
Line = tuple[CodeType, int]

_NOTHING: Any = object()


def locate(line: Line) -> tuple[str, int]:
    """File name and line number of a place in the user's code."""
    code, offset = line
    number = code.co_firstlineno
    for start, end, candidate in code.co_lines():
        if start <= offset < end and candidate is not None:
            number = candidate
    return code.co_filename, number


def show_line(line: Line | None) -> str:
    """A line of the user's code as text: `line 3: h = model.h[0].output`."""
    return "(no line)" if line is None else show_text(*locate(line))


def show_text(filename: str, number: int) -> str:
    """The same for a file name and a line number."""
    text = linecache.getline(filename, number).strip()
    return f"line {number}: {text}" if text else f"line {number}"


@dataclass(frozen=True, eq=False)
class Edit:
    """One change of a value, kept to explain what came of it."""

    path: str
    kind: str
    line: Line | None
    before: str
    after: str
    site: Any = None


def describe(value: Any) -> str:
    """One short phrase: dtype and shape of a tensor, the make-up of a container."""
    if isinstance(value, torch.Tensor):
        name = str(value.dtype).removeprefix("torch.")
        place = "" if value.device.type == "cpu" else f" on {value.device}"
        return f"{name} {tuple(value.shape)}{place}"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__} of " + ", ".join(describe(item) for item in value[:4])
    if isinstance(value, dict):
        return f"{type(value).__name__} with {', '.join(map(str, list(value)[:6]))}"
    return type(value).__name__


class Site:
    """A value in flight: one module's input or output in one call.

    `value` is what the model goes on with. Participants are shown their rows of it; what they
    assign is kept apart and put together when the run leaves the site.
    """

    __slots__ = (
        "assigned", "handed", "kind", "line", "module", "shown", "skip", "value", "versions", "views",
        "visit",
    )  # fmt: skip

    def __init__(self, module: Any, kind: str, visit: int, value: Any) -> None:
        self.module = module
        self.kind = kind
        self.visit = visit
        self.value = value
        self.skip: Any = _NOTHING
        self.line: Line | None = None
        self.views: dict[Participant, Any] = {}
        self.shown: dict[Participant, Any] = {}
        self.assigned: dict[Participant, Any] | None = None
        self.handed: dict[Participant, Any] | None = None
        if type(value) is torch.Tensor and not value.is_inference():
            self.versions = [(value, value._version)]
        else:
            self.versions = []
            map_tensors(value, self._remember)

    def _remember(self, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_inference():  # those do not count their versions
            self.versions.append((tensor, tensor._version))
        return tensor

    @property
    def is_skipped(self) -> bool:
        """Whether the module's call is to be replaced by `skip`."""
        return self.skip is not _NOTHING

    def view(self, participant: Participant) -> Any:
        """This participant's rows of the value; the same object each time it asks."""
        views = self.views
        if participant in views:
            return views[participant]
        rows = participant.rows
        value = self.value
        plain = rows is None and type(value) is torch.Tensor
        if plain and not value._is_view() and not value.is_inference():
            views[participant] = value
            return value
        if not self.assigned:
            self._make_editable()
        if rows is None or rows.is_whole:
            if self.assigned:
                self.settle()
            view = self.value
        else:
            view = rows.narrow(self.value)
            if view is not self.value and not isinstance(view, (torch.Tensor, tuple)):
                # A copy of a container: what is put into it must find its way back.
                if self.handed is None:
                    self.handed = {}
                self.handed[participant] = copy.copy(view)
        views[participant] = view
        return view

    def _make_editable(self) -> None:
        """Let the block edit the value in place, whatever mode the model made it in."""
        value = self.value
        if type(value) is torch.Tensor:
            if value.is_inference() or (value._is_view() and not value.requires_grad):
                self.value = _editable(value)
        else:
            self.value = map_tensors(value, _editable)

    def assign(self, participant: Participant, value: Any, shown: Any) -> None:
        """Let the model go on with `value` in this participant's rows."""
        if participant.rows is None or participant.rows.is_whole:
            # Later readers of this site see it at once; earlier rows are overruled.
            self.value = value
            self.assigned = None
            self.views = {participant: value}
            self.shown = {participant: shown}
            self.versions = []
        else:
            self.views[participant] = value
            self.shown[participant] = shown
            if self.assigned is None:
                self.assigned = {}
            self.assigned[participant] = value

    def settle(self) -> None:
        """Put the participants' values together; the run is about to go on."""
        parts = dict(self.assigned or ())
        for participant, before in (self.handed or {}).items():
            view = self.views.get(participant)
            if participant not in parts and _differs(before, view):
                parts[participant] = view
        if self._records_rows:
            # What an invoke holds must lie on the way to the loss, or it would have no gradient.
            parts = {**self.views, **parts}
        self.assigned = self.handed = None
        pairs = [(p.rows, value) for p, value in parts.items() if p.rows is not None]
        if pairs:
            self.value = splice(self.value, pairs)

    @property
    def must_settle(self) -> bool:
        """Whether anybody's rows have to be put back."""
        if self.assigned or self.handed:
            return True
        if not self.views or all(p.rows is None or p.rows.is_whole for p in self.views):
            return False
        return self._records_rows

    @property
    def _records_rows(self) -> bool:
        """Whether a backward pass may come by here (`requires_grad_()` on rows is enough)."""
        return _records(self.value) or any(map(_records, self.views.values()))


def _editable(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in a form that torch lets a block change in place.

    A view made without gradients must not be edited where gradients are on (a parameter in the
    edit is enough for an error), an inference tensor only in inference mode.
    """
    if tensor.is_inference():
        return tensor if torch.is_inference_mode_enabled() else tensor.clone()
    if not tensor.requires_grad and tensor._is_view():
        return tensor.detach()  # the same storage, without the view's history
    return tensor


def _differs(before: Any, after: Any) -> bool:
    """Whether other items were put into a container."""
    if isinstance(before, dict):
        return before.keys() != after.keys() or any(before[k] is not after[k] for k in before)
    if isinstance(before, list):
        return len(before) != len(after) or any(x is not y for x, y in zip(before, after, strict=False))
    return any(getattr(before, name) is not getattr(after, name) for name in vars(before))


def _records(value: Any) -> bool:
    """Whether a tensor of the value is part of a graph."""
    if type(value) is torch.Tensor:
        return value.requires_grad
    found: list[torch.Tensor] = []

    def look(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.requires_grad:
            found.append(tensor)
        return tensor

    map_tensors(value, look)
    return bool(found)
