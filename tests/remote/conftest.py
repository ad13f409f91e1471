"""What the tests of remote blocks share."""

from __future__ import annotations

import pytest

from nbsight.models.language_model import LanguageModel


@pytest.fixture(scope="session")
def model() -> LanguageModel:
    """The shipped model."""
    return LanguageModel("nbsight/demo", dispatch=True)
