"""One server for most of these tests; those that kill one start their own."""

from __future__ import annotations

import pytest
import torch

from nbsight.models.language_model import LanguageModel
from nbsight.remote import addresses
from tests.server.running import KEYS, RunningServer, server

# As the servers here: with another number of threads sums are added up in another order.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory):
    """A server with the shipped model, for jobs of at most twenty seconds."""
    with server(
        tmp_path_factory.mktemp("server"), "--timeout", "20", "--memory", "2", "--max-result", "0.2"
    ) as it:
        yield it


@pytest.fixture(scope="session")
def local_model() -> LanguageModel:
    """The shipped model, loaded here too."""
    return LanguageModel("nbsight/demo", dispatch=True)


@pytest.fixture
def model() -> LanguageModel:
    """The shipped model without its weights, as who sends blocks has it."""
    return LanguageModel("nbsight/demo")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory):
    """No server, key or login of whoever runs the tests."""
    monkeypatch.setenv("NBSIGHT_DATA_DIR", str(tmp_path_factory.mktemp("nbsight")))
    for name in ("NBSIGHT_HOST", "NBSIGHT_API_KEY", "NDIF_HOST", "NDIF_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(addresses, "_clients", {})
    monkeypatch.setattr(addresses, "_chosen", [])


@pytest.fixture
def ada(running: RunningServer, monkeypatch: pytest.MonkeyPatch) -> RunningServer:
    """The server, as `remote=True` finds it for its owner ada."""
    monkeypatch.setenv("NBSIGHT_HOST", running.url)
    monkeypatch.setenv("NBSIGHT_API_KEY", KEYS["ada"])
    return running


@pytest.fixture(scope="session")
def program_server(tmp_path_factory: pytest.TempPathFactory):
    """A server that interprets blocks, for jobs of at most five seconds."""
    options = ("--tier", "program", "--timeout", "5", "--memory", "2")
    with server(tmp_path_factory.mktemp("program"), *options) as it:
        yield it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Try a test of a real Ray again before it counts: its own processes may start late on a busy machine."""
    for item in items:
        if item.path.name == "test_engines.py" and "[ray" in item.name:
            item.add_marker(pytest.mark.flaky(reruns=2))
