"""Reading and writing at the places of the standard names.

As a rule a standard name is a view onto one native place: the tensor that a module takes or returns. It is
read with the one stop that the native place costs, changes in place land, and an assignment goes where the
native one goes.

Where the place holds something else than the name means (heads side by side, a vector that is scaled
before it is added, a tensor that the model overwrites), or where a gradient is to be asked for, what the
user sees is a tensor of its own. It is put back when the run leaves the place (`Site.derive`), if it was
changed, or if the way to the loss must go through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch

from nbsight.core.context import _stack
from nbsight.core.participant import Participant
from nbsight.core.sites import UNSEEN, Site
from nbsight.core.tracer import Tracer
from nbsight.errors import EditError, OutsideTraceError, PathError
from nbsight.models.fitting import fitted_to
from nbsight.models.parts import Part

__all__ = [
    "Derived",
    "Place",
    "count_rows",
    "first_tensor",
    "fitted",
    "read",
    "read_inside",
    "tensor_at",
    "tracer_at",
    "with_first",
    "write",
]


#: Writes what is put together here for the whole batch.
_ALL = Participant()


@dataclass(frozen=True)
class Place:
    """Where one standard name is in one model, for one layer if it belongs to one.

    Args:
        label: The name as the user writes it, `layers[3].attn_out`.
        path: The module.
        kind: "output", "input", or "inputs" for another argument than the first.
        factor: What the block multiplies the tensor with before it adds it.
        part: How the value lies in the tensor; None where it is the tensor.
        argument: The number of the argument that is meant, and its name.
        find: Finds the operation that is the place, from the root envoy; None where it is the module.
        is_shared: Whether the very tensor is the stream, so that it must be changed and not replaced.
        is_overwritten: Whether the model changes the tensor later.
        is_flat: Whether rows and positions are one dimension.
        is_for_all: Whether the tensor has one row for the whole batch.
    """

    label: str
    path: str
    kind: str
    factor: float = 1.0
    part: Part | None = None
    argument: tuple[int, str] | None = None
    find: Callable[[Any], Any] | None = None
    is_shared: bool = False
    is_overwritten: bool = False
    is_flat: bool = False
    is_for_all: bool = False
    #: Whether the user always gets the model's own tensor as it is.
    is_plain: bool = field(init=False)

    def __post_init__(self) -> None:
        special = self.is_shared or self.is_overwritten or self.is_flat or self.is_for_all
        plain = not special and self.part is None and self.argument is None and self.factor == 1.0
        object.__setattr__(self, "is_plain", plain)

    @property
    def native(self) -> str:
        """The native place as the user writes it."""
        if self.kind == "result":
            return f"model.{self.path}.output"
        if self.argument is not None:
            return f"model.{self.path}.inputs[0][{self.argument[0]}]"
        return f"model.{self.path}.{self.kind}"

    def envoy(self, root: Any) -> Any:
        """The module or operation of the place."""
        return root._at(self.path) if self.find is None else self.find(root)

    def needs_own(self, tracer: Any, hidden: torch.Tensor, rows: Any) -> bool:
        """Whether the user gets a tensor of their own instead of the model's."""
        if self.factor != 1.0 or self.is_overwritten or self.is_flat:
            return True
        if self.is_for_all and rows is not None and hidden.shape[0] != rows.size:
            return True
        if self.part is not None and not self.part.is_view:
            return True
        return tracer.handed is not None and (self.is_shared or self.part is not None)


class Derived:
    """A tensor of the user's own that stands for the one at a place.

    Args:
        value: What the user sees.
        put: Puts a value back into a site of the place.
    """

    def __init__(self, value: torch.Tensor, put: Callable[[Site, torch.Tensor], None]) -> None:
        self.value = value
        self._put = put
        self._version = None if value.is_inference() else value._version
        self._was_assigned = False

    def assign(self, value: torch.Tensor) -> None:
        """Let the model go on with another value."""
        self.value, self._was_assigned = value, True

    @property
    def is_changed(self) -> bool:
        """Whether the model must be told."""
        if self._was_assigned or self.value.requires_grad:
            return True
        return self._version is not None and self.value._version != self._version

    def put_back(self, site: Site) -> None:
        """Put the value into its place if that changes anything."""
        if self.is_changed:
            self._put(site, self.value)
            self._was_assigned = False
            if self._version is not None:
                self._version = self.value._version


