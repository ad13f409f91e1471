"""What the tests of `nbsight.models` share."""

from __future__ import annotations

import pytest

from nbsight.models.language_model import LanguageModel


@pytest.fixture(scope="session")
def demo() -> LanguageModel:
    """The shipped model."""
    return LanguageModel("nbsight/demo", dispatch=True)
