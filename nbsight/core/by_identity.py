"""Caches by code object, by identity: equal code objects can stand in different cells."""

from __future__ import annotations

import weakref
from functools import partial
from types import CodeType
from typing import Any, Generic, TypeVar

__all__ = ["ByIdentity"]

T = TypeVar("T")


class ByIdentity(Generic[T]):
    """What is known of code objects; an entry leaves with its code."""

    def __init__(self) -> None:
        self._entries: dict[int, tuple[weakref.ref[CodeType], T]] = {}

    def get(self, code: CodeType) -> T | None:
        """The value kept for this very code object."""
        entry = self._entries.get(id(code))
        return entry[1] if entry is not None and entry[0]() is code else None

    def put(self, code: CodeType, value: T) -> T:
        """Keep a value for a code object, and give it back."""
        key = id(code)
        self._entries[key] = (weakref.ref(code, partial(_drop, self._entries, key)), value)
        return value

    def __len__(self) -> int:
        return len(self._entries)


def _drop(entries: dict[int, Any], key: int, _: Any) -> None:
    entries.pop(key, None)
