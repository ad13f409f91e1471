"""docs/names.md: its examples run, it shows what they print, and its table is what the check finds."""

from __future__ import annotations

import pytest
import transformers

from docs import names
from tests.docs.examples import run_examples

TEXT = names.PAGE.read_text(encoding="utf-8")


def test_the_examples_run_and_print_what_the_page_shows():
    run_examples("names.md")


def test_the_table_is_what_the_check_finds_now():
    if int(transformers.__version__.split(".")[0]) < 5:
        pytest.skip("the page shows the paths of transformers 5")
    assert names.replaced(TEXT, names.table()) == TEXT, "write the table again: python -m docs.names"
