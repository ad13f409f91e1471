"""The names a captured body sees, and how the names it binds get back to the user's frame.

A body that waits does not run in its own frame. It runs with a `Names` namespace, which answers,
in this order: what the body itself has bound; what the nearest earlier invoke of the same trace
binds (waiting until *this run* has bound it); the frame as it was when the block was captured;
the frame's globals; builtins. So no barrier is needed, a loop variable means what it meant in
that turn of the loop, and a value that an earlier run of the cell left behind is never mistaken
for this run's.
"""

from __future__ import annotations

import ast
import ctypes
import linecache
import sys
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import Any

from nbsight.core.by_identity import ByIdentity
from nbsight.core.capture import parse

__all__ = ["Names", "frame_values", "is_left_behind", "write_back"]

_ABSENT = object()


class Names(dict[str, Any]):
    """The namespace of one captured body.

    Args:
        values: The names that the body reads, as they were when it was captured.
        outer: The globals of the user's frame.
        is_alone: Whether no other body is asked for names.
    """

    ABSENT = _ABSENT

    def __init__(
        self,
        values: dict[str, Any],
        outer: dict[str, Any],
        is_alone: bool = False,
    ) -> None:
        self.values_at_capture = values
        self.outer = outer
        self.is_alone = is_alone
        #: The worker of the body: asks the other invokes for a name, or answers `Names.ABSENT`.
        self.asker: Any = None
        #: Names from around the body that it has deleted.
        self.deleted: set[str] = set()
        self._binders: Mapping[str, Any] = {}

    def fill(self, binders: Mapping[str, Any]) -> bool:
        """Take in the captured values that nobody can bind anew, so that nobody is asked for them.

        Args:
            binders: The names that bodies of this run bind.

        Returns:
            Whether those were all.
        """
        self._binders = binders
        values = self.values_at_capture
        if binders.keys().isdisjoint(values):
            self.update(values)
            return True
        self.update({name: value for name, value in values.items() if name not in binders})
        return False

    def __delitem__(self, name: str) -> None:
        """`del name`: also a name that the body has from around it."""
        known = name in self.values_at_capture or name in self.outer
        if name in self.deleted or not known:
            super().__delitem__(name)  # as ever: what the body has bound, or no such name
            return
        self.pop(name, None)
        self.deleted.add(name)

    @property
    def gone(self) -> set[str]:
        """Names from around the body that it has deleted and not bound again."""
        return {name for name in self.deleted if name not in self.keys()}

    def __missing__(self, name: str) -> Any:
        if name in self.deleted:
            raise KeyError(name)
        if name in self._binders and self.asker is not None:
            value = self.asker.ask(name, name in self.values_at_capture)
            if value is not _ABSENT:
                return value
        if name in self.values_at_capture:
            return self.values_at_capture[name]
        return self.outer[name]


#: A body that calls one of these may read names that its text does not show.
_READERS = frozenset({"eval", "exec", "locals", "vars", "dir"})


def frame_values(frame: FrameType, names: Iterable[str]) -> dict[str, Any]:
    """What `names` mean in a frame's locals now (names that only its globals know are left out)."""
    values = frame.f_locals
    if frame.f_code.co_flags & 0x2 and not _READERS.isdisjoint(names):
        return dict(values)
    return {name: values[name] for name in names if name in values}


# Names that captured bodies of a file or cell have bound.
_left: set[tuple[str, str]] = set()


def is_left_behind(frame: FrameType, name: str, filename: str, line: int) -> bool:
    """Whether the frame's value of a name is what an earlier run of the same code left there.

    That is so when captured bodies of this file have bound the name before and no other statement
    above the trace binds it. (Two invokes may exchange values; then the one that is written first
    reads a name that only the second binds, and must wait for it in the second run as well.)
    """
    if (filename, name) not in _left:
        return False
    code = frame.f_code
    known = _bound_by_bodies.get(code)
    if known is None:
        known = _bound_by_bodies.put(code, {})
    key = (name, line)
    if key not in known:
        known[key] = _is_bound_by_bodies(frame, name, filename, line)
    return known[key]


# For each code object, by name and line of the block: looking takes the whole file's tree.
_bound_by_bodies: ByIdentity[dict[tuple[str, int], bool]] = ByIdentity()


def _is_bound_by_bodies(frame: FrameType, name: str, filename: str, line: int) -> bool:
    """Whether no statement above a block binds a name, other than those in captured bodies."""
    code = frame.f_code
    tree = _parsed(filename, frame)
    if tree is None:
        return False
    first = code.co_firstlineno if code.co_flags & 0x2 else 1
    if code.co_flags & 0x2 and name in code.co_varnames[: code.co_argcount]:
        return False
    captured = _captured(tree)
    return not any(first <= bound < line for bound in _bindings(tree, name) if bound not in captured)


def _parsed(filename: str, frame: FrameType) -> ast.Module | None:
    return parse("".join(linecache.getlines(filename, frame.f_globals)))


def _bindings(tree: ast.Module, name: str) -> list[int]:
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)
    ]


def _captured(tree: ast.Module) -> set[int]:
    """The lines that belong to bodies of `with x.invoke(...)` statements."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.With) and any(
            isinstance(item.context_expr, ast.Call)
            and isinstance(item.context_expr.func, ast.Attribute)
            and item.context_expr.func.attr == "invoke"
            for item in node.items
        ):
            lines.update(range(node.body[0].lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def write_back(frame: FrameType, bound: dict[str, Any], filename: str = "", gone: Iterable[str] = ()) -> None:
    """Bind names in the user's frame, as if the body (which stands in `filename`) had run there.

    Args:
        gone: Names that the body has deleted. (From 3.13 on, a function's stay: they cannot be unbound
            from outside.)
    """
    if gone:
        _unbind(frame, gone)
    if not bound:
        return
    _left.update([(filename, name) for name in bound])
    code = frame.f_code
    if code.co_flags & 0x2:
        own = {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
        # `global x` above the block: the name is not the function's.
        frame.f_globals.update({name: bound[name] for name in bound if name not in own})
        bound = {name: value for name, value in bound.items() if name in own}
    target = frame.f_locals
    target.update(bound)
    if sys.version_info < (3, 13) and frame.f_code.co_flags & 0x2:
        # Up to 3.12 a function's `f_locals` is a copy; this puts it back into the real variables.
        ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))


def _unbind(frame: FrameType, names: Iterable[str]) -> None:
    is_function = bool(frame.f_code.co_flags & 0x2)
    if is_function and sys.version_info >= (3, 13):
        return
    target = frame.f_locals
    for name in names:
        target.pop(name, None)
    if is_function:
        ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(1))
