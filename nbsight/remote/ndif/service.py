"""NDIF over HTTP, asked as one of our own servers is: what it answers, in our words.

A job is posted as one that nobody waits for; its status and result are then asked after by its id.

    NDIF                                  here
    RECEIVED, QUEUED, DISPATCHED          QUEUED
    PROVISIONING, DEPLOYING               LOADING
    RUNNING, COMPLETED                    RUNNING, COMPLETED
    ERROR                                 FAILED
    LOG                                   a line that the block has printed
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit

import msgspec
import requests

from nbsight.errors import RemoteError
from nbsight.remote.client import Client, Event, Unreachable
from nbsight.remote.ndif.records import Record, forget, records
from nbsight.wire.api import ErrorRecord, FrameRecord, JobInfo, State

__all__ = ["PUBLIC", "Answer", "NdifClient", "is_ndif", "ndif_url"]

PUBLIC = "https://api.ndif.us"

_STATES: dict[str, State] = {
    "RECEIVED": "QUEUED",
    "QUEUED": "QUEUED",
    "DISPATCHED": "QUEUED",
    "PROVISIONING": "LOADING",
    "DEPLOYING": "LOADING",
    "RUNNING": "RUNNING",
    "COMPLETED": "COMPLETED",
    "ERROR": "FAILED",
}

#: Seconds between two questions: the first, and the longest.
_SOON, _LATE = 0.2, 2.0

#: Seconds after which a job that NDIF does not know yet counts as unknown.
_UNKNOWN = 60.0

_LINE = re.compile(r'File "([^"]+)", line (\d+)(?:, in (\S+))?')
_ENDING = re.compile(r"^([A-Za-z_][\w.]*(?:Error|Exception|Warning|Interrupt|Exit)): ?(.*)", re.DOTALL)


class Answer(msgspec.Struct, frozen=True):
    """What NDIF says of a job.

    Args:
        description: More of it, in words; of a failure its traceback.
        data: Of a finished job, where its result can be had.
    """

    id: str
    status: str
    description: str = ""
    data: Any = None


def ndif_url() -> str:
    """NDIF's address: NDIF_HOST, or the public one."""
    return os.environ.get("NDIF_HOST") or PUBLIC


def is_ndif(address: str) -> bool:
    """Whether an address is NDIF's."""
    host = urlsplit(address).hostname or ""
    return address == "ndif" or host == "ndif.us" or host.endswith(".ndif.us") or _is_own(address)


def _is_own(address: str) -> bool:
    named = os.environ.get("NDIF_HOST", "")
    return bool(named) and address.rstrip("/") == named.rstrip("/")


