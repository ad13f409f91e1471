"""docs/names.md: its examples run, it shows what they print, and its table is what the check finds."""

from __future__ import annotations

import contextlib
import io
import linecache
import re

import pytest
import transformers

from docs import names

TEXT = names.PAGE.read_text(encoding="utf-8")


def test_the_examples_run_and_print_what_the_page_shows():
    values: dict = {"__name__": "__main__"}
    blocks = re.findall(r"^```(python|text)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 10
    said = ""
    for number, (kind, block) in enumerate(blocks):
        if kind == "text":
            assert block.strip() in said
            continue
        filename = f"<names {number}>"
        linecache.cache[filename] = (len(block), None, block.splitlines(True), filename)
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(block, filename, "exec"), values)
        said = out.getvalue() or said


def test_the_table_is_what_the_check_finds_now():
    if int(transformers.__version__.split(".")[0]) < 5:
        pytest.skip("the page shows the paths of transformers 5")
    assert names.replaced(TEXT, names.table()) == TEXT, "write the table again: python -m docs.names"
