"""What the user calls things: which name of the notebook holds a value, and what else does."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

__all__ = ["Place", "places_of", "users_names", "values_in"]

#: IPython's own: `_`, `_12`, `_i3`, `In`, `Out` and the like.
OWN = re.compile(r"_+|_\d+|_i+|_i\d+|_dh|_ih|_oh|In|Out|exit|quit|get_ipython|open")

#: How deep containers are searched, and how many items altogether.
DEPTH, MOST = 4, 20_000

#: How a name continues to an item: `["x"]`, `[3]`, `.values`; None where it cannot be written.
Place = tuple[str, ...]


def users_names(namespace: dict[str, Any]) -> dict[str, Any]:
    """The names that the user has given, in the order in which they were given."""
    return {
        name: value
        for name, value in list(namespace.items())
        if not OWN.fullmatch(name) and not name.startswith("__")
    }


def values_in(value: Any, wanted: Callable[[Any], bool]) -> Iterator[tuple[Place, Any]]:
    """The wanted values in a container, each once, with the way to it.

    Lists, tuples, dictionaries, sets, dataclasses and caches of traces are opened; nothing is
    called, and no attribute of any other object is read.
    """
    seen: set[int] = set()
    waiting: list[tuple[Place, Any, int]] = [((), value, 0)]
    while waiting and len(seen) < MOST:
        place, item, depth = waiting.pop()
        if id(item) in seen:
            continue
        if wanted(item):
            seen.add(id(item))
            yield place, item
        elif depth < DEPTH:
            parts = list(_parts(item))
            if parts:
                seen.add(id(item))
            waiting += [((*place, way), part, depth + 1) for way, part in reversed(parts)]


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    kind = type(value)
    if isinstance(value, dict):
        for key, item in list(value.items())[:MOST]:
            yield f"[{key!r}]", item
    elif kind in (list, tuple):
        for index, item in enumerate(value[:MOST]):
            yield f"[{index}]", item
    elif kind in (set, frozenset):
        for item in list(value)[:MOST]:
            yield "{…}", item
    elif isinstance(value, tuple) and hasattr(kind, "_fields"):
        for name in kind._fields:
            yield f".{name}", getattr(value, name)
    elif is_dataclass(value) and not isinstance(value, type):
        for one in fields(value):
            yield f".{one.name}", value.__dict__.get(one.name)
    elif kind.__module__ == "nbsight.core.cache":
        for name, item in list(getattr(value, "__dict__", {}).items()):
            yield f".{name}", item


def places_of(namespace: dict[str, Any], wanted: Callable[[Any], bool]) -> Iterator[tuple[str, Place, Any]]:
    """The wanted values that the user can name: the name, the way from it, the value."""
    for name, value in users_names(namespace).items():
        for place, item in values_in(value, wanted):
            yield name, place, item
