"""Names for the page: an object and its key, without keeping the object."""

from __future__ import annotations

import itertools
import threading
import weakref
from typing import Any

__all__ = ["Keys"]


class Keys:
    """Keys such as `model-3`, the same for an object as long as it lives."""

    def __init__(self) -> None:
        self._objects: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
        self._keys: dict[int, str] = {}
        self._count = itertools.count(1)
        self._lock = threading.Lock()

    def of(self, kind: str, value: Any) -> str:
        """The key of an object."""
        with self._lock:
            key = self._keys.get(id(value))
            if key is not None and self._objects.get(key) is value:
                return key
            key = f"{kind}-{next(self._count)}"
            self._objects[key] = value
            self._keys[id(value)] = key
            if len(self._keys) > 2 * len(self._objects) + 64:
                alive = dict(self._objects)
                self._keys = {id(value): key for key, value in alive.items()}
            return key

    def find(self, key: Any) -> Any:
        """The object with a key; None if it is gone."""
        return self._objects.get(key) if isinstance(key, str) else None
