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

__all__ = ["Job", "find", "jobs", "listeners"]

KEPT = 50  # jobs that are over and still listed
LOG_LINES = 1000
WINDOW = 30.0  # seconds over which the rate is taken, so that it follows work that becomes slower

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
        place: Where it stands in a queue, 1 for the next; None where there is no queue.
        eta: Seconds that are left, where somebody else has reckoned that.
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
        self.place: int | None = None
        self.eta: float | None = None
        self.note = ""
        self.error = ""
        self.began = time.time()
        self.ended: float | None = None
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self._on_cancel = on_cancel
        self._stop = threading.Event()
        self._marks: deque[tuple[float, int]] = deque(maxlen=256)  # when so many steps were done
        self._result: Callable[[], Any] = lambda: None
        with _lock:
            _jobs[self.id] = self
            _forget_old()
        self._tell()

    # -- who does the work ---------------------------------------------------------------------

    def wait(self, place: int | None = None, eta: float | None = None, note: str | None = None) -> None:
        """It waits for its turn.

        Args:
            place: Where it stands in the queue, 1 for the next.
            eta: Seconds until it is through, or nobody knows.
            note: Why it waits, in a few words.
        """
        self.place, self.eta = place, eta
        if note is not None:
            self.note = note
        self._tell()

    def start(self, done: int = 0) -> None:
        """The work has begun.

        Args:
            done: How many steps were done before, in work that is gone on with.
        """
        if self.state == "queued":
            self.state, self.began, self.done = "running", time.time(), done
            self.place = self.eta = None
            self._mark()
            self._tell()

    def advance(self, by: int = 1, *, to: int | None = None, note: str | None = None) -> None:
        """Some steps are done.

        Args:
            by: How many more.
            to: How many in all, instead.
            note: What it is at now.
        """
        if self.state == "queued" and by:
            self.start()
        self.done = self.done + by if to is None else to
        if note is not None:
            self.note = note
        self._mark()
        self._tell()

    def say(self, line: str) -> None:
        """Add a line to the log."""
        self.log.append(line)
        self._tell()

    def check(self) -> None:
        """Raise KeyboardInterrupt, as the stop button does, if the job was told to stop."""
        if self._stop.is_set():
            raise KeyboardInterrupt(f"{self.title} was stopped")

    def keep(self, result: Any) -> None:
        """What has come of it so far; referred to weakly where that can be."""
        try:
            self._result = weakref.ref(result)
        except TypeError:  # numbers, text, lists
            self._result = lambda: result
        if self.is_over:
            self._tell()

    def finish(self, result: Any = None) -> None:
        """It is done, and this came of it."""
        if result is not None:
            self.keep(result)
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

    @property
    def rate(self) -> float | None:
        """Steps a second of late; None before anything is known of it."""
        if len(self._marks) < 2 or self.is_over:
            return None
        (first, before), (last, now) = self._marks[0], self._marks[-1]
        return (now - before) / (last - first) if last > first and now > before else None

    @property
    def left(self) -> float | None:
        """Seconds that are left, as it was told or by its own rate; None where nobody can know."""
        if self.is_over:
            return None
        if self.eta is not None or self.total is None or not self.rate:
            return self.eta
        return max(0, self.total - self.done) / self.rate

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

    def _mark(self) -> None:
        now = time.monotonic()
        self._marks.append((now, self.done))
        while len(self._marks) > 2 and now - self._marks[1][0] > WINDOW:
            self._marks.popleft()

    def _end(self, state: str) -> None:
        if not self.is_over:
            self.state, self.ended, self.note = state, time.time(), ""
            self.place = self.eta = None
            self._tell()

    def _tell(self) -> None:
        for listener in list(listeners):
            listener(self)


def jobs() -> list[Job]:
    """All that are running and the last that are over, oldest first."""
    with _lock:
        return list(_jobs.values())


def find(key: Any) -> Job:
    """The job with an id.

    Raises:
        LookupError: there is none, or it is long over and no longer listed.
    """
    with _lock:
        job = _jobs.get(key) if isinstance(key, str) else None
        if job is None:
            known = ", ".join(_jobs) or "none"
            raise LookupError(f"there is no job {key!r} in this kernel (any more); there are: {known}.")
        return job


def _forget_old() -> None:
    over = [job.id for job in _jobs.values() if job.is_over]
    for key in over[: max(0, len(over) - KEPT)]:
        del _jobs[key]
