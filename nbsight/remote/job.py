"""A job on a server: followed, waited for, cancelled, and asked for its result; also from another kernel."""

from __future__ import annotations

import base64
import builtins
import contextlib
import queue
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from nbsight import errors
from nbsight.errors import RemoteError
from nbsight.remote import listed
from nbsight.remote.client import Client, Event, Unreachable
from nbsight.remote.progress import Progress, progress_line
from nbsight.remote.tables import duration, size
from nbsight.wire.api import FINAL, ErrorRecord, JobInfo
from nbsight.wire.failures import exception_of
from nbsight.wire.far import FarBlobs
from nbsight.wire.messages import header_size, inflate, unframe
from nbsight.wire.results import decode_names, decode_result

__all__ = ["RemoteJob", "Sender"]

#: Seconds for which a server that does not answer is asked again.
_PATIENCE = 60.0

#: Bytes of a result above which its large tensors are fetched when they are used.
LAZY = 4 * 2**20

#: Seconds between two looks at the clock while nothing is heard.
_TICK = 0.2

#: Seconds after an interrupt in which another one cancels the job.
_AGAIN = 2.0


class Sender(NamedTuple):
    """What only the process knows that sent the job."""

    model: Any
    objects: dict[int, Any]
    files: dict[str, str]


class RemoteJob:
    """One job.

    Args:
        client: Its server.
        job_id: Its id.
        sender: What the sending process knows of it; None in another one.
        stream: Its events, where they are being read already.

    Attributes:
        log: What the block has printed, as far as it has been heard.
        progress: How far it has come, in words.
        row: Its row in the lists of jobs, in the process that sent it.
    """

    row: Any = None

    def __init__(
        self,
        client: Client,
        job_id: str,
        sender: Sender | None = None,
        stream: Iterator[Event] | None = None,
    ) -> None:
        self.client = client
        self.job_id = job_id
        self.state = "QUEUED"
        self.log = ""
        self.progress = "sent"
        self._sender = sender
        self._stream = stream
        self._seq = 0
        self._began: float | None = None
        self._error: ErrorRecord | None = None
        self._content: bytes | None = None
        self._result: dict[str, Any] | None = None
        self._bytes = 0

    def __repr__(self) -> str:
        return f"job {self.job_id} on {self.client.url}: {self.state}, {self.progress}"

    @property
    def id(self) -> str:
        """The job's id."""
        return self.job_id

    @property
    def error(self) -> str | None:
        """Why it failed, as far as that has been heard."""
        return None if self._error is None else f"{self._error.kind}: {self._error.message}"

    def info(self) -> JobInfo:
        """What the server says of it now."""
        info = self.client.job(self.job_id)
        self.job_id, self.state = info.id, info.state
        return info

    def wait(self, timeout: float | None = None, *, verbose: bool = True) -> RemoteJob:
        """Wait until the job has ended, and print what it prints.

        The first interrupt lets the job go on and stops waiting; another one within two seconds
        cancels it.

        Args:
            timeout: Seconds to wait.
            verbose: Whether to show how far it has come.

        Raises:
            TimeoutError: it has not ended by then; it goes on.
        """
        line = progress_line(verbose, self.row)
        try:
            self._follow(line, None if timeout is None else time.monotonic() + timeout)
        except KeyboardInterrupt:
            line.close()
            self._interrupted()
            raise
        finally:
            line.close()
        return self

    def cancel(self) -> RemoteJob:
        """End the job."""
        self.state = self.client.cancel(self.job_id).state
        listed.tell(self)
        return self

    def result(self, timeout: float | None = None, *, verbose: bool = True) -> dict[str, Any]:
        """The names that the block bound, once the job has ended.

        Of a large result, tensors of more than a megabyte have `shape`, `dtype` and `bytes`, and their
        numbers are fetched when they are first used, or by `.fetch()`.

        In the process that sent it, captured lists, dicts and tensors that the block changed are
        changed too. Elsewhere only the names come back.

        Raises:
            RemoteError: the job was cancelled, or it is no longer kept.
            Exception: what the block raised, on the user's line.
        """
        __tracebackhide__ = True
        self.wait(timeout, verbose=verbose)
        if self.state != "COMPLETED":
            raise self._failure() from None
        if self._result is None:
            self._result = self._decoded(verbose)
            self._content = self._sender = None
        return self._result

    def _decoded(self, verbose: bool) -> dict[str, Any]:
        is_large = self._content is None and self._bytes > LAZY
        header, blob = self._far(verbose) if is_large else unframe(self._fetch(verbose))
        sender = self._sender
        if sender is None:
            return decode_names(header, blob)
        return decode_result(header, blob, sender.model, sender.objects)

    def _far(self, verbose: bool) -> tuple[bytes, FarBlobs]:
        """The result's header, and what fetches its tensors."""
        client, job, total = self.client, self.job_id, self._bytes

        def read(start: int, into: memoryview, *, tells: bool = False) -> None:
            line = progress_line(verbose and tells)
            try:
                client.read_result(
                    job, start, into, lambda done, whole: line.show(f"{size(done)} of {size(whole)}")
                )
            finally:
                line.close()

        begin = bytearray(16)
        read(0, memoryview(begin))
        length, is_deflated = header_size(bytes(begin))
        if 16 + length > total:
            raise RemoteError(f"the result of job {job} ends early.")
        header = bytearray(length)
        read(16, memoryview(header))
        content = bytes(header)
        return inflate(content) if is_deflated else content, FarBlobs(16 + length, total, read)

    def forget(self) -> None:
        """Delete the job and its result on the server."""
        self.client.delete(self.job_id)

    # -- following -----------------------------------------------------------------------------

    def _follow(self, line: Progress, until: float | None) -> None:
        failing: float | None = None
        while self.state not in FINAL:
            try:
                if self._stream is None:
                    self._stream = self.client.events(self.job_id, self._seq)
                for event in self._stream if not line.ticks else self._pumped():
                    failing = None
                    if event is not None:
                        self._heard(event, line)
                    line.show(f"job {self.job_id[:8]}: {self.progress}")
                    if until is not None and time.monotonic() > until and self.state not in FINAL:
                        raise TimeoutError(f"job {self.job_id} has not ended yet: {self.progress}.")
            except Unreachable as error:
                failing = failing or time.monotonic()
                if time.monotonic() - failing > _PATIENCE:
                    raise Unreachable(
                        f"{error} Job {self.job_id} is kept by the server: "
                        f"`nbsight.jobs[{self.job_id[:8]!r}]` "
                        "finds it when that is back."
                    ) from None
                line.show(f"job {self.job_id[:8]}: the server does not answer, trying again")
                time.sleep(0.3)
            if self.state not in FINAL:
                self._drop_stream()
        self._drop_stream()

    def _pumped(self) -> Iterator[Event | None]:
        """The events of the stream, and None now and then while there are none.

        They are read by a thread, which goes on to their end if nobody waits for them any more.
        """
        stream, self._stream = self._stream, None
        assert stream is not None
        heard: queue.SimpleQueue[Event | Exception | None] = queue.SimpleQueue()

        def read() -> None:
            try:
                for event in stream:
                    heard.put(event)
                heard.put(None)
            except Exception as error:  # for whoever waits
                heard.put(error)

        threading.Thread(target=read, name=f"nbsight-job-{self.job_id[:8]}", daemon=True).start()
        while True:
            try:
                event = heard.get(timeout=_TICK)
            except queue.Empty:
                yield None
                continue
            if event is None:
                return
            if isinstance(event, Exception):
                raise event
            yield event

    def _drop_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()  # type: ignore[attr-defined]

    def _heard(self, event: Event, line: Progress) -> None:
        data = event.data
        self._seq = event.seq or self._seq
        if event.kind == "job":
            self.job_id = data["id"]
        elif event.kind == "status":
            self._changed(data)
        elif event.kind == "place":
            eta = data.get("eta")
            self.progress = f"waits, place {data['place']}" + (f", about {duration(eta)}" if eta else "")
            listed.queue(self, data["place"], eta)
        elif event.kind == "progress":
            self.progress = str(data.get("text", ""))
            listed.count(self, data.get("done"), data.get("total"))
        elif event.kind == "log":
            line.clear()
            self._print(data)
        listed.tell(self, str(data.get("text", "")) if event.kind == "log" else "")

    def _changed(self, data: dict[str, Any]) -> None:
        self.state = data["state"]
        if self.state == "RUNNING":
            self._began = time.monotonic()
            self.progress = "runs" if data.get("attempt", 1) == 1 else f"runs, attempt {data['attempt']}"
        elif self.state == "LOADING":
            self.progress = f"the server loads {data.get('model', 'the model')}"
        elif self.state == "QUEUED":
            self.progress = f"waits ({data['why']})" if "why" in data else "waits"
        elif self.state == "COMPLETED":
            self._bytes = int(data["bytes"])
            self.progress = f"done, {size(self._bytes)}"
            if "result" in data:
                self._content = base64.b64decode(data["result"])
        else:
            self.progress = self.state.lower()
            if "error" in data:
                self._error = msgspec.convert(data["error"], ErrorRecord)

    def _print(self, data: dict[str, Any]) -> None:
        text = str(data.get("text", ""))
        if data.get("stream") == "warning":
            self._warn(text, data)
            return
        self.log += text
        print(text, end="", file=sys.stderr if data.get("stream") == "err" else sys.stdout, flush=True)

    def _warn(self, text: str, data: dict[str, Any]) -> None:
        name = str(data.get("category", ""))
        kind = getattr(errors, name, None) or getattr(builtins, name, None)
        if not (isinstance(kind, type) and issubclass(kind, Warning)):
            kind = UserWarning
        files = {} if self._sender is None else self._sender.files
        home = files.get(str(data.get("filename", "")), "<block>")
        warnings.warn_explicit(text, kind, home, int(data.get("line", 0)) or 1)

    def _interrupted(self) -> None:
        """Wait a moment for a second interrupt."""
        if self.state in FINAL or not self.job_id:
            return
        name = self.job_id[:8]
        listed.detach(self)
        try:  # the second one may come while this is being said
            print(
                f"job {name} goes on without this cell; interrupt again now to cancel it, or find it later: "
                f"nbsight.jobs[{name!r}]",
                file=sys.stderr,
                flush=True,
            )
            time.sleep(_AGAIN)
        except KeyboardInterrupt:
            with contextlib.suppress(RemoteError):
                self.cancel()
            print(f"job {name} is cancelled", file=sys.stderr, flush=True)

    # -- the end -------------------------------------------------------------------------------

    def _fetch(self, verbose: bool) -> bytes:
        if self._content is None:
            line = progress_line(verbose)
            try:
                self._content = self.client.result(
                    self.job_id,
                    lambda done, total: line.show(f"job {self.job_id[:8]}: {size(done)} of {size(total)}"),
                )
            finally:
                line.close()
        return self._content

    def _failure(self) -> Exception:
        record = self._error
        if record is None:
            more = "its result is no longer kept" if self.state == "EXPIRED" else f"it is {self.state}"
            return _coded(RemoteError(f"job {self.job_id}: {more}."), ErrorRecord(self.state.lower(), ""))
        error = exception_of(record, {} if self._sender is None else self._sender.files)
        return _coded(error, record)


def _coded(error: Exception, record: ErrorRecord) -> Exception:
    if isinstance(error, RemoteError):
        error.code, error.retryable = record.code, record.retryable
    return error
