"""What there is in this process for a notebook to show: models, and runs that are held open.

Everything is referred to weakly, so that being listed keeps nothing. A trace writes nothing here:
whoever wants to hear of its end puts a listener into `ended`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["ended", "models", "runs"]

#: All models that were wrapped or loaded, and their light copies.
models: weakref.WeakSet[Any] = weakref.WeakSet()

#: The tracers of the runs that were held open; their `state` says whether they still are.
runs: weakref.WeakSet[Any] = weakref.WeakSet()

#: Called with the tracer of each trace whose block was left without an error.
ended: list[Callable[[Any], None]] = []
