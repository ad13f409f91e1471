"""What a stranger or a broken network sends: an answer for each, and everybody else goes on."""

from __future__ import annotations

import concurrent.futures
import json
import socket
import struct
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nbsight.models.language_model import LanguageModel
from nbsight.remote.client import Client
from nbsight.remote.job import RemoteJob
from nbsight.wire.jobs import pack_job
from nbsight.wire.messages import frame
from tests.server.running import KEYS

PROMPT = "The capital of France is"
HEADERS = {"Authorization": f"Bearer {KEYS['bob']}"}


class Keep:
    """A backend that keeps the parcel."""

    def run(self, job):
        self.parcel = pack_job(job)
        return {}


@pytest.fixture(scope="module")
def parcel():
    keep, weight = Keep(), torch.arange(12.0).reshape(3, 4)
    model = LanguageModel("nbsight/demo")
    with model.trace(PROMPT, remote=keep):
        x = (model.transformer.h[1].output[0].sum() * weight).save()
    return keep.parcel


def post(running, data: bytes, **headers: str) -> requests.Response:
    return requests.post(f"{running.url}/v1/jobs", data=data, headers=HEADERS | headers, timeout=30)


def outcome(running, data: bytes) -> str:
    """What becomes of a message: a refusal's code, or the end of its job."""
    answer = post(running, data)
    if answer.status_code != 202:
        assert answer.status_code in (400, 404, 409), answer.text
        return answer.json()["error"]["code"]
    job = RemoteJob(running.client("bob"), answer.json()["id"]).wait(20, verbose=False)
    error = job.info().error
    return job.state if error is None else error.code


def works(running, parcel) -> bool:
    return outcome(running, frame(parcel.header, parcel.blob)) == "COMPLETED"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nbsight",
        b"GET / HTTP/1.1",
        b"nbsight1" + struct.pack("<Q", 2**63),
        b"nbsight1" + struct.pack("<Q", 10) + b"{}",
        b"nbsight1" + struct.pack("<Q", 2) + b"{}",
        b"nbsight1" + struct.pack("<Q", 4) + b"null",
        b"nbsight1" + struct.pack("<Q", 100_000) + b"[" * 100_000,
        b"nbsightz" + struct.pack("<Q", 4) + b"abcd",
        frame(b'{"protocol":99}', b""),
        b"\x80\x04\x95" + b"A" * 100,
    ],
)
def test_what_is_no_job_is_refused(running, data):
    answer = post(running, data)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "malformed"


def test_a_header_that_inflates_without_end_is_refused(running):
    import zlib

    bomb = zlib.compress(b" " * (65 * 2**20), 9)
    answer = post(running, b"nbsightz" + struct.pack("<Q", len(bomb)) + bomb)
    assert answer.status_code == 400
    assert "inflates to more" in answer.json()["error"]["message"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_message_with_changed_bytes_is_refused_or_fails_alone(running, parcel, data):
    whole = bytearray(frame(parcel.header, parcel.blob))
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4)):
        whole[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(whole))))
    assert outcome(running, bytes(whole[:cut])) in {
        "malformed", "unknown_model", "refused", "block_failed", "COMPLETED", "other_tree",
        "model_unavailable",
        "other_dtype", "memory_limit", "time_limit",
    }  # fmt: skip


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["$list", "$fn", "id", "$tensor", "$envoy"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    field=st.sampled_from(["captures", "args", "kwargs", "tensors", "spaces", "options", "edits", "program"]),
    value=_json,
)
def test_a_header_with_other_values_is_refused_or_fails_alone(running, parcel, field, value):
    header = json.loads(parcel.header)
    header[field] = value
    assert outcome(running, frame(json.dumps(header).encode(), parcel.blob)) in {
        "malformed", "refused", "block_failed", "COMPLETED",
    }  # fmt: skip


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(blob=st.binary(max_size=200))
def test_tensors_that_are_none_are_refused(running, parcel, blob):
    assert outcome(running, frame(parcel.header, blob)) == "refused"


def test_after_all_that_the_same_worker_still_works(running, parcel):
    assert works(running, parcel)


def test_an_unknown_model_is_named(running, parcel):
    header = json.loads(parcel.header)
    header["model"]["kind"] = "os:system"
    assert outcome(running, frame(json.dumps(header).encode(), parcel.blob)) == "refused"


@pytest.mark.parametrize(
    ("timeout", "status"), [("0", 400), ("-1", 400), ("nan", 400), ("x", 400), ("1e9", 202)]
)
def test_a_time_limit_that_is_none_is_refused(running, parcel, timeout, status):
    data = frame(parcel.header, parcel.blob)
    answer = requests.post(f"{running.url}/v1/jobs?timeout={timeout}", data=data, headers=HEADERS, timeout=30)
    assert answer.status_code == status


