"""Jobs as they are told to a page: as a row, and not more often than it can draw."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from nbsight.core.jobs import Job

__all__ = ["PULSE", "Pace", "job_row"]

PULSE = 0.1  # seconds between two messages about one job
TAIL = 3  # lines of the log that a row brings along


def job_row(job: Job) -> dict[str, Any]:
    """A job as a page sees it (js/src/shared/jobs.ts reads it)."""
    return {
        "id": job.id,
        "title": job.title,
        "kind": job.kind,
        "model": job.model,
        "state": job.state,
        "done": job.done,
        "total": job.total,
        "place": job.place,
        "rate": job.rate,
        "left": job.left,
        "note": job.note,
        "error": job.error,
        "began": job.began,
        "seconds": job.seconds,
        "detached": job.is_detached,
        "stopping": job.is_cancelled and not job.is_over,
        "lines": len(job.log),
        "tail": list(job.log)[-TAIL:],
        "code": job.code,
        "result": "" if job.result is None else type(job.result).__name__,
    }


class Pace:
    """Passes on what is told of jobs: at once when one is new or over, else ten times a second at most.

    What is held back comes at the end of its pause, so that the last word is never lost.

    Args:
        tell: Gets a job, on any thread.
    """

    def __init__(self, tell: Callable[[Job], None]) -> None:
        self._tell = tell
        self._lock = threading.Lock()  # never held while telling, which takes locks of its own
        self._told: dict[str, float] = {}
        self._later: dict[str, threading.Timer] = {}

    def note(self, job: Job) -> None:
        """Something about a job is different."""
        with self._lock:
            waited = time.monotonic() - self._told.get(job.id, 0.0)
            is_now = job.is_over or job.id not in self._told or waited >= PULSE
            if is_now:
                self._mark(job)
            elif job.id not in self._later:
                timer = threading.Timer(PULSE - waited, self._after_pause, (job,))
                timer.daemon = True
                self._later[job.id] = timer
                timer.start()
        if is_now:
            self._tell(job)

    def stop(self) -> None:
        """Say nothing more of what is held back."""
        with self._lock:
            for timer in self._later.values():
                timer.cancel()
            self._later.clear()

    def _after_pause(self, job: Job) -> None:
        with self._lock:
            is_wanted = job.id in self._later
            if is_wanted:
                self._mark(job)
        if is_wanted:
            self._tell(job)

    def _mark(self, job: Job) -> None:
        timer = self._later.pop(job.id, None)
        if timer is not None:
            timer.cancel()
        self._told[job.id] = time.monotonic()
        if job.is_over:
            self._told.pop(job.id)
