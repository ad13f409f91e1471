"""The names a captured body sees, and how the names it binds get back to the user's frame.

A body that waits does not run in its own frame. It runs with a `Names` namespace, which answers,
in this order: what the body itself has bound; what the nearest earlier invoke of the same trace
binds (waiting until *this run* has bound it); the frame as it was when the block was captured;
the frame's globals; builtins. So no barrier is needed, a loop variable means what it meant in
that turn of the loop, and a value that an earlier run of the cell left behind is never mistaken
for this run's.
"""

from __future__ import annotations

import ctypes
import sys
import weakref
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

__all__ = ["Names", "frame_values", "left_behind", "write_back"]

_ABSENT = object()


class Names(dict[str, Any]):
    """The namespace of one captured body.

    Args:
        values: The names that the body reads, as they were when it was captured.
        outer: The globals of the user's frame.
        sibling: Asks the other invokes for a name; returns `Names.ABSENT` when none binds it.
    """

    ABSENT = _ABSENT

    def __init__(
        self,
        values: dict[str, Any],
        outer: dict[str, Any],
        sibling: Callable[[str, bool], Any] | None = None,
    ) -> None:
        super().__init__()
        self.values_at_capture = values
        self.outer = outer
        self.sibling = sibling

    def __missing__(self, name: str) -> Any:
        known = name in self.values_at_capture
        if self.sibling is not None:
            stale = known and left_behind(name, self.values_at_capture[name])
            value = self.sibling(name, known and not stale)
            if value is not _ABSENT:
                return value
        if known:
            return self.values_at_capture[name]
        return self.outer[name]


def frame_values(frame: FrameType, names: Iterable[str]) -> dict[str, Any]:
    """What `names` mean in a frame's locals now (names that only its globals know are left out)."""
    values = frame.f_locals
    return {name: values[name] for name in names if name in values}


# What captured bodies wrote into frames, by name: a re-run must not take it for an outer value.
_left: dict[str, weakref.ref[Any]] = {}


def left_behind(name: str, value: Any) -> bool:
    """Whether `value` is what an earlier captured body left in this name."""
    reference = _left.get(name)
    return reference is not None and reference() is value


def write_back(frame: FrameType, bound: dict[str, Any]) -> None:
    """Bind names in the user's frame, as if the body had run there."""
    if not bound:
        return
    for name, value in bound.items():
        try:
            _left[name] = weakref.ref(value)
        except TypeError:  # numbers, strings, tuples … cannot be told apart from outer values
            _left.pop(name, None)
    target = frame.f_locals
    target.update(bound)
    if sys.version_info < (3, 13) and frame.f_code.co_flags & 0x2:
        # Up to 3.12 a function's `f_locals` is a copy; this puts it back into the real variables.
        ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))