# --- reading and writing --------------------------------------------------------------------------


def tracer_at(envoy: Any, place: Place, frame: FrameType) -> Any:
    """The running trace that code in `frame` means.

    Raises:
        OutsideTraceError: there is none.
    """
    stack = _stack.get()
    if stack is not None and stack[1] is None:  # as a rule: one trace, and this code is its block's
        tracer = stack[0]
        if tracer.root is envoy._root and (tracer.frame is frame or tracer.answers_anywhere):
            return tracer
    try:
        return envoy._tracer(place.kind, frame)
    except OutsideTraceError:
        raise OutsideTraceError(
            f"`model.{place.label}` was asked for where no model is running. Values exist inside a trace: "
            f"`with model.trace(prompt): x = model.{place.label}.save()`."
        ) from None


def read(envoy: Any, place: Place, tracer: Any, frame: FrameType) -> torch.Tensor:
    """The value at a place, for the participant that asks.

    Args:
        envoy: The module of the place.
        place: The place.
        tracer: The running trace.
        frame: The user's frame.
    """
    if place.kind == "output" and type(tracer) is Tracer:  # others have their own ways of reading
        hidden = first_tensor(tracer.read_output(envoy, frame))
    else:
        hidden = tensor_at(place, tracer.read(envoy, place.kind, frame))
    return hidden if place.is_plain else _shown(envoy, place, tracer, hidden, frame)


def read_inside(envoy: Any, place: Place, tracer: Any, frame: FrameType) -> torch.Tensor:
    """The same for a place that may be an operation, or an argument of one."""
    hidden = tensor_at(place, tracer.read(envoy, place.kind, frame))
    return hidden if place.is_plain else _shown(envoy, place, tracer, hidden, frame)


def _shown(envoy: Any, place: Place, tracer: Any, hidden: torch.Tensor, frame: FrameType) -> torch.Tensor:
    participant = tracer.participant()
    if not place.needs_own(tracer, hidden, participant.rows):
        return hidden if place.part is None else place.part.take(hidden, participant.rows, steps_of(tracer))
    derived = _derived(place, envoy, tracer, participant, frame)
    if tracer.handed is not None:
        tracer.handed.note(derived.value, (envoy, place.kind, tracer.run.site.line))
    return derived.value


def write(envoy: Any, place: Place, tracer: Any, value: Any, frame: FrameType) -> None:
    """Let the model go on with another value at a place, in the rows of the participant that asks.

    Raises:
        EditError: the value does not fit.
    """
    root = envoy._root
    native = tracer.read(envoy, place.kind, frame)
    hidden = tensor_at(place, native)
    participant = tracer.participant()
    if place.needs_own(tracer, hidden, participant.rows):
        derived = _derived(place, envoy, tracer, participant, frame)
        value = fitted(root, place, derived.value, value)
        derived.assign(value)
        if tracer.handed is not None:
            tracer.handed.note(value, (envoy, place.kind, tracer.run.site.line))
    elif place.is_shared:
        hidden.copy_(fitted(root, place, hidden, value))
    else:
        if place.part is not None:
            rows, steps = participant.rows, steps_of(tracer)
            value = fitted(root, place, place.part.take(hidden, rows, steps), value)
            value = place.part.put(hidden, value, rows, steps)
        else:
            value = fitted(root, place, hidden, value)
        if place.kind == "inputs":
            value = _with_argument(place, native, value)
        elif place.kind == "output" or not isinstance(native, torch.Tensor):
            value = with_first(native, value)
        tracer.write(envoy, place.kind, value, frame)


