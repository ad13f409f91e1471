"""What all tests share: where screenshots go, and settings that make runs repeatable."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Nothing of the tests may reach for a hub, whatever the machine allows.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def artifacts() -> Path:
    """Where tests leave what a person may want to look at; git ignores it."""
    folder = Path(__file__).parent / "artifacts"
    folder.mkdir(exist_ok=True)
    return folder
