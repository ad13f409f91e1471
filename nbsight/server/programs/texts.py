"""What values look like as text, within bounds, and without the paths of this machine.

`repr` of a list of a list of itself never ends, and that of a tokenizer says in which folder it lies. So
containers are written out here, as Python does it, with an eye on the length; and of what is neither data
nor ours only the kind is said.
"""

from __future__ import annotations

import collections
import os
import re
import sys
from typing import Any

import numpy as np
import torch

from nbsight.core.envoy import Envoy
from nbsight.core.loops import Loops
from nbsight.core.steps import Step, StepList
from nbsight.core.tracer import Tracer
from nbsight.models.views import Across, Attention, Layer, Layers, Mlp
from nbsight.server.programs.limits import check_items, check_text
from nbsight.server.programs.values import Allowed, Bound, Function, Module

__all__ = ["repr_of", "text_of", "without_paths"]

_DEEPEST = 100

#: What says in its own words what it is, and nothing of this machine.
_PLAIN: tuple[type, ...] = (
    *(bool, int, float, complex, str, bytes, type(None), type(...), range, torch.Tensor, torch.Size),
    *(torch.dtype, torch.device, np.generic, np.ndarray, Envoy, Layers, Layer, Attention, Mlp, Across),
    *(Step, StepList, Tracer, Loops, Allowed, Bound, Function, Module),
)


def text_of(value: Any = "") -> str:
    """`str(value)`."""
    return value if type(value) is str else str(value) if isinstance(value, str) else repr_of(value)


def repr_of(value: Any) -> str:
    """`repr(value)`.

    Raises:
        OverBudget: it is too long.
    """
    writer = _Writer()
    writer.write(value)
    return "".join(writer.parts)


class _Writer:
    """Collects the text of one value."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.length = 0
        self.open: set[int] = set()

    def put(self, text: str) -> None:
        self.length += len(text)
        check_text(self.length) if self.open else check_items(self.length)
        self.parts.append(text)

    def write(self, value: Any) -> None:
        kind = type(value)
        if isinstance(value, _PLAIN):
            self.put(repr(value))
        elif kind in (list, tuple, set, frozenset, dict, collections.deque):
            self.inside(value, kind)
        elif isinstance(value, slice):
            self.put(f"slice({value.start!r}, {value.stop!r}, {value.step!r})")
        elif isinstance(value, dict):
            self.put(f"{kind.__name__}(")
            self.write(dict(value))
            self.put(")")
        elif isinstance(value, (tuple, type({}.keys()), type({}.values()), type({}.items()))):
            self.put(f"{kind.__name__}(")
            self.write(list(value))
            self.put(")")
        else:
            self.put(f"<{kind.__name__}>")

    def inside(self, value: Any, kind: type) -> None:
        opens, closes = _BRACKETS[kind]
        if id(value) in self.open or len(self.open) > _DEEPEST:
            self.put(f"{opens}...{closes}")
            return
        if not value and kind in _EMPTY:
            self.put(_EMPTY[kind])
            return
        self.open.add(id(value))
        self.put(opens)
        for place, item in enumerate(value.items() if kind is dict else value):
            if place:
                self.put(", ")
            if kind is dict:
                self.write(item[0])
                self.put(": ")
                self.write(item[1])
            else:
                self.write(item)
        self.put(",)" if kind is tuple and len(value) == 1 else closes)
        self.open.discard(id(value))


_BRACKETS: dict[type, tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
    dict: ("{", "}"),
    collections.deque: ("deque([", "])"),
}

_EMPTY: dict[type, str] = {set: "set()", frozenset: "frozenset()"}


def without_paths(text: str, model: Any) -> str:
    """A message without the folders of this machine.

    Args:
        text: The message.
        model: The root envoy: the folder that it was loaded from is taken out too.
    """
    config = getattr(model._module, "config", None)
    own = [getattr(model.tokenizer, "name_or_path", None), getattr(config, "_name_or_path", None)]
    known = [os.path.expanduser("~"), os.getcwd(), sys.prefix, sys.base_prefix, *sys.path]
    known += [name for name in own if isinstance(name, str) and os.path.isabs(name)]
    folders = {os.path.normpath(name) for name in known if name}
    for folder in sorted(folders, key=len, reverse=True):
        if len(folder) > 3 and folder in text:
            text = re.sub(re.escape(folder) + r"[\w./+-]*", "<a file of the server>", text)
    return text
