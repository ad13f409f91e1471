"""MAGIC: pooled greenlets on which a failing torch operation is safe.

What: `Carrier` is a greenlet that runs one task after another, and never on a short C stack.

Why: creating a greenlet costs about 10 µs and a trace should cost less, so carriers are kept per
thread. And whenever torch builds a C++ error it calls glibc's `backtrace()` for up to 65 frames.
A greenlet's stack is a slice: what lies above its base belongs to whoever ran there last. An
unwinder that walks past the base reads a foreign frame as if it were its own, and now and then
that ends the process.

How: each carrier climbs `DEPTH` Python-to-C calls before it takes its first task, which puts more
than 65 C frames between the base and any model code. The unwinder uses up its budget on frames
that are the carrier's own and never reaches the base. Nothing in the process is patched.

What breaks it: a torch that asks for more frames. `tests/core/test_greenlets.py` measures the
distance with `backtrace()` itself and raises 300 errors in every kind of greenlet we run.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent, greenlet

__all__ = ["Carrier", "borrow", "give_back", "main_greenlet"]

#: Each step of `_Climb` costs about six C frames; torch's errors look at 65.
DEPTH = 14


class Carrier(greenlet):
    """A greenlet that is lent for a task and goes back to its thread's pool afterwards.

    `model_run` is set while it carries a model (gates ask for it on every call), `worker` while it
    carries a captured block. A task never raises and returns the greenlet to switch to when it is
    done; that side then gives the carrier back.
    """

    model_run: Any = None
    worker: Any = None
    task: Callable[[], greenlet] | None = None


class _Climb:
    """Calls itself `steps` times through the C slot of `__call__`, then serves."""

    __slots__ = ("steps",)

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self) -> None:
        if self.steps:
            _Climb(self.steps - 1)()
        else:
            _serve()


def _serve() -> None:
    """Run tasks for ever; only the end of the thread stops it.

    The frames of a suspended carrier must not refer to it: that would be a cycle which nobody can
    see, and the carriers of finished threads would stay.
    """
    while True:
        home = _take_task()()
        home.switch()


def _take_task() -> Callable[[], greenlet]:
    carrier = getcurrent()
    task, carrier.task = carrier.task, None
    return task


class _Pool(threading.local):
    def __init__(self) -> None:
        self.idle: list[Carrier] = []


_pool = _Pool()


def main_greenlet() -> greenlet:
    """The root greenlet of this thread."""
    current = getcurrent()
    while current.parent is not None:
        current = current.parent
    return current


def borrow(task: Callable[[], greenlet]) -> Carrier:
    """Lend a carrier; it starts `task` when it is first switched to."""
    idle = _pool.idle
    carrier = idle.pop() if idle else Carrier(_Climb(DEPTH), main_greenlet())
    carrier.task = task
    # Model code and blocks see the context variables of the code that started them.
    carrier.gr_context = contextvars.copy_context()
    return carrier


def give_back(carrier: Carrier) -> None:
    """Return a carrier whose task is done (call it from the greenlet the task returned to)."""
    carrier.model_run = carrier.worker = None
    # The context would keep alive whatever the user's variables hold.
    carrier.gr_context = None
    _pool.idle.append(carrier)
