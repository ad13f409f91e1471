"""One thread per model for everything that a page asks of it.

The rule, stated here only: **a request that touches a model runs on that model's worker.**

- A message from a page may arrive on any thread and while a cell runs: JupyterLab 4.4 and
  ipykernel 7 hand widget messages to subshells. Handlers therefore only queue work here.
- A greenlet belongs to the thread that started it. A forward pass that a widget holds open and
  steps lives on the worker from its first step to its last.
- Two requests for one model run one after the other; two models do not wait for each other. The
  queue is the one lock that widgets take, and no cell ever waits for it.

A cell that traces the same model meanwhile runs on its own thread; the core keeps hooks and
torch's state apart by thread, so neither sees the other.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

__all__ = ["Job", "Worker", "worker_for"]


class Job:
    """One request: queued, then running, then done; or taken back."""

    def __init__(self) -> None:
        self._taken_back = threading.Event()
        self.future: Future[None] | None = None

    @property
    def cancelled(self) -> bool:
        """Whether the page no longer wants the answer; long work looks here between its steps."""
        return self._taken_back.is_set()

    def cancel(self) -> None:
        self._taken_back.set()
        if self.future is not None:
            self.future.cancel()


class Worker:
    """Runs what is submitted to it, in order, on one thread of its own."""

    def __init__(self) -> None:
        # the thread starts with the first job and ends with the worker
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nbsight-worker")

    def submit(self, work: Callable[[], None], job: Job) -> None:
        """Queue the work; it is dropped when the job is cancelled before its turn."""
        job.future = self._pool.submit(lambda: None if job.cancelled else work())


_workers: weakref.WeakKeyDictionary[Any, Worker] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def worker_for(owner: Any) -> Worker:
    """The worker of a model (any object that can be referred to weakly), made when first asked for."""
    with _lock:
        worker = _workers.get(owner)
        if worker is None:
            worker = _workers[owner] = Worker()
        return worker
