"""What the user calls things: which name of the notebook holds a value, and what else does.

All of it is found in one walk over the user's names, after every cell, so the walk has to be quick: it
opens containers and nothing else, passes over long lists of plain numbers after a look at their
beginning, and gives up on what is left when it has looked at many things.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from itertools import islice
from typing import Any, NamedTuple

__all__ = ["Found", "Survey", "survey", "users_names", "values_in"]

#: IPython's own: `_`, `_12`, `_i3`, `In`, `Out` and the like.
OWN = re.compile(r"_+|_\d+|_i+|_i\d+|_dh|_ih|_oh|In|Out|exit|quit|get_ipython|open")

DEPTH = 4
MOST_OF_ONE, MOST = 5_000, 20_000  # things that are looked at: for one name, and in all
SAMPLE = 32  # items whose kind speaks for a container's

PLAIN = (int, float, complex, str, bytes, bool, type(None), range, slice)
IGNORED, WANTED, OPENED = range(3)


class Found(NamedTuple):
    """A tensor, an array, a model or a held run.

    Args:
        name: The user's name.
        way: How it goes on from the name: `["x"]`, `[3]`, `.values`.
        value: The thing itself.
    """

    name: str
    way: tuple[str, ...]
    value: Any

    @property
    def written(self) -> str:
        """As the user would write it."""
        return self.name + "".join(self.way)

    @property
    def can_be_written(self) -> bool:
        """Whether that is a program: items of a set have no place."""
        return "{…}" not in self.way


#: By name, what it holds; a name that holds nothing of interest is not in it.
Survey = dict[str, list[Found]]


def users_names(namespace: dict[str, Any]) -> dict[str, Any]:
    """The names that the user has given, in the order in which they were given."""
    return {
        name: value
        for name, value in list(namespace.items())
        if not OWN.fullmatch(name) and not name.startswith("__")
    }


def survey(namespace: dict[str, Any]) -> Survey:
    """What the user's names hold; the newest names are looked at first, should there be too much."""
    left, found = MOST, {}
    kinds: dict[type, int] = {}
    for name, value in reversed(users_names(namespace).items()):
        if left <= 0:
            break
        here, looked = _walk(name, value, kinds, min(left, MOST_OF_ONE))
        left -= looked
        if here:
            found[name] = here
    return dict(reversed(found.items()))


def values_in(value: Any) -> list[Any]:
    """The tensors, arrays, models and runs in a value."""
    return [found.value for found in _walk("", value, {}, MOST_OF_ONE)[0]]


def _walk(name: str, value: Any, kinds: dict[type, int], most: int) -> tuple[list[Found], int]:
    """What is in one value, and how many things were looked at for it."""
    found: list[Found] = []
    seen: set[int] = set()
    # The way to a thing is made into text only for what is wanted.
    waiting: list[tuple[Any, Any, int]] = [(None, value, 0)]
    looked = 0
    while waiting and looked < most:
        looked += 1
        way, item, depth = waiting.pop()
        kind = kinds.get(type(item))
        if kind is None:
            kind = kinds[type(item)] = _kind(type(item))
        if kind == IGNORED or id(item) in seen:
            continue
        seen.add(id(item))
        if kind == WANTED:
            found.append(Found(name, _text(way), item))
        elif depth < DEPTH:
            parts = [((way, form, key), part, depth + 1) for form, key, part in _parts(item, most - looked)]
            waiting += reversed(parts)
    return found, looked


def _kind(type_: type) -> int:
    """Whether things of a type are wanted, opened or passed over."""
    for module, name in (
        ("torch", "Tensor"),
        ("numpy", "ndarray"),
        ("nbsight.core.model", "Model"),
        ("nbsight.core.paused", "PausedRun"),
    ):
        wanted = getattr(sys.modules.get(module), name, None)
        if wanted is not None and issubclass(type_, wanted):
            return WANTED
    is_cache = type_.__module__ == "nbsight.core.cache"
    is_container = issubclass(type_, (dict, list, tuple, set, frozenset))
    return OPENED if is_container or is_cache or is_dataclass(type_) else IGNORED


def _parts(value: Any, most: int) -> Iterator[tuple[str, Any, Any]]:
    """The items of a container: the form of the way to each, its key, the item."""
    if isinstance(value, dict):
        if not _is_plain(value.values()):
            yield from (("[{!r}]", key, item) for key, item in list(islice(value.items(), most)))
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from ((".{}", name, getattr(value, name)) for name in value._fields)
    elif isinstance(value, (list, tuple)):
        if not _is_plain(value):
            yield from (("[{}]", index, item) for index, item in enumerate(islice(value, most)))
    elif isinstance(value, (set, frozenset)):
        if not _is_plain(value):
            yield from (("{{…}}", None, item) for item in list(islice(value, most)))
    elif is_dataclass(value):
        held = getattr(value, "__dict__", {})
        yield from ((".{}", one.name, held.get(one.name)) for one in fields(value))
    else:
        yield from ((".{}", name, item) for name, item in list(value.__dict__.items()))


def _is_plain(items: Iterable[Any]) -> bool:
    """Whether the first items of a container are numbers, text and the like, all of them."""
    try:
        return all(isinstance(item, PLAIN) for item in islice(items, SAMPLE))
    except RuntimeError:  # it was changed by another thread meanwhile
        return True


def _text(way: Any) -> tuple[str, ...]:
    parts: list[str] = []
    while way is not None:
        way, form, key = way
        parts.append(form.format(key))
    return tuple(reversed(parts))
