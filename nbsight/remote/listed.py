"""Remote jobs in the lists of jobs: the sidebar's, and `%jobs`.

A row is kept up to date by whoever follows its job. One that nobody follows (`blocking=False`, or after an
interrupt) is asked for every two seconds, as long as somebody looks at the lists.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from nbsight.core import jobs
from nbsight.errors import RemoteError

if TYPE_CHECKING:
    from nbsight.remote.client import Client
    from nbsight.remote.job import RemoteJob

__all__ = ["count", "detach", "list_job", "queue", "tell"]

PAUSE = 2.0

_asked: dict[str, tuple[Client, str, jobs.Job]] = {}
_lock = threading.Lock()


def list_job(job: RemoteJob, kind: str, model: str, *, is_detached: bool) -> None:
    """List a job that was just sent.

    Args:
        job: It.
        kind: What was sent: "trace", "session".
        model: The model's name.
        is_detached: Whether nobody waits for it.
    """
    client, key = job.client, job.job_id
    row = job.row = jobs.Job(
        f"{kind} {key[:8]}", kind="remote", model=model, on_cancel=lambda: _cancel(client, key)
    )
    row.code = f'from nbsight.remote import jobs\n\nresult = jobs["{key[:8]}"].result()'
    row.note = "sent"
    if is_detached:
        detach(job)


def detach(job: RemoteJob) -> None:
    """Nobody follows a job any more: ask for it now and then."""
    row = job.row
    if row is None or row.is_over:
        return
    row.is_detached = True
    with _lock:
        is_asking = bool(_asked)
        _asked[row.id] = (job.client, job.job_id, row)
    if not is_asking:
        threading.Thread(target=_ask, name="nbsight-remote-jobs", daemon=True).start()


def tell(job: RemoteJob, said: str = "") -> None:
    """A job's follower has heard something.

    Args:
        job: It.
        said: What its block has printed.
    """
    row = job.row
    if row is None:
        return
    for line in said.splitlines():
        row.log.append(line)
    _set(row, job.state, job.progress, "" if job.error is None else job.error)


def count(job: RemoteJob, done: Any, total: Any) -> None:
    """A job has come so far: the bar's length, where the server counts.

    Args:
        done: Tokens, forwards or steps that are done.
        total: How many there will be, if that is known.
    """
    row = job.row
    if row is None or row.is_over or type(done) is not int:
        return
    if type(total) is int and total > 0:
        row.total = total
    row.start()
    row.advance(to=done)


def queue(job: RemoteJob, place: int, eta: float | None) -> None:
    """A job waits at a place.

    Args:
        place: 1 for the next.
        eta: Seconds, if the server knows.
    """
    if job.row is not None and not job.row.is_over:
        job.row.wait(place, eta)


def _set(row: jobs.Job, state: str, note: str, error: str) -> None:
    if row.is_over:
        return
    if state == "COMPLETED":
        row.finish()
    elif state == "CANCELLED":
        row.stopped()
    elif state in ("FAILED", "EXPIRED"):
        row.fail(error or state.lower())
    else:
        row.note = note
        if state == "RUNNING":
            row.start()
        row.advance(0)


def _cancel(client: Client, key: str) -> None:
    client.cancel(key)


def _ask() -> None:
    """Ask for the jobs that nobody follows, until there are none."""
    while True:
        time.sleep(PAUSE)
        with _lock:
            for key in [key for key, (_, _, row) in _asked.items() if row.is_over]:
                del _asked[key]
            waiting = list(_asked.values())
            if not waiting:
                return
        if jobs.listeners:
            for client, key, row in waiting:
                _ask_for(client, key, row)


def _ask_for(client: Any, key: str, row: jobs.Job) -> None:
    try:
        info = client.job(key)
    except RemoteError as error:
        row.note = "the server does not answer"
        if getattr(error, "code", None) in ("not_found", "unknown_job"):
            row.fail("the server no longer knows it")
        else:
            row.advance(0)
        return
    note = f"waits, place {info.place}" if info.place else info.state.lower()
    _set(row, info.state, note, info.error.message if info.error is not None else "")
