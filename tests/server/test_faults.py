"""Slow senders, full disks, messages made to cost much: one's own request fails, everybody else's goes on."""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
import struct
import subprocess
import threading
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import pytest
import requests
import torch
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from nbsight.errors import RemoteError
from nbsight.models.language_model import LanguageModel
from nbsight.server import receiving
from nbsight.server.access import digest_of
from nbsight.server.app import Service, make_app
from nbsight.server.connections import Patient
from nbsight.server.engines.local import LocalEngine
from nbsight.server.receiving import Refused
from nbsight.server.settings import Settings
from nbsight.server.store import Store
from nbsight.wire.api import Limits
from nbsight.wire.messages import frame
from tests.server.attacking import a_parcel
from tests.server.running import KEYS, RunningServer
from tests.server.test_parts import row


def finished(coroutine):
    """What it returns, from a thread of its own: the browser of other tests keeps a loop on this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


PROMPT = "The capital of France is"
HEADERS = {"Authorization": f"Bearer {KEYS['bob']}"}


# -- connections -----------------------------------------------------------------------------------


class Hasty(Patient):
    """As patient as a test has time for."""

    seconds = 0.5
    most = 12


@pytest.fixture(scope="module")
def hasty():
    """A server that says "fine", with the connections of ours."""
    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("fine"), methods=["GET", "POST"])])
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http=Hasty, ws="none", lifespan="off", log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield listener.getsockname()
    server.should_exit = True
    thread.join(10)


def ends_within(line: socket.socket, seconds: float) -> bool:
    line.settimeout(seconds)
    try:
        return line.recv(1000) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def hears_fine(line: socket.socket) -> bool:
    heard = b""
    while b"fine" not in heard and (more := line.recv(1000)):
        heard += more
    return b"fine" in heard


def says_fine(address) -> bool:
    return requests.get(f"http://{address[0]}:{address[1]}/", timeout=5).text == "fine"


def test_who_says_nothing_is_let_go(hasty):
    with socket.create_connection(hasty) as line:
        assert ends_within(line, 3)


def test_a_head_that_comes_letter_by_letter_has_an_end(hasty):
    with socket.create_connection(hasty) as line:
        began, head = time.monotonic(), b"GET / HTTP/1.1\r\nHost: x\r\nX-" + b"a" * 500
        with pytest.raises(OSError, match=r".*"):
            for letter in head:
                line.sendall(bytes([letter]))
                time.sleep(0.02)
    assert time.monotonic() - began < 3


def test_a_second_request_on_a_connection_has_its_time_too(hasty):
    with socket.create_connection(hasty) as line:
        line.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert hears_fine(line)
        time.sleep(0.7)  # an idle connection is kept
        line.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert hears_fine(line)
        line.sendall(b"GET / HTT")
        assert ends_within(line, 3)


def test_a_slow_body_is_not_a_slow_head(hasty):
    with socket.create_connection(hasty) as line:
        line.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\na")
        time.sleep(0.8)
        line.sendall(b"bcd")
        assert hears_fine(line)


def test_strangers_who_hold_connections_do_not_keep_others_out_for_long(hasty):
    lines = [socket.create_connection(hasty) for _ in range(40)]
    time.sleep(1.2)
    assert says_fine(hasty)
    for line in lines:
        line.close()


# -- what is received ------------------------------------------------------------------------------


def a_request(chunks, pause: float = 0.0, **headers: str):
    async def stream():
        for chunk in chunks:
            await asyncio.sleep(pause)
            yield chunk

    return SimpleNamespace(headers=headers, stream=stream, query_params={})


def test_who_sends_a_byte_now_and_then_is_let_go(tmp_path, monkeypatch):
    monkeypatch.setattr(receiving, "_GRACE", 0.2)
    request = a_request([b"a"] * 100, 0.01)
    with pytest.raises(Refused) as caught:
        finished(receiving._receive(request, tmp_path / "job", 10**6))
    assert (caught.value.status, caught.value.record.code) == (408, "too_slow")


def test_who_is_silent_is_let_go(tmp_path, monkeypatch):
    monkeypatch.setattr(receiving, "_SILENCE", 0.05)
    with pytest.raises(Refused) as caught:
        finished(receiving._receive(a_request([b"a"] * 2, 5), tmp_path / "job", 10**6))
    assert caught.value.status == 408


@pytest.mark.parametrize("length", ["9" * 5000, "9" * 17, "-1", "abc", "1e3", ""])
def test_an_announced_length_that_is_none_is_no_mistake_of_the_servers(tmp_path, length):
    request = a_request([b"abc"], **{"content-length": length})
    if length[:1] == "9":
        with pytest.raises(Refused) as caught:
            finished(receiving._receive(request, tmp_path / "job", 10**6))
        assert caught.value.status == 413
    else:
        assert finished(receiving._receive(request, tmp_path / "job", 10**6))[1] == 3


def test_one_owner_has_no_more_than_so_many_jobs_on_their_way(monkeypatch):
    from nbsight.server.fairness import Rates

    service = SimpleNamespace(
        rates=Rates(100, 500),
        settings=SimpleNamespace(limits=Limits()),
        dispatcher=SimpleNamespace(queued=lambda owner: 0),
        arriving=Counter(ada=receiving._ARRIVING),
    )
    with pytest.raises(Refused) as caught:
        receiving._check_rate(service, "ada")
    assert caught.value.status == 429
    receiving._check_rate(service, "bob")


def long_header(extra: str) -> bytes:
    """A whole job whose header is long by what it takes along."""
    header = json.loads(a_parcel().header)
    text = json.dumps(header)
    return (text[:-1] + f', "withheld": {{}}, "x": {extra}}}').encode()


def test_a_long_header_is_read_without_making_what_is_in_it(tmp_path):
    import tracemalloc

    path = tmp_path / "job"
    whole = long_header("[" + "[]," * 5_000_000 + "[]]")
    path.write_bytes(frame(whole, b""))
    tracemalloc.start()
    head = receiving._header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert head.model.id == "nbsight/demo"
    assert peak < 2.5 * len(whole)  # json.loads takes more than twenty times that


@pytest.mark.parametrize(
    "extra",
    [
        "[" * 200_000 + "]" * 200_000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        "nul",
        "1" * 300_000,
        '"\\ud800"',
    ],
)
def test_a_long_header_of_whatever_kind_is_read_or_refused(tmp_path, extra):
    path = tmp_path / "job"
    path.write_bytes(frame(long_header(extra + " " * 300_000), b""))
    outcome = "read"
    try:
        assert receiving._header(path).kind == "trace"
    except Refused as refused:
        outcome = f"{refused.status} {refused.record.code}"
    assert outcome in ("read", "400 malformed")


def test_others_are_answered_while_large_headers_are_read(running):
    bomb = zlib.compress(b" " * (60 * 2**20), 9)
    data = b"nbsightz" + struct.pack("<Q", len(bomb)) + bomb
    done = threading.Event()
    codes: list[int] = []

    def send() -> None:
        for _ in range(3):
            codes.append(
                requests.post(f"{running.url}/v1/jobs", data=data, headers=HEADERS, timeout=60).status_code
            )

    senders = [threading.Thread(target=send) for _ in range(3)]
    for sender in senders:
        sender.start()
    waits = []
    while any(sender.is_alive() for sender in senders):
        began = time.monotonic()
        assert requests.get(f"{running.url}/v1/whoami", headers=HEADERS, timeout=30).json() == {
            "owner": "bob"
        }
        waits.append(time.monotonic() - began)
        time.sleep(0.05)
    done.set()
    assert set(codes) == {400}
    assert sorted(waits)[len(waits) // 2] < 2


# -- disks -----------------------------------------------------------------------------------------


class FullDisk:
    """A connection to a database on a disk that is full until the store gives up what it held."""

    def __init__(self, db: sqlite3.Connection, ballast) -> None:
        self.db, self.ballast, self.writes = db, ballast, 0

    def execute(self, statement: str, *values):
        if statement.startswith(("INSERT", "UPDATE", "DELETE")) and self.ballast.exists():
            raise sqlite3.OperationalError("database or disk is full")
        return self.db.execute(statement, *values)

    def close(self) -> None:
        self.db.close()


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    yield store
    store.close()


def test_on_a_full_disk_jobs_end_and_none_is_accepted(store, tmp_path):
    store.add(row(1))
    store._db = FullDisk(store._db, tmp_path / "ballast")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        store.add(row(2))
    assert store.get(row(2).id) is None
    store.note(row(1).id, "log", {"text": "x"}, logged=1)  # output is not worth the last bytes
    assert len(store.events(row(1).id, 0)) == 1
    assert store.move(row(1).id, "COMPLETED")
    assert store.get(row(1).id).state == "COMPLETED"
    assert not (tmp_path / "ballast").exists()
    store.tidy(3600)  # there is room again
    assert (tmp_path / "ballast").stat().st_size == 8 * 2**20


def test_a_request_that_the_store_cannot_take_is_told_so(store, tmp_path):
    key = "k" * 20
    settings = Settings((), tmp_path, keys={digest_of(key): "ada"})
    app = make_app(settings, store, LocalEngine(settings))
    app.state.service = Service(settings, store, LocalEngine(settings))

    def ask() -> tuple[int, str]:
        async def get():
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:1") as client:
                return await client.get("/v1/jobs", headers={"Authorization": f"Bearer {key}"})

        answer = finished(get())
        assert "division" not in answer.text  # what went wrong inside is for the log
        return answer.status_code, answer.json()["error"]["code"]

    def broken(*_):
        raise sqlite3.OperationalError("database or disk is full")

    store.owned = broken
    assert ask() == (507, "no_space")
    store.owned = lambda *_: 1 / 0
    assert ask() == (500, "internal")


@pytest.fixture(scope="module")
def cramped(tmp_path_factory):
    """A server whose folder is a disk of its own, of 120 MB, that only it sees."""
    folder = tmp_path_factory.mktemp("cramped")
    (folder / "data").mkdir()
    mount = f"mount -t tmpfs -o size=120m tmpfs {folder / 'data'}"
    tried = subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {tried.stderr.strip()}")
    server = RunningServer(folder)
    server.prefix = ("unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh")
    server.start()
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()


def test_a_disk_that_runs_full_ends_the_job_that_filled_it_and_no_other(cramped, monkeypatch):
    monkeypatch.setenv("NBSIGHT_HOST", cramped.url)
    monkeypatch.setenv("NBSIGHT_API_KEY", KEYS["ada"])
    model = LanguageModel("nbsight/demo")
    with pytest.raises(RemoteError, match="no room for a result") as caught:
        with model.trace(PROMPT, remote=True):
            large = torch.ones(40_000_000).save()
    assert caught.value.code == "no_space"
    with model.trace(PROMPT, remote=True):  # half a result was not left behind
        small = torch.ones(3).save()
    assert small.tolist() == [1, 1, 1]
    sent = torch.ones(15_000_000)
    with pytest.raises(RemoteError, match="no room for another job") as caught:
        with model.trace(PROMPT, remote=True):
            total = sent.sum().save()
    assert caught.value.retryable
    with model.trace(PROMPT, remote=True):
        small = torch.ones(3).save()
    assert small.tolist() == [1, 1, 1]