def fitted(root: Any, place: Place, current: torch.Tensor, value: Any) -> torch.Tensor:
    """A value that is assigned to a place, in the dtype and on the device of what is there.

    Raises:
        EditError: its shape is another one.
    """
    value = getattr(value, "_plain", value)
    name = f"model.{place.label}"
    # A run with one row may go on with several, where nothing but the value itself says how many there are.
    may_differ = not (place.is_shared or place.is_flat or place.is_for_all)
    may_differ = may_differ and (place.part is None or place.part.is_all)
    try:
        return fitted_to(current, value, f"`{name}`", rows_may_differ=may_differ)
    except EditError as error:
        text = str(error)
        for native in ("block.output[0]", "block.output", "module.output"):
            text = text.replace(native, name)
        more = root._explain_mismatch(current, value) if isinstance(value, torch.Tensor) else None
        raise EditError(f"{text}\n{more}" if more else text) from None


# --- tensors of the user's own --------------------------------------------------------------------


def _derived(place: Place, envoy: Any, tracer: Any, participant: Any, frame: FrameType) -> Derived:
    site: Site = tracer.run.site
    rows = participant.rows
    key = (place.label, None if rows is None or rows.is_whole else participant)
    known = site.derived.get(key)
    if known is not None:
        return known
    for other in site.derived.values():
        other.put_back(site)  # this one shows how things stand now
    hidden = tensor_at(place, tracer.read(envoy, place.kind, frame))

    def assign(site: Site, value: torch.Tensor) -> None:
        native = site.view(participant)
        if place.kind == "inputs":
            native = _with_argument(place, native, value)
            site.assign(participant, native, UNSEEN)
        elif place.kind == "input":
            args, kwargs = native
            site.assign(participant, _with_first_argument(args, kwargs, value), value)
        else:
            native = with_first(native, value)
            site.assign(participant, native, envoy._show("output", native))

    if place.is_flat:
        return site.derive(key, _unflattened(place, tracer, site, rows))
    if place.is_shared:
        return site.derive(key, Derived(hidden.clone(), lambda _, value: _copy(hidden, value)))
    if place.part is not None:
        part, steps = place.part, steps_of(tracer)
        own = part.take(hidden, rows, steps)
        if place.is_overwritten:
            own = own.clone()

        def put(site: Site, value: torch.Tensor) -> None:
            now = site.view(participant)
            if place.kind == "input":
                now = (*now[0], *now[1].values())[0]
            now = tensor_at(place, now)
            assign(site, part.put(now, value, rows, steps))

        return site.derive(key, Derived(own, put))
    if place.is_for_all:
        own = hidden.expand(rows.size, *hidden.shape[1:]).clone()
        return site.derive(key, Derived(own, lambda site, value: _put_rows(site, rows, value)))
    if place.factor != 1.0:
        factor = place.factor
        return site.derive(key, Derived(hidden * factor, lambda site, value: assign(site, value / factor)))
    # A copy goes into the model, which will overwrite it.
    return site.derive(key, Derived(hidden.clone(), lambda site, value: assign(site, value.clone())))


def _copy(hidden: torch.Tensor, value: torch.Tensor) -> None:
    hidden.copy_(value)


def _put_rows(site: Site, rows: Any, value: torch.Tensor) -> None:
    """Give a tensor that had one row for all a row for each, and put some of them in."""
    if site.assigned:
        site.settle()
    whole = first_tensor(site.value)
    if whole.shape[0] == 1:
        whole = whole.expand(rows.total, *whole.shape[1:])
    whole = whole.clone()
    whole[rows.start : rows.start + rows.size] = value
    site.assign(_ALL, with_first(site.value, whole), UNSEEN)


