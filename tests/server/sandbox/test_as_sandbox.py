"""What `remote="local"` does, a server of the tier `sandbox` does too: the same tests, behind walls."""

from __future__ import annotations

import pytest

from nbsight.models.language_model import LanguageModel
from tests.remote.test_local import *  # noqa: F403 (its tests are to run here again)


@pytest.fixture
def model(local_model: LanguageModel) -> LanguageModel:
    """With weights, because most of these compare with hooks."""
    return local_model


@pytest.fixture(autouse=True)
def _server_in_place_of_local(in_sandbox) -> None: ...


# What only a run in the same process can do.
test_a_wrapped_module_gets_literally_what_it_returns = None
test_nnsights_options_of_remote_traces_are_accepted = None
