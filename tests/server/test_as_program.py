"""What `remote="local"` does, a server of the `program` tier does too, as far as a program goes."""

from __future__ import annotations

import pytest

from nbsight.core import backend
from nbsight.models.language_model import LanguageModel
from nbsight.remote.server import ServerBackend
from tests.remote.test_local import *  # noqa: F403 (its tests are to run here again)
from tests.server.running import KEYS


@pytest.fixture
def model(local_model: LanguageModel) -> LanguageModel:
    """With weights, because most of these compare with hooks."""
    return local_model


@pytest.fixture(autouse=True)
def _server_in_place_of_local(program_server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBSIGHT_HOST", program_server.url)
    monkeypatch.setenv("NBSIGHT_API_KEY", KEYS["ada"])
    monkeypatch.setitem(backend._factories, "local", lambda: ServerBackend(True))


# What a program is not: weights, numpy, `sys`, a generator that waits; and a run in the same process.
test_a_wrapped_module_gets_literally_what_it_returns = None
test_names_come_back_as_python_knows_them = None
test_nothing_is_shared_with_the_run = None
test_a_value_that_does_not_travel_says_so_only_when_it_is_used = None
test_containers_that_are_filled_in_the_block_are_filled_here = None
test_nnsights_options_of_remote_traces_are_accepted = None
test_an_error_in_the_block_is_the_same_error_on_the_users_line = None
test_a_read_out_of_order_is_told_on_the_users_line = None
test_the_weights_are_loaded_when_a_block_needs_them = None
