"""A server, as its clients speak to it: requests and their answers, and an error for each that fails."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import msgspec
import requests

from nbsight.errors import RemoteError
from nbsight.wire.api import API, ErrorRecord, JobInfo, ModelInfo, ServerInfo

__all__ = ["Client", "Event", "Unreachable"]

Kind = TypeVar("Kind")

#: Seconds to wait for a connection, and for the next byte: a server with nothing to say says so sooner.
_TIMEOUTS = (5.0, 40.0)

#: Seconds for which what a server is counts as known.
_FRESH = 30.0

#: Bytes of a result that are read at a time.
_PIECE = 2**18

_LOOPBACK = ("127.0.0.1", "localhost", "::1")

#: What a connection that ends early raises.
_BROKEN = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


class Unreachable(RemoteError):
    """Nobody answers at an address, or the connection broke."""

    code = "unreachable"
    retryable = True


class Event(msgspec.Struct, frozen=True):
    """One server-sent event; `seq` is 0 for one that is not kept."""

    seq: int
    kind: str
    data: dict[str, Any]


class Client:
    """Speaks to one server.

    Args:
        url: Its address.
        key: The key that it knows the caller by.
    """

    #: What answers: our own server, or "ndif".
    kind = "nbsight"

    def __init__(self, url: str, key: str | None) -> None:
        self.url = _checked(url)
        self._key = key
        self._of_thread = threading.local()
        self._info: tuple[float, ServerInfo] | None = None

    def __repr__(self) -> str:
        return f"nbsight server at {self.url}"

    # -- what can be asked ---------------------------------------------------------------------

    def info(self, *, fresh: bool = False) -> ServerInfo:
        """What the server is; asked anew at most twice a minute unless it is to be fresh."""
        now = time.monotonic()
        if fresh or self._info is None or now - self._info[0] > _FRESH:
            info = self._ask("GET", "/v1/info", ServerInfo)
            if info.api != API:
                raise RemoteError(
                    f"the server at {self.url} (nbsight {info.nbsight}) speaks version {info.api} of the "
                    f"interface and this nbsight version {API}; install the same nbsight on both sides."
                )
            self._info = (now, info)
        return self._info[1]

    def greet(self) -> None:
        """See whether the server is there and takes the key.

        Raises:
            RemoteError: it is not, or does not.
        """
        self.info(fresh=True)

    def whoami(self) -> str:
        """Whose key this is."""
        return self._ask("GET", "/v1/whoami", dict[str, str])["owner"]

    def model(self, name: str) -> ModelInfo:
        """A model of the server, with its tree."""
        return self._ask("GET", f"/v1/models/{quote(name)}?lines", ModelInfo)

    def load(self, name: str) -> ModelInfo:
        """Ask the server to load a model now."""
        return self._ask("POST", f"/v1/models/{quote(name)}/load", ModelInfo)

    def jobs(self, limit: int = 50) -> list[JobInfo]:
        """The caller's jobs, newest first."""
        return self._ask("GET", f"/v1/jobs?limit={limit}", list[JobInfo])

    def job(self, job: str) -> JobInfo:
        """One of them, by its id or the first characters of it."""
        return self._ask("GET", f"/v1/jobs/{quote(job, safe='')}", JobInfo)

    def cancel(self, job: str) -> JobInfo:
        """End a job."""
        return self._ask("POST", f"/v1/jobs/{quote(job, safe='')}/cancel", JobInfo)

    def delete(self, job: str) -> None:
        """Forget a job that has ended."""
        self._send("DELETE", f"/v1/jobs/{quote(job, safe='')}").close()

    def describe(self) -> str:
        """The server in a few lines."""
        info = self.info(fresh=True)
        lines = [f"{self.url}: nbsight {info.nbsight}, tier {info.tier}, torch {info.torch}"]
        for model in info.models:
            more = f", {model.queued} waiting" if model.queued else ""
            lines.append(f"  {model.id}: {model.error or model.state}{more}")
        if info.loads:
            lines.append("  other models are loaded when a block asks for them")
        return "\n".join(lines)

    # -- jobs ----------------------------------------------------------------------------------

    def submit(self, data: bytes, timeout: float | None = None) -> Iterator[Event]:
        """Send a job; its events, of which the first names it.

        A connection that breaks before the answer is tried again: the server knows the job by a key.
        """
        query = "" if timeout is None else f"?timeout={float(timeout)!r}"
        headers = {
            "Accept": "text/event-stream",
            "Content-Type": "application/vnd.nbsight",
            "Idempotency-Key": uuid.uuid4().hex,
        }
        for attempt in range(3):
            try:
                response = self._send("POST", f"/v1/jobs{query}", data=data, headers=headers, stream=True)
                break
            except Unreachable as error:
                if attempt == 2 or error.code == "refused_connection":
                    raise
                time.sleep(0.3 * 2**attempt)
        return _events(response, self.url)

    def events(self, job: str, after: int = 0) -> Iterator[Event]:
        """The events of a job after one of them."""
        headers = {"Accept": "text/event-stream"}  # without it some proxies wait for the end
        headers |= {"Last-Event-ID": str(after)} if after else {}
        path = f"/v1/jobs/{quote(job, safe='')}/events"
        return _events(self._send("GET", path, headers=headers, stream=True), self.url)

    def result(self, job: str, told: Callable[[int, int], None] = lambda done, total: None) -> bytes:
        """A job's result; a download that breaks goes on where it was.

        Args:
            told: Called with the bytes that are here and all that are to come.
        """
        return self._download(f"/v1/jobs/{quote(job, safe='')}/result", job, told)

    def read_result(
        self,
        job: str,
        start: int,
        into: memoryview,
        told: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Fill a buffer with a part of a job's result; a download that breaks goes on where it was.

        Args:
            start: Where the part begins.
            told: Called with the bytes that are here and all that are to come.
        """
        path, done, failures = f"/v1/jobs/{quote(job, safe='')}/result", 0, 0
        while done < len(into):
            before = done
            headers = {"Range": f"bytes={start + done}-{start + len(into) - 1}"}
            try:
                with self._send("GET", path, headers=headers, stream=True) as response:
                    if response.status_code != 206:
                        raise RemoteError(f"what answers at {self.url} does not give parts of a result.")
                    for piece in response.iter_content(_PIECE):
                        into[done : done + len(piece)] = piece
                        done += len(piece)
                        told(done, len(into))
            except (*_BROKEN, Unreachable) as error:
                failures = 1 if done > before else failures + 1
                self._pause(failures, job, done, len(into), error)

    def _download(self, path: str, job: str, told: Callable[[int, int], None]) -> bytes:
        whole, total, failures = bytearray(), 0, 0
        while True:
            before = len(whole)
            headers = {"Range": f"bytes={len(whole)}-"} if whole else {}
            try:
                response = self._send("GET", path, headers=headers, stream=True)
                if whole and response.status_code != 206:
                    whole.clear()
                total = total or int(response.headers.get("content-length", "0"))
                for piece in response.iter_content(_PIECE):
                    whole += piece
                    told(len(whole), total)
                if len(whole) >= total:
                    return bytes(whole)
            except (*_BROKEN, Unreachable) as error:
                failures = 1 if len(whole) > before else failures + 1
                self._pause(failures, job, len(whole), total, error)

    def _pause(self, failures: int, job: str, done: int, total: int, error: Exception) -> None:
        """Wait a little before a download goes on, or give up."""
        if failures > 5:
            raise Unreachable(
                f"the result of job {job} broke off at {done:,} of {total:,} bytes: {error}"
            ) from None
        time.sleep(0.2 * failures)

    # -- HTTP ----------------------------------------------------------------------------------

    def _ask(self, method: str, path: str, kind: type[Kind]) -> Kind:
        with self._send(method, path) as response:
            try:
                return msgspec.json.decode(response.content, type=kind)
            except msgspec.DecodeError as error:
                raise RemoteError(
                    f"what answers at {self.url} is no nbsight server, or one of another version: {error}"
                ) from None

    def _send(self, method: str, path: str, **options: Any) -> requests.Response:
        try:
            response = self._session().request(
                method, self.url + path, timeout=_TIMEOUTS, allow_redirects=False, **options
            )
        except requests.ConnectionError as error:
            raise self._unreachable(error) from None
        except requests.Timeout:
            raise Unreachable(f"the server at {self.url} does not answer.") from None
        except requests.RequestException as error:
            raise RemoteError(f"{self.url} cannot be asked: {error}") from None
        if response.status_code >= 300:
            raise self._refused(response)
        return response

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._of_thread, "session", None)
        if session is None:
            session = self._of_thread.session = requests.Session()
            # A proxy is for other computers; looking for one takes longer than asking a server here.
            session.trust_env = urlsplit(self.url).hostname not in _LOOPBACK
            self._authorise(session)
        return session

    def _authorise(self, session: requests.Session) -> None:
        if self._key:
            session.headers["Authorization"] = f"Bearer {self._key}"

    def _unreachable(self, error: Exception) -> Unreachable:
        text = str(error)
        refused = "refused" in text
        known = "Name or service not known" in text or "resolve" in text.lower() or "getaddrinfo" in text
        why = (
            "nobody listens there"
            if refused
            else "there is no computer of that name"
            if known
            else text[:300]
        )
        problem = Unreachable(
            f"no nbsight server can be reached at {self.url}: {why}. `nbsight serve` starts one on this "
            "computer; another's address goes into NBSIGHT_HOST, nbsight.connect(url) or `remote=url`."
        )
        if refused or known:
            problem.code = "refused_connection"
        return problem

    def _refused(self, response: requests.Response) -> RemoteError:
        status = response.status_code
        with response:
            try:
                record = msgspec.json.decode(response.content, type=dict[str, ErrorRecord])["error"]
            except (msgspec.DecodeError, KeyError):
                more = f" (to {response.headers.get('location')})" if status < 400 else ""
                return RemoteError(
                    f"what answers at {self.url} is no nbsight server: it answered {status}{more}."
                )
        if record.code == "unauthorized" and not self._key:
            message = f"the server at {self.url} wants a key, and none is known here.\n{record.hint}"
        else:
            message = "\n".join(filter(None, (record.message, record.hint)))
            message = message if status != 401 else f"{self.url}: {message}"
        problem = RemoteError(message)
        problem.code, problem.retryable = record.code, record.retryable
        return problem


def _checked(url: str) -> str:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RemoteError(f"{url!r} is no address of a server; write http://host:port or https://host.")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def _events(response: requests.Response, url: str) -> Iterator[Event]:
    """The events of a stream.

    Raises:
        Unreachable: it breaks off.
    """
    kind, seq, data, rest = "", 0, b"", b""
    try:
        with response:
            for piece in response.iter_content(None):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    field, _, value = line.partition(b": ")
                    if field == b"event":
                        kind = value.decode()
                    elif field == b"id":
                        seq = int(value)
                    elif field == b"data":
                        data = value
                    elif not line and kind:
                        yield Event(seq, kind, json.loads(data))
                        kind, seq, data = "", 0, b""
    except _BROKEN as error:
        raise Unreachable(f"the connection to {url} broke: {error}") from None
    except ValueError as error:
        raise RemoteError(f"what answers at {url} is no nbsight server: {error}") from None
