"""A server of the tier `sandbox`; where the machine cannot keep it, these tests say why and are skipped."""

from __future__ import annotations

import pytest

from nbsight.core import backend
from nbsight.remote.server import ServerBackend
from nbsight.server.sandbox import missing
from tests.server.running import KEYS, RunningServer, server


@pytest.fixture(scope="session")
def walls() -> None:
    """What the tier stands on."""
    gone = missing()
    if gone:
        why = "; ".join(f"{mechanism.name}: {mechanism.why}" for mechanism in gone)
        print(f"the sandbox is not tested here: {why}")
        pytest.skip(f"this machine has no sandbox: {why}")


@pytest.fixture(scope="session")
def sandbox_server(walls: None, tmp_path_factory: pytest.TempPathFactory):
    """A server that runs blocks behind walls, for jobs of at most ten seconds; it has a secret."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("NBSIGHT_TEST_SECRET", "a-secret-of-the-server")
    options = ("--tier", "sandbox", "--timeout", "10", "--memory", "2", "--max-result", "0.2")
    with server(tmp_path_factory.mktemp("sandbox"), *options) as it:
        monkeypatch.undo()
        yield it


@pytest.fixture
def in_sandbox(sandbox_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> RunningServer:
    """It stands in the place of `remote="local"` and is what `remote=True` finds."""
    monkeypatch.setenv("NBSIGHT_HOST", sandbox_server.url)
    monkeypatch.setenv("NBSIGHT_API_KEY", KEYS["ada"])
    monkeypatch.setitem(backend._factories, "local", lambda: ServerBackend(True))
    return sandbox_server
