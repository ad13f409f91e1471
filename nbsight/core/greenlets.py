"""MAGIC: pooled greenlets on which a failing torch operation is safe.

What: `Carrier` is a greenlet that runs one task after another, and never on a short C stack.

Why: creating a greenlet costs about 10 µs and a trace should cost less, so carriers are kept per
thread. And whenever torch builds a C++ error it calls glibc's `backtrace()` for up to 65 frames.
A greenlet's stack is a slice: what lies above its base belongs to whoever ran there last. An
unwinder that walks past the base reads a foreign frame as if it were its own, and now and then
that ends the process.

How: each carrier begins below a nest of `itertools.chain`, one C frame of 32 bytes each, which puts
more than 65 C frames between the base and any model code. The unwinder uses up its budget on
frames that are the carrier's own and never reaches the base. The frames are small because a switch
copies the stack. Nothing in the process is patched.

What breaks it: a torch that asks for more frames. `tests/core/test_greenlets.py` measures the
distance with `backtrace()` itself and raises 300 errors in every kind of greenlet we run.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from greenlet import getcurrent, greenlet

__all__ = ["Carrier", "borrow", "give_back", "main_greenlet"]

#: C frames between the base of a carrier's stack and its tasks; torch's errors look at 65.
DEPTH = 70


class Carrier(greenlet):
    """A greenlet that is lent for a task and goes back to its thread's pool afterwards.

    `model_run` is set while it carries a model (gates ask for it on every call), `worker` while it
    carries a captured block. A task never raises and returns the greenlet to switch to when it is
    done; that side then gives the carrier back.
    """

    model_run: Any = None
    worker: Any = None
    task: Callable[[], greenlet] | None = None


class _Tasks:
    """An iterator that serves when it is asked for its first item; it never gives one.

    The frames of a suspended carrier must not refer to it: that would be a cycle which nobody can
    see, and the carriers of finished threads would stay.
    """

    __slots__ = ()

    def __iter__(self) -> _Tasks:
        return self

    def __next__(self) -> None:
        while True:  # only the end of the thread stops it
            home = _take_task()()
            home.switch()


def _serve() -> None:
    """Run tasks for ever, below `DEPTH` C frames."""
    nest: Iterator[None] = iter(_Tasks())
    for _ in range(DEPTH):
        nest = chain(nest)
    next(nest)


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
    carrier = idle.pop() if idle else Carrier(_serve, main_greenlet())
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
