"""Sites: the places where a run can stop, and what is done to the values there."""

from __future__ import annotations

import copy
import linecache
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from types import CodeType, MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from nbsight.core.batching import map_tensors, tensors_in
from nbsight.core.recurrent import narrow_at, splice_at

if TYPE_CHECKING:
    from nbsight.core.participant import Participant

__all__ = [
    "UNSEEN",
    "Edit",
    "Line",
    "Site",
    "describe",
    "describe_as",
    "locate",
    "show_line",
    "show_text",
    "versions_of",
]

#: A place in the user's code: a code object and an offset in it. Finding the line number takes
#: a walk over the code's line table, so it is left to whoever needs it (see `locate`).
Line = tuple[CodeType, int]

#: In the place of a value that nobody has looked at.
UNSEEN: Any = object()


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
        return describe_as(value.dtype, value.shape, value.device)
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__} of " + ", ".join(describe(item) for item in value[:4])
    if isinstance(value, dict):
        return f"{type(value).__name__} with {', '.join(map(str, list(value)[:6]))}"
    return type(value).__name__


def describe_as(dtype: torch.dtype, shape: torch.Size, device: torch.device) -> str:
    """The same for a tensor that is gone: `float32 (1, 5, 64)`."""
    name = str(dtype).removeprefix("torch.")
    return f"{name} {tuple(shape)}" + ("" if device.type == "cpu" else f" on {device}")


