"""What goes wrong between a notebook and a server: a clear error for the sender, and nothing lost."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest
import torch

from nbsight import LanguageModel
from nbsight.errors import RemoteError
from nbsight.remote import addresses
from nbsight.remote import client as clients
from nbsight.remote.client import Client, Unreachable
from nbsight.wire.api import Limits, ModelInfo, ServerInfo
from tests.server.running import KEYS, RunningServer, server

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel("nbsight/demo")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory):
    monkeypatch.setenv("NBSIGHT_DATA_DIR", str(tmp_path_factory.mktemp("data")))
    monkeypatch.setattr(addresses, "_clients", {})
    monkeypatch.setattr(addresses, "_chosen", [])
    for name in ("NBSIGHT_HOST", "NBSIGHT_API_KEY", "NDIF_API_KEY", "NDIF_HOST"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[RunningServer]:
    with server(tmp_path_factory.mktemp("server")) as it:
        yield it


@pytest.fixture
def there(running: RunningServer, monkeypatch: pytest.MonkeyPatch) -> RunningServer:
    monkeypatch.setenv("NBSIGHT_HOST", running.url)
    monkeypatch.setenv("NBSIGHT_API_KEY", KEYS["ada"])
    return running


@contextlib.contextmanager
def saying(info: ServerInfo, hold: threading.Event | None = None) -> Iterator[str]:
    """A server that says this of itself, and takes no job; or one that holds its answer back."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if hold is not None:
                hold.wait(20)
            content = json.dumps(msgspec.to_builtins(info)).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}"
    finally:
        if hold is not None:
            hold.set()
        http.shutdown()
        http.server_close()


def info(**more) -> ServerInfo:
    given = {"api": 1, "protocols": [1], "loads": False, "models": [ModelInfo("nbsight/demo", "ready")]}
    given = {"tier": "local", "limits": Limits(), **given, **more}
    return ServerInfo("9.9", "3", "2", "5", **given)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"api": 99}, r"nbsight 9\.9\) speaks version 99 .*install the same nbsight on both sides"),
        ({"protocols": [7, 8]}, r"reads messages of protocol 7, 8 and this nbsight writes 1"),
        (
            {"models": [ModelInfo("gpt2", "ready")]},
            r'has no model "nbsight/demo"; it has "gpt2".*nbsight serve',
        ),
        ({"limits": Limits(request=10)}, r"the server takes 10\. Send less"),
    ],
)
def test_another_version_model_or_limit_is_said_before_anything_is_sent(model, more, message):
    with saying(info(**more)) as url, pytest.raises(RemoteError, match=message):
        with model.trace(PROMPT, remote=url):
            hidden = model.transformer.h[3].output[0].save()


def test_a_server_that_says_nothing_is_given_up(model, monkeypatch):
    monkeypatch.setattr(clients, "_TIMEOUTS", (1.0, 0.3))
    with (
        saying(info(), threading.Event()) as url,
        pytest.raises(Unreachable, match="does not answer") as caught,
    ):
        with model.trace(PROMPT, remote=url):
            hidden = model.transformer.h[3].output[0].save()
    assert caught.value.retryable


def test_a_connection_that_breaks_before_the_answer_makes_one_job(there, model, monkeypatch):
    before = len(there.client().jobs())
    send, broken = Client._send, []

    def breaking(self, method, path, **options):
        response = send(self, method, path, **options)
        if method == "POST" and not broken:
            broken.append(path)
            response.close()
            raise Unreachable("cut")
        return response

    monkeypatch.setattr(Client, "_send", breaking)
    with model.trace(PROMPT, remote=True):
        total = model.transformer.h[3].output[0].sum().item()
    assert broken
    assert isinstance(total, float)
    monkeypatch.undo()
    assert len(there.client().jobs()) == before + 1


def test_a_stream_of_news_that_breaks_is_taken_up_again(there, model, monkeypatch, capsys):
    events, cuts = clients._events, []

    def breaking(response, url):
        for event in events(response, url):
            yield event
            if len(cuts) < 4:
                cuts.append(event.kind)
                raise Unreachable("cut")

    monkeypatch.setattr(clients, "_events", breaking)
    with model.trace(PROMPT, remote=True):
        print("once")
        number = 7
        hidden = model.transformer.h[3].output[0].save()
    assert number == 7
    assert len(cuts) == 4
    assert capsys.readouterr().out == "once\n"
    assert hidden.shape == (1, 5, 64)


def test_a_server_that_stays_away_leaves_the_jobs_name(there, model, monkeypatch):
    from nbsight.remote import job as jobs

    with model.trace(PROMPT, remote=True, blocking=False) as job:
        hidden = model.transformer.h[3].output[0].save()
    job._drop_stream()
    monkeypatch.setattr(jobs, "_PATIENCE", 0.5)
    url, job.client.url = job.client.url, "http://127.0.0.1:9"
    with pytest.raises(Unreachable, match=rf"nbsight.jobs\['{job.id[:8]}'\]"):
        job.wait()
    job.client.url = url
    assert torch.is_tensor(job.result()["hidden"])