def _unflattened(place: Place, tracer: Any, site: Site, rows: Any) -> Derived:
    """For a tensor (row and position, d_model): a participant's part as (row, position, d_model)."""
    flat = _held(site, place)
    count = rows.total if rows is not None else count_rows(place, tracer)
    whole = flat.unflatten(0, (count, -1))
    own = (whole if rows is None else rows.narrow(whole)).clone()

    def put(site: Site, value: torch.Tensor) -> None:
        changed = _held(site, place).unflatten(0, (count, -1)).clone()
        index = None if rows is None else rows.index(changed.shape)
        changed[... if index is None else index] = value
        if place.is_shared:
            _held(site, place).copy_(changed.flatten(0, 1))
        elif place.argument is not None:
            site.assign(_ALL, _with_argument(place, site.value, changed.flatten(0, 1)), UNSEEN)
        elif place.kind == "input":
            args, kwargs = site.value
            site.assign(_ALL, _with_first_argument(args, kwargs, changed.flatten(0, 1)), UNSEEN)
        else:
            site.assign(_ALL, with_first(site.value, changed.flatten(0, 1)), UNSEEN)

    return Derived(own, put)


def _held(site: Site, place: Place) -> torch.Tensor:
    """The tensor that is meant at a site, as the model holds it."""
    if place.argument is not None:
        return tensor_at(place, site.value)
    return first_tensor(site.value if site.kind == "output" else (*site.value[0], *site.value[1].values()))


def count_rows(place: Place, tracer: Any) -> int:
    """The rows of the batch that a trace runs on.

    Raises:
        PathError: it is not known.
    """
    for value in (*tracer.run.repeat[0], *tracer.run.repeat[1].values()) if tracer.run.repeat else ():
        if isinstance(value, torch.Tensor) and value.ndim > 1:
            return int(value.shape[0])
    raise PathError(
        f"`model.{place.label}` has rows and positions in one dimension in this model, and how many rows "
        f"there are is only known in a plain forward without a cache. Read `{place.native}`."
    )


def steps_of(tracer: Any) -> int:
    """How many tokens the generation that runs has added to its prompt."""
    return max(0, tracer.run.passes - 1) if tracer.run is not None else 0


def tensor_at(place: Place, native: Any) -> torch.Tensor:
    """The tensor that is meant, in what was read at a place."""
    if place.argument is None:
        return first_tensor(native)
    number, name = place.argument
    args, kwargs = native
    return args[number] if number < len(args) else kwargs[name]


def _with_argument(place: Place, native: Any, value: torch.Tensor) -> Any:
    assert place.argument is not None
    number, name = place.argument
    args, kwargs = native
    if number < len(args):
        return (*args[:number], value, *args[number + 1 :]), kwargs
    return args, {**kwargs, name: value}


# --- tensors inside what modules take and return --------------------------------------------------


def first_tensor(value: Any) -> torch.Tensor:
    """The hidden state in what a module takes or returns."""
    value = getattr(value, "_plain", value)
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, Mapping):
        return value[_name_in(value)]
    if isinstance(value, (tuple, list)):
        return next(item for item in value if isinstance(item, torch.Tensor))
    raise EditError(
        f"a tensor was expected at a standard name's place, and there is a {type(value).__name__}."
    )


def _name_in(value: Mapping[str, Any]) -> str:
    """The entry of a model's output that is meant: the logits, before which there may be a loss."""
    names = [name for name, item in value.items() if isinstance(item, torch.Tensor)]
    return "logits" if "logits" in names else names[0]


def with_first(native: Any, value: torch.Tensor) -> Any:
    """What a module returned, with another hidden state in it."""
    if isinstance(native, torch.Tensor):
        return value
    if isinstance(native, Mapping):
        name = _name_in(native)
        changed = {**native, name: value}
        return changed if type(native) is dict else type(native)(**changed)
    place = next(i for i, item in enumerate(native) if isinstance(item, torch.Tensor))
    items = [*native[:place], value, *native[place + 1 :]]
    return type(native)(*items) if hasattr(native, "_fields") else type(native)(items)


def _with_first_argument(args: tuple[Any, ...], kwargs: dict[str, Any], value: torch.Tensor) -> Any:
    if args:
        return (with_first(args[0], value), *args[1:]), kwargs
    return args, {**kwargs, next(iter(kwargs)): value}
