"""What the compatibility programs share: models, and the plain hooks that they are compared with."""

from __future__ import annotations

import pytest
import torch

import nbsight as nnsight
from tests.compat import models


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tiny models are slower on several."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model():
    """A language model with a tokenizer, tuple or tensor blocks answering alike."""
    return nnsight.LanguageModel("nbsight/demo", dispatch=True)


@pytest.fixture
def chain():
    """A literal wrapper of a small torch model, fresh for each test."""
    return nnsight.NNsight(models.chain())
