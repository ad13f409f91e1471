"""How Python's, torch's and numpy's own plain values are encoded, by their exact class.

A subclass is not looked up here: it may mean more than its base, and would come back as less.
"""

from __future__ import annotations

import base64
import collections
import functools
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nbsight.core.steps import Step, StepList
from nbsight.wire import names

if TYPE_CHECKING:
    from nbsight.wire.encode import Encoder

__all__ = ["RULES"]


def _bytes(self: Encoder, value: bytes, place: str) -> Any:
    return {"$bytes": base64.b64encode(value).decode()}


def _bytearray(self: Encoder, value: bytearray, place: str) -> Any:
    return {"$bytearray": base64.b64encode(value).decode(), "id": self.new(value)}


def _set(self: Encoder, value: Any, place: str) -> Any:
    number = self.new(value)
    tag = "$set" if type(value) is set else "$frozenset"
    return {tag: [self.encode(item, f"an element of {place}") for item in value], "id": number}


def _slice(self: Encoder, value: slice, place: str) -> Any:
    return {"$slice": self.items((value.start, value.stop, value.step), place)}


def _defaultdict(self: Encoder, value: Any, place: str) -> Any:
    factory = value.default_factory
    if factory not in (None, *names.FACTORIES):
        return self.refuse(value, place, f"its default {factory!r} does not travel; use a plain dict")
    return self.mapping(value, place, "$defaultdict", factory=factory and factory.__name__)


def _partial(self: Encoder, value: functools.partial[Any], place: str) -> Any:
    parts = (value.func, value.args, value.keywords)
    return {"$partial": [self.encode(part, f"{place} (partial)") for part in parts]}


def _module_object(self: Encoder, value: types.ModuleType, place: str) -> Any:
    name = names.module_name(value)
    if name is not None:
        return {"$module": name}
    return self.refuse(
        value,
        place,
        f"the module `{value.__name__}` is not one of those that a block may bring "
        f"({', '.join(sorted(names.MODULES))}); import it inside the block, or bring the functions you need",
    )


def _record(step: Step) -> list[Any]:
    """What is known of a step of a generation, which stays where it is."""
    record = step.record()
    return [record.number, record.is_prompt, record.position, record.ids, record.texts]


Rule = Callable[["Encoder", Any, str], Any]

RULES: dict[type, Rule] = {
    bytes: _bytes,
    bytearray: _bytearray,
    complex: lambda self, value, place: {"$complex": self.items((value.real, value.imag), place)},
    list: lambda self, value, place: self.sequence(value, place, "$list"),
    tuple: lambda self, value, place: {"$tuple": self.items(value, place)},
    set: _set,
    frozenset: _set,
    dict: lambda self, value, place: self.mapping(value, place, "$dict"),
    collections.OrderedDict: lambda self, value, place: self.mapping(value, place, "$ordereddict"),
    collections.Counter: lambda self, value, place: self.mapping(value, place, "$counter"),
    collections.defaultdict: _defaultdict,
    collections.deque: lambda self, value, place: self.sequence(value, place, "$deque", maxlen=value.maxlen),
    slice: _slice,
    range: lambda self, value, place: {"$range": self.items((value.start, value.stop, value.step), place)},
    Step: lambda self, value, place: {"$step": _record(value)},
    StepList: lambda self, value, place: {"$steps": [_record(step) for step in value]},
    type(Ellipsis): lambda self, value, place: {"$ellipsis": True},
    torch.dtype: lambda self, value, place: {"$dtype": str(value).removeprefix("torch.")},
    torch.device: lambda self, value, place: {"$device": str(value)},
    torch.Size: lambda self, value, place: {"$size": list(value)},
    np.ndarray: lambda self, value, place: {"$tensor": self.numbers(value, place), "id": self.new(value)},
    functools.partial: _partial,
    types.ModuleType: _module_object,
}