class Site:
    """A value in flight: one module's input or output in one call.

    `value` is what the model goes on with. Participants are shown their rows of it; what they
    assign is kept apart and put together when the run leaves the site.

    A run makes one for every stop, so what few stops need has its default on the class.
    """

    #: What the call is to be replaced by.
    skip: Any = UNSEEN
    #: The line that asked last.
    line: Line | None = None
    #: The value as those see it who see all of it, and the form in which it is shown to them.
    whole: Any = UNSEEN
    whole_shown: Any = UNSEEN
    #: The same for participants with rows of their own.
    views: dict[Participant, Any] = MappingProxyType({})  # type: ignore[assignment]
    shown: dict[Participant, Any] = MappingProxyType({})  # type: ignore[assignment]
    assigned: dict[Participant, Any] | None = None
    handed: dict[Participant, Any] | None = None
    #: Whether another value was put in the place of the one that came, and whether that is not all.
    is_replaced: bool = False
    is_mixed: bool = False
    #: Whether a second forward stood here that had not come as far again as the first.
    is_repeated: bool = False
    #: What a container holds, and counts of its changes, when the model came here.
    versions: Sequence[tuple[Any, Any]] = ()
    #: What was made from this value and shown in its stead; each knows how it goes back into it.
    derived: dict[Any, Any] = MappingProxyType({})  # type: ignore[assignment]
    #: A plain tensor's count of changes when it was noted last that somebody had changed it.
    noted_count: int | None = None
    #: The same for the tensors of other values, by id.
    noted: dict[int, tuple[torch.Tensor, int]] = MappingProxyType({})  # type: ignore[assignment]

    def __init__(self, module: Any, kind: str, visit: int, value: Any) -> None:
        self.module = module
        self.kind = kind
        self.visit = visit
        self.value = value
        #: A plain tensor's count of changes; None for others, and after an assignment.
        self.version: int | None = None
        if type(value) is torch.Tensor:
            if not value.is_inference():  # those do not count their changes
                self.version = value._version
        else:
            self.versions = []
            map_tensors(value, self._remember)

    def _remember(self, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_inference():
            self.versions.append((tensor, tensor._version))  # type: ignore[attr-defined]
        return tensor

    @property
    def is_skipped(self) -> bool:
        """Whether the module's call is to be replaced by `skip`."""
        return self.skip is not UNSEEN

    @property
    def is_touched(self) -> bool:
        """Whether a tensor was changed in place since the model came here."""
        if self.derived and self.must_put_back:
            return True
        if self.version is not None:
            return self.value._version != self.version
        return any(tensor._version != version for tensor, version in self.versions) or self._is_refilled

    @property
    def _is_refilled(self) -> bool:
        """Whether other items were put into the copy of a container that a participant holds."""
        handed = self.handed
        return handed is not None and any(_differs(before, self.views[who]) for who, before in handed.items())

    def newly_changed(self) -> list[torch.Tensor]:
        """The tensors that were changed in place since this was asked last."""
        if self.version is not None:
            count = self.value._version
            if count == (self.version if self.noted_count is None else self.noted_count):
                return []
            self.noted_count = count
            return [self.value]
        changed = []
        for tensor, version in self.versions:
            if isinstance(tensor, torch.Tensor):
                _, version = self.noted.get(id(tensor), (tensor, version))
                if tensor._version != version:
                    changed.append(tensor)
        if changed:
            self.noted = {**self.noted, **{id(tensor): (tensor, tensor._version) for tensor in changed}}
        return changed

    def refillers(self) -> list[Participant]:
        """Those who have put other items into their copy of a container."""
        handed = self.handed or {}
        return [who for who, before in handed.items() if _differs(before, self.views[who])]

    def recount(self) -> None:
        """Take the value as it is now for untouched."""
        if self.is_touched and (self.is_replaced or self.holds_other_items):
            self.is_mixed = True
        self.version, self.versions = None, versions_of(self.value)

    @property
    def holds_other_items(self) -> bool:
        return any(type(thing) is _Contents and thing._version != count for thing, count in self.versions)

    def count_contents(self) -> None:
        """Let a change of what the value's containers hold count as a touch."""
        if type(self.value) is not torch.Tensor:
            self.versions = [*self.versions, *_contents(self.value)]

    def view(self, participant: Participant) -> Any:
        """This participant's rows of the value; the same object each time it asks."""
        rows = participant.rows
        if rows is None or rows.is_whole:
            if self.whole is UNSEEN:
                if self.assigned:
                    self.settle()
                else:
                    self._make_editable()
                self.whole = self.value
            return self.whole
        views = self.views
        if participant in views:
            return views[participant]
        if not self.assigned:
            self._make_editable()
        view = narrow_at(self.module, self.kind, rows, self.value)
        if view is not self.value and not isinstance(view, (torch.Tensor, tuple)):
            # A copy of a container: what is put into it must find its way back.
            if self.handed is None:
                self.handed = {}
            self.handed[participant] = copy.copy(view)
        if not views:
            views = self.views = {}
        views[participant] = view
        return view

    def shown_to(self, participant: Participant, otherwise: Any = None) -> Any:
        """What this participant was shown, if it has looked."""
        rows = participant.rows
        if rows is None or rows.is_whole:
            return otherwise if self.whole_shown is UNSEEN else self.whole_shown
        return self.shown.get(participant, otherwise)

    def show(self, participant: Participant, shown: Any) -> Any:
        """Remember the form in which the value was shown, and return it."""
        rows = participant.rows
        if rows is None or rows.is_whole:
            self.whole_shown = shown
        else:
            if not self.shown:
                self.shown = {}
            self.shown[participant] = shown
        return shown

    def _make_editable(self) -> None:
        """Let the block edit the value in place, whatever mode the model made it in."""
        value = self.value
        if type(value) is torch.Tensor:
            if value.is_inference() or (value._is_view() and not value.requires_grad):
                self.value = _editable(value)
                if self.version is None and not self.versions:
                    self.versions = versions_of(self.value)
        else:
            self.value = map_tensors(value, _editable)
            if not self.versions:
                self.versions = versions_of(self.value)  # what replaces inference tensors does count
            if self.kind == "output":  # of an input, as a rule only one tensor is shown
                self.count_contents()

    def assign(self, participant: Participant, value: Any, shown: Any) -> None:
        """Let the model go on with `value` in this participant's rows."""
        if participant.rows is None or participant.rows.is_whole:
            # Later readers of this site see it at once; earlier rows are overruled.
            self.is_mixed = self.is_mixed or self.is_touched
            self.is_replaced = True
            self.value = self.whole = value
            self.whole_shown = shown
            self.assigned = self.handed = None
            self.views, self.shown = {}, {}
            self.version, self.versions = None, versions_of(value)
        else:
            self.view(participant)
            self.views[participant] = value
            self.show(participant, shown)
            if self.assigned is None:
                self.assigned = {}
            self.assigned[participant] = value
            self.whole = self.whole_shown = UNSEEN

    def derive(self, key: Any, derived: Any) -> Any:
        """Show something made from this value; it is put back when the run leaves, if it was changed.

        Args:
            key: What it is, and whose.
            derived: Has `is_changed` and `put_back(site)`; it holds no site, which would be a cycle.
        """
        self.derived = {**self.derived, key: derived}
        if self.version is not None:  # so that the run asks `is_touched` when it leaves
            self.version, self.versions = None, [(self.value, self.version)]
        return derived

    @property
    def must_put_back(self) -> bool:
        """Whether something that was made from this value was changed."""
        return any(one.is_changed for one in self.derived.values())

    def put_back(self) -> None:
        """Put what was derived from this value and changed back into it."""
        before = self.value
        derived, self.derived = self.derived, {}
        for one in derived.values():
            one.put_back(self)
        self.is_replaced = self.is_replaced or self.value is not before

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
            self.is_mixed = self.is_mixed or self.is_touched
            self.is_replaced = True
            self.value = splice_at(self.module, self.kind, self.value, pairs)
            self.version, self.versions = None, versions_of(self.value)

    @property
    def must_settle(self) -> bool:
        """Whether anybody's rows have to be put back."""
        if self.assigned or self.handed or (self.derived and self.must_put_back):
            return True
        return bool(self.views) and self._records_rows

    @property
    def _records_rows(self) -> bool:
        """Whether a backward pass may come by here (`requires_grad_()` on rows is enough)."""
        return _records(self.value) or any(map(_records, self.views.values()))


def versions_of(value: Any) -> list[tuple[Any, Any]]:
    """The tensors and containers of a value, with what tells that they were changed in place."""
    if type(value) is torch.Tensor:
        return [] if value.is_inference() else [(value, value._version)]
    tensors = [(tensor, tensor._version) for tensor in tensors_in(value) if not tensor.is_inference()]
    return tensors + _contents(value)


class _Contents:
    """A container that counts its changes, as a tensor does: what is put into it is an edit too."""

    def __init__(self, container: Any) -> None:
        self.container = container
        #: Held, so that no new item can have the identity of one that was there.
        self.items = _items(container)

    @property
    def _version(self) -> list[int]:
        return [id(item) for item in _items(self.container)]


def _items(container: Any) -> list[Any]:
    if isinstance(container, dict):
        return [*container.keys(), *container.values()]
    return list(container) if isinstance(container, list) else list(vars(container).values())


def _contents(value: Any) -> list[tuple[Any, Any]]:
    """The containers in a value to which something can be assigned."""
    found: list[tuple[Any, Any]] = []
    if isinstance(value, tuple):
        items: Sequence[Any] = value
    elif isinstance(value, (dict, list)) or (is_dataclass(value) and not isinstance(value, type)):
        holder = _Contents(value)
        found.append((holder, holder._version))
        items = holder.items
    else:
        return found
    for item in items:
        if type(item) is not torch.Tensor and item is not None:
            found += _contents(item)
    return found


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
