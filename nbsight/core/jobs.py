"""Work that takes a while, as others see it: a bar in a terminal, a row in the sidebar, a widget.

Whoever does the work makes a `Job`, moves it on, and looks whether it was told to stop; whoever
shows it listens. Neither knows of the other. Local sweeps publish here, and so may anything that
runs elsewhere and takes a while.

    with Job("patching", total=72) as job:
        for batch in batches:
            ...
            job.advance(to=done)
            job.check()            # a KeyboardInterrupt if somebody told it to stop
"""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any

__all__ = ["Job", "jobs", "listeners"]

KEPT = 50  # jobs that are over and still listed
LOG_LINES = 1000

#: Called with a job when anything about it has changed, on the thread that changed it.
listeners: list[Callable[[Job], None]] = []

_jobs: dict[str, Job] = {}
_lock = threading.Lock()
_number = itertools.count(1)


class Job:
    """One piece of work.

    Args:
        title: What it is, in a few words.
        total: How many steps it has; None if nobody knows.
        kind: "sweep" for one that runs here; others are for who makes them.
        model: The name of the model that it runs on.
        is_detached: Whether it goes on when the cell that began it is over.
        on_cancel: Called when it is told to stop, for work that cannot look by itself.

    Attributes:
        state: "queued", "running", "done", "stopped" or "failed".
        done: How many steps are done.
        note: What it is at, in a few words.
        error: What went wrong, if it failed.
        began, ended: Times, in seconds since 1970.
        log: The lines that it said, the last thousand.
        code: A cell that fetches what came of it, where that is not at hand.
    """

    code = ""

    def __init__(
        self,
        title: str,
        *,
        total: int | None = None,
        kind: str = "sweep",
        model: str = "",
        is_detached: bool = False,
        on_cancel: Callable[[], None] | None = None,
    ) -> None:
        self.id = f"job-{next(_number)}"
        self.title, self.total, self.kind, self.model = title, total, kind, model
        self.is_detached = is_detached
        self.state = "queued"
        self.done = 0
        self.note = ""
        self.error = ""
        self.began = time.time()
        self.ended: float | None = None
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self._on_cancel = on_cancel
        self._stop = threading.Event()
        self._result: Callable[[], Any] = lambda: None
        with _lock:
            _jobs[self.id] = self
            _forget_old()
        self._tell()

    # -- who does the work ---------------------------------------------------------------------

    def start(self) -> None:
        """The work has begun."""
        if self.state == "queued":
            self.state, self.began = "running", time.time()
            self._tell()

    def advance(self, by: int = 1, *, to: int | None = None, note: str | None = None) -> None:
        """Some steps are done.

        Args:
            by: How many more.
            to: How many in all, instead.
            note: What it is at now.
        """
        self.done = self.done + by if to is None else to
        if note is not None:
            self.note = note
        if self.state == "queued" and by:
            self.start()
        else:
            self._tell()

    def say(self, line: str) -> None:
        """Add a line to the log."""
        self.log.append(line)
        self._tell()

    def check(self) -> None:
        """Raise KeyboardInterrupt, as the stop button does, if the job was told to stop."""
        if self._stop.is_set():
            raise KeyboardInterrupt(f"{self.title} was stopped")

    def finish(self, result: Any = None) -> None:
        """It is done. The result is referred to weakly where that can be."""
        self._keep(result)
        self._end("done")

    def stopped(self) -> None:
        """It has stopped before its end."""
        self._end("stopped")

    def fail(self, error: BaseException | str) -> None:
        """It has failed."""
        self.error = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        self._end("failed")

    def __enter__(self) -> Job:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.is_over:
            if error is None:
                self._end("done" if self.total is None or self.done >= self.total else "stopped")
            elif isinstance(error, (KeyboardInterrupt, GeneratorExit)):
                self.stopped()
            else:
                self.fail(error)

    # -- who looks -----------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in ("done", "stopped", "failed")

    @property
    def is_cancelled(self) -> bool:
        """Whether it was told to stop."""
        return self._stop.is_set()

    @property
    def result(self) -> Any:
        """What came of it; None while it runs, or when nobody else has kept it."""
        return self._result()

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return (self.ended or time.time()) - self.began

    def cancel(self) -> None:
        """Tell it to stop; it does so after the step that it is at."""
        if self.is_over or self._stop.is_set():
            return
        self._stop.set()
        self.note = "stopping"
        if self._on_cancel is not None:
            self._on_cancel()
        self._tell()

    def __repr__(self) -> str:
        count = "" if self.total is None else f" {self.done} of {self.total}"
        return f"{self.title}: {self.state}{count}, {self.seconds:.1f} s"

    def _keep(self, result: Any) -> None:
        try:
            self._result = weakref.ref(result)
        except TypeError:  # numbers, text, lists
            self._result = lambda: result

    def _end(self, state: str) -> None:
        if not self.is_over:
            self.state, self.ended, self.note = state, time.time(), ""
            self._tell()

    def _tell(self) -> None:
        for listener in list(listeners):
            listener(self)


def jobs() -> list[Job]:
    """All that are running and the last that are over, oldest first."""
    with _lock:
        return list(_jobs.values())


def _forget_old() -> None:
    over = [job.id for job in _jobs.values() if job.is_over]
    for key in over[: max(0, len(over) - KEPT)]:
        del _jobs[key]
