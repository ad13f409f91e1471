"""The examples of docs/coming-from-nnsight.md run, and the names on it exist."""

from __future__ import annotations

import linecache
import re
from pathlib import Path

import pytest

import nbsight

PAGE = Path(__file__).parent.parent.parent / "docs" / "coming-from-nnsight.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_examples_run_one_after_the_other():
    names: dict = {"__name__": "__main__"}
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 10
    for number, block in enumerate(blocks):
        filename = f"<coming-from-nnsight {number}>"
        linecache.cache[filename] = (len(block), None, block.splitlines(True), filename)
        exec(compile(block, filename, "exec"), names)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"nbsight\.([A-Za-z_]\w*)\(", TEXT))))
def test_a_name_on_the_page_is_public(name):
    assert name in nbsight.__all__
    assert callable(getattr(nbsight, name))


def test_the_table_has_every_section_of_the_surface():
    found = re.findall(r"^\| 2\.(\d+) ", TEXT, re.MULTILINE)
    assert [int(number) for number in found] == list(range(1, 22))


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)\)", TEXT))))
def test_a_link_leads_somewhere(link):
    assert link.startswith("https://") or (PAGE.parent / link).exists()
