"""What `remote="local"` does, a server does too: the same tests, with a server in its place."""

from __future__ import annotations

import pytest

from nbsight.core import backend
from nbsight.models.language_model import LanguageModel
from nbsight.remote.server import ServerBackend
from tests.remote.test_local import *  # noqa: F403 (its tests are to run here again)


@pytest.fixture
def model(local_model: LanguageModel) -> LanguageModel:
    """With weights, because most of these compare with hooks."""
    return local_model


@pytest.fixture(autouse=True)
def _server_in_place_of_local(ada, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backend._factories, "local", lambda: ServerBackend(True))


# What only a run in the same process can do.
test_a_wrapped_module_gets_literally_what_it_returns = None
# `blocking=False` and `job_id=` mean something here: tests/server/test_jobs.py
test_nnsights_options_of_remote_traces_are_accepted = None