@pytest.mark.parametrize(
    "path", ["/v1/jobs/..%2f..%2fetc%2fpasswd", "/v1/jobs/%00", "/v1/models/../../x", "/nothing"]
)
def test_a_path_leads_nowhere_else(running, path):
    assert requests.get(running.url + path, headers=HEADERS, timeout=5).status_code in (404, 400)


def test_a_sender_who_stops_in_the_middle_leaves_nothing_behind(running, parcel):
    address = urlsplit(running.url)
    for _ in range(3):
        with socket.create_connection((address.hostname, address.port)) as line:
            head = (
                f"POST /v1/jobs HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {KEYS['bob']}\r\n"
            )
            line.sendall(head.encode() + b"Content-Length: 1000\r\n\r\nnbsight1")
    time.sleep(0.3)
    left = list((running.folder / "data" / "requests").glob("*.partial"))
    assert left == []
    assert works(running, parcel)


def test_readers_who_do_not_read_hold_up_nobody(running, parcel):
    address = urlsplit(running.url)
    done = RemoteJob(
        running.client("bob"), post(running, frame(parcel.header, parcel.blob)).json()["id"]
    ).wait()
    lines = []
    for path in ("events", "result") * 10:
        line = socket.create_connection((address.hostname, address.port))
        head = f"GET /v1/jobs/{done.id}/{path} HTTP/1.1\r\nHost: {address.netloc}\r\n"
        line.sendall(f"{head}Authorization: Bearer {KEYS['bob']}\r\n\r\n".encode())
        lines.append(line)
    began = time.monotonic()
    assert works(running, parcel)
    assert time.monotonic() - began < 5
    for line in lines:
        line.close()


def test_a_hundred_clients_at_once_all_get_their_own_result(running):
    model = LanguageModel("nbsight/demo")
    keeps = []
    for number in range(100):
        keep = Keep()
        with model.trace(PROMPT, remote=keep):
            x = number * torch.ones(3).save()
            y = x.save()
        keeps.append(keep.parcel)

    def one(number: int) -> float:
        client = Client(running.url, KEYS["ada" if number % 2 else "bob"])
        stream = client.submit(frame(*keeps[number][:2]))
        job = RemoteJob(client, next(stream).data["id"], None, stream)
        return float(job.result(60, verbose=False)["y"][0])

    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        assert list(pool.map(one, range(100))) == list(range(100))


def _memory_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        pytest.skip("memory of another process is read from /proc, which is Linux's")
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def test_a_large_result_passes_through_the_server_without_filling_it(ada, model):
    with model.trace(PROMPT, remote=True):
        x = 1
    before = _memory_of(ada.process.pid)
    with model.trace(PROMPT, remote=True):
        large = torch.ones(25_000_000).save()
    assert large.sum() == 25_000_000
    assert _memory_of(ada.process.pid) - before < 20 * 2**20


def test_a_large_job_passes_through_the_server_without_filling_it(ada, model):
    large = torch.ones(25_000_000)
    before = _memory_of(ada.process.pid)
    with model.trace(PROMPT, remote=True):
        total = large.sum().item()
    assert total == 25_000_000
    assert _memory_of(ada.process.pid) - before < 20 * 2**20


def test_a_download_that_breaks_off_goes_on_where_it_was(ada, model):
    with model.trace(PROMPT, remote=True, blocking=False) as job:
        large = torch.arange(2_000_000).save()
    job.wait()
    whole = ada.client().result(job.id)
    asked = []
    front = _breaking_proxy(ada.url, after=3_000_000, asked=asked)
    client = Client(front, KEYS["ada"])
    assert client.result(job.id) == whole
    assert len(asked) > 2
    assert any("bytes=" in head for head in asked[1:])


def _breaking_proxy(url: str, after: int, asked: list[str]) -> str:
    """A proxy that closes every connection after so many bytes of the answer."""
    address = urlsplit(url)
    front = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            line, _ = front.accept()
            with line, socket.create_connection((address.hostname, address.port)) as back:
                head = line.recv(65536)
                asked.append(head.decode())
                port = front.getsockname()[1]
                back.sendall(head.replace(b"127.0.0.1:%d" % port, address.netloc.encode()))
                left = after
                while left > 0 and (piece := back.recv(min(65536, left))):
                    line.sendall(piece)
                    left -= len(piece)

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{front.getsockname()[1]}"
