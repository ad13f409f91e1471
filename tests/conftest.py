"""What all tests share: where screenshots go, and settings that make runs repeatable."""

from __future__ import annotations

import atexit
import gc
import os
import sys
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


def pytest_unconfigure() -> None:
    """Let the shells of tests go without a word.

    At the end of the process each one collects all garbage, which takes seconds after thousands of tests.
    """
    module = sys.modules.get("IPython.core.interactiveshell")
    if module is not None:
        for shell in (one for one in gc.get_objects() if issubclass(type(one), module.InteractiveShell)):
            atexit.unregister(shell.atexit_operations)