class NdifClient(Client):
    """Speaks to NDIF.

    Args:
        url: Its address.
        key: The key that it knows the caller by.
    """

    kind = "ndif"

    def __repr__(self) -> str:
        return f"NDIF at {self.url}"

    def info(self, *, fresh: bool = False) -> NoReturn:
        """NDIF has nothing of the kind."""
        raise RemoteError("NDIF says nothing of its limits; `.describe()` says which models it has at work.")

    def greet(self) -> None:
        """See whether NDIF is there.

        Raises:
            RemoteError: it is not.
        """
        self.deployed()

    def deployed(self) -> list[str]:
        """The keys of the models that it has at work."""
        answer = self._ask("GET", "/status", dict[str, Any])
        deployments = answer.get("deployments")
        items = deployments.items() if isinstance(deployments, dict) else ()
        keys = [
            str(entry.get("model_key") or name)
            for name, entry in items
            if isinstance(entry, dict) and entry.get("deployment_level") in ("HOT", "WARM")
        ]
        return list(dict.fromkeys(keys))

    def describe(self) -> str:
        """NDIF in a few lines."""
        return "\n".join(
            [f"NDIF at {self.url}, with", *(f"  {key}" for key in self.deployed() or ["nothing"])]
        )

    def post(self, envelope: str, blob: bytes) -> Answer:
        """Send a block; returns NDIF's first word on it."""
        headers = {
            "ndif-timestamp": repr(time.time()),
            "nnsight-version": _version("nnsight"),
            "python-version": sys.version,
        }
        response = self._send(
            "POST",
            "/request",
            data={"data": envelope},
            files={"blob": ("request", blob, "application/octet-stream")},
            headers=headers,
        )
        with response:
            return self._read(response)

    def answer(self, job: str) -> Answer | None:
        """What it says of a job now; None if it does not know it, or not yet."""
        try:
            with self._send("GET", f"/response/{quote(job, safe='')}") as response:
                return self._read(response)
        except RemoteError as error:
            if error.code == "unknown_job":
                return None
            raise

    def jobs(self, limit: int = 50) -> list[JobInfo]:
        """The jobs that were sent from this account, newest first."""
        return [self._info_of(record) for record in records(self.url)[:limit]]

    def job(self, job: str) -> JobInfo:
        """One of them, by its id or the first characters of it."""
        return self._info_of(self.record(job))

    def record(self, job: str) -> Record:
        """What is remembered of a job; little if it was sent from elsewhere."""
        found = [record for record in records(self.url) if record.id.startswith(job)]
        exact = [record for record in found if record.id == job]
        if len(found) == 1 or exact:
            return (exact or found)[0]
        if len(found) > 1:
            ids = ", ".join(record.id for record in found[:4])
            raise _coded(f"several of your jobs on {self.url} begin with {job!r}: {ids}.", "unknown_job")
        if self.answer(job) is None:
            raise _coded(
                f"NDIF at {self.url} knows no job {job!r}, and none was sent from here.", "unknown_job"
            )
        return Record(job, self.url, "", "trace", "", 0.0)

    def cancel(self, job: str) -> NoReturn:
        """NDIF cannot.

        Raises:
            RemoteError: always.
        """
        raise _coded(f"NDIF has no way to end a job; {job} goes on and can be left alone.", "unsupported")

    def delete(self, job: str) -> None:
        """Remember a job no longer; NDIF forgets it in its own time."""
        forget(job)

    def events(self, job: str, after: int = 0) -> Iterator[Event]:
        """A job's events, as far as asking now and then shows them."""
        heard, pause, began = None, _SOON, time.monotonic()
        while True:
            answer = self.answer(job)
            if answer is None and time.monotonic() - began > _UNKNOWN:
                raise _coded(f"NDIF at {self.url} knows no job {job}, or no longer.", "unknown_job")
            if answer is None or answer == heard:
                pause = min(pause * 1.3, _LATE)
                yield Event(0, "tick", {})
            else:
                heard, pause = answer, _SOON
                yield self._event(answer)
                if _STATES.get(answer.status) in ("COMPLETED", "FAILED"):
                    return
            time.sleep(pause)

    def result(self, job: str, told: Callable[[int, int], None] = lambda done, total: None) -> bytes:
        """A job's result as NDIF keeps it: compressed, and pickled by torch."""
        answer = self.answer(job)
        if answer is None or answer.status != "COMPLETED" or not isinstance(answer.data, str):
            state = "nothing of it" if answer is None else answer.status
            raise RemoteError(f"NDIF at {self.url} has no result of job {job}; it says {state}.")
        return self._download(answer.data, job, told)

    # -- HTTP ----------------------------------------------------------------------------------

    def _send(self, method: str, path: str, **options: Any) -> requests.Response:
        if path.startswith(f"{self.url}/") or "://" not in path:
            return super()._send(method, path.removeprefix(self.url), **options)
        # A result may lie elsewhere; whoever keeps it is not told the key.
        parts = urlsplit(path)
        store = Client(f"{parts.scheme}://{parts.netloc}", None)
        return store._send(method, f"{parts.path}?{parts.query}", **options)

    def _authorise(self, session: requests.Session) -> None:
        if self._key:
            session.headers["ndif-api-key"] = self._key

    def _read(self, response: requests.Response) -> Answer:
        try:
            return msgspec.json.decode(response.content, type=Answer)
        except msgspec.DecodeError as error:
            raise RemoteError(f"what answers at {self.url} is not NDIF, or a new one: {error}") from None

    def _refused(self, response: requests.Response) -> RemoteError:
        status = response.status_code
        with response:
            try:
                body = json.loads(response.content)
                detail = body.get("detail", body) if isinstance(body, dict) else body
            except ValueError:
                detail = response.text[:300]
        if status in (401, 403):
            advice = "" if self._key else " No key is known here: put yours into NDIF_API_KEY."
            return _coded(f"NDIF at {self.url} does not take the key: {detail}.{advice}", "unauthorized")
        code = "unknown_job" if status == 404 else "overloaded" if status in (429, 503) else "refused"
        problem = _coded(f"NDIF at {self.url} answered {status}: {detail}", code)
        problem.retryable = status >= 500 or status == 429
        return problem

    def _unreachable(self, error: Exception) -> Unreachable:
        problem = super()._unreachable(error)
        again = Unreachable(
            f"NDIF cannot be reached at {self.url}: {str(error)[:300]}. NDIF_HOST names another address; "
            "`nbsight serve` starts a server of your own."
        )
        again.code = problem.code
        return again

    # -- in our words --------------------------------------------------------------------------

    def _info_of(self, record: Record) -> JobInfo:
        try:
            answer = self.answer(record.id)
        except Unreachable:
            answer = None
        state = "EXPIRED" if answer is None else _STATES.get(answer.status, "RUNNING")
        error = None
        if answer is not None and state == "FAILED":
            error = _error_of(answer.description, record.filename)
        return JobInfo(record.id, state, record.model, record.kind, record.label, record.created, error=error)

    def _event(self, answer: Answer) -> Event:
        if answer.status == "LOG":
            return Event(0, "log", {"text": answer.description.rstrip("\n") + "\n"})
        state = _STATES.get(answer.status, "RUNNING")
        data: dict[str, Any] = {"state": state}
        if state == "FAILED":
            data["error"] = msgspec.to_builtins(_error_of(answer.description))
        elif state == "QUEUED":
            data["why"] = answer.description or answer.status.lower()
        elif state == "COMPLETED":
            data["bytes"] = 0
        return Event(0, "status", data)


def _error_of(text: str, filename: str = "") -> ErrorRecord:
    """A failure, of which NDIF tells the traceback as text."""
    last, lines = text.strip(), text.strip().splitlines()
    for number in range(len(lines) - 1, -1, -1):
        if _ENDING.match(lines[number]):
            last = "\n".join(lines[number:])
            break
    found = _ENDING.match(last)
    kind, message = (found[1].rpartition(".")[2], found[2]) if found else ("RemoteError", last)
    frames = [FrameRecord(name, int(line), where or "<module>") for name, line, where in _LINE.findall(text)]
    return ErrorRecord("block_failed", message or last, kind, frames=frames)


def _coded(text: str, code: str) -> RemoteError:
    error = RemoteError(text)
    error.code = code
    return error


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # on the path without having been installed
        return ""
