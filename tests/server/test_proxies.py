"""A server behind a path: through a real jupyter-server-proxy, which takes its path off or leaves it."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec

import pytest
import torch

from nbsight.errors import RemoteError
from nbsight.models.language_model import LanguageModel
from nbsight.remote.client import Client
from nbsight.server.access import wrong_origin
from nbsight.server.settings import RefusedToStart, Settings
from tests.server.running import KEYS, server

PROMPT = "The capital of France is"


def free_port() -> int:
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory):
    """A Jupyter server under a path, as JupyterHub starts it; yields its address."""
    if find_spec("jupyter_server_proxy") is None:
        pytest.skip("jupyter-server-proxy is not installed")
    port, folder = free_port(), tmp_path_factory.mktemp("jupyter")
    command = [sys.executable, "-m", "jupyter", "server", f"--port={port}", "--ServerApp.port_retries=0"]
    command += ["--ip=127.0.0.1", "--no-browser", "--allow-root", "--ServerApp.base_url=/user/ada/"]
    # No token: it would travel in the header in which the server's own key travels.
    command += ["--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/user/ada"
    until = time.monotonic() + 60
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/api", timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < until, "Jupyter does not start"
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def behind(jupyter, tmp_path_factory):
    """A server that knows the path under which the proxy reaches it."""
    port = free_port()
    public = f"{jupyter}/proxy/absolute/{port}"
    # The last `--port` counts.
    with server(tmp_path_factory.mktemp("behind"), "--port", str(port), "--public-url", public) as running:
        yield running


@pytest.mark.parametrize("way", ["/proxy", "/proxy/absolute"])
def test_a_block_runs_through_the_proxy(jupyter, behind, model, local_model, monkeypatch, way, capsys):
    address = f"{jupyter}{way}/{behind.port}"
    monkeypatch.setenv("NBSIGHT_API_KEY", KEYS["ada"])
    monkeypatch.setenv("NBSIGHT_HOST", address)
    sent = torch.randn(3, 2**20)
    with model.trace(PROMPT, remote=True):
        print("printed there")
        hidden = model.transformer.h[3].output[0].save()
        back = (sent * 2).save()  # twelve megabytes: not inline, so it is fetched
    with local_model.trace(PROMPT):
        expected = local_model.transformer.h[3].output[0].save()
    assert torch.equal(hidden, expected)
    assert torch.equal(back, sent * 2)
    assert "printed there" in capsys.readouterr().out


@pytest.mark.parametrize("way", ["/proxy", "/proxy/absolute"])
def test_events_come_through_the_proxy_while_the_job_runs(jupyter, behind, model, monkeypatch, way):
    monkeypatch.setenv("NBSIGHT_API_KEY", KEYS["ada"])
    job = talking_job(model, f"{jupyter}{way}/{behind.port}")
    came = [
        (event.data["text"], job.info().state) for event in job.client.events(job.id) if event.kind == "log"
    ]
    assert came[0] == ("one\n", "RUNNING")
    assert job.wait(30).state == "COMPLETED"


def talking_job(model: LanguageModel, address: str):
    with model.trace(PROMPT, remote=address, blocking=False) as job:
        import time

        print("one")
        time.sleep(2)
        print("two")
    return job


def test_the_key_is_asked_for_behind_the_proxy_too(jupyter, behind):
    for way in ("/proxy", "/proxy/absolute"):
        with pytest.raises(RemoteError, match="does not know this key"):
            Client(f"{jupyter}{way}/{behind.port}", "key-of-nobody-012345").whoami()


@pytest.mark.parametrize(
    ("headers", "fine"),
    [
        ({"host": "gpu.example.org"}, True),
        ({"host": "gpu.example.org", "origin": "https://gpu.example.org"}, True),
        ({"host": "127.0.0.1:8765", "origin": "https://gpu.example.org"}, True),
        ({"host": "127.0.0.1:8765"}, True),
        ({"host": "gpu.example.org:81"}, False),
        ({"host": "evil.example"}, False),
        ({"host": "gpu.example.org", "origin": "https://evil.example"}, False),
    ],
)
def test_the_proxys_name_is_answered_and_no_other(headers, fine):
    assert (wrong_origin(headers, "127.0.0.1", "https://gpu.example.org/nbsight") is None) == fine


def test_full_python_is_not_put_behind_a_proxy_for_others(tmp_path):
    with pytest.raises(RefusedToStart, match="an address for others"):
        Settings(("m",), tmp_path, public_url="https://gpu.example.org").check()
    with pytest.raises(RefusedToStart, match="no address"):
        Settings(("m",), tmp_path, public_url="gpu.example.org").check()
    Settings(("m",), tmp_path, public_url="http://127.0.0.1:8888/user/ada/proxy/8765").check()
    Settings(("m",), tmp_path, tier="program", public_url="https://gpu.example.org").check()
