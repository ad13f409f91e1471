"""The examples of docs/attention.md run, and its table is what the check finds."""

from __future__ import annotations

import pytest
import transformers

from docs import names
from tests.docs.examples import run_examples


def test_the_examples_run_and_print_what_the_page_shows():
    printed = run_examples("attention.md")
    assert "Eager attention against sdpa" in printed


def test_the_table_is_what_the_check_finds_now():
    if int(transformers.__version__.split(".")[0]) < 5:
        pytest.skip("the page shows the paths of transformers 5")
    text = names.ATTENTION_PAGE.read_text(encoding="utf-8")
    wanted = names.replaced(text, names.table(names.INSIDE))
    assert wanted == text, "write the table again: python -m docs.names"
