"""The examples of docs/widgets.md run, one after the other, and its pictures are there."""

from __future__ import annotations

import linecache
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "widgets.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_examples_run_one_after_the_other_and_print_what_is_written(capsys):
    names: dict = {"__name__": "__main__"}
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 9
    for number, block in enumerate(blocks):
        filename = f"<widgets {number}>"
        linecache.cache[filename] = (len(block), None, block.splitlines(True), filename)
        exec(compile(block, filename, "exec"), names)
    printed = capsys.readouterr().out
    for written in re.findall(r"^```text\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE):
        assert written in printed
    assert 'sites=["mlp_out"]' in printed
    assert 'direction="noise"' in printed


def test_its_pictures_are_there():
    found = re.findall(r"\]\((images/[^)]+)\)", TEXT)
    assert len(found) == 7
    for name in found:
        assert (PAGE.parent / name).stat().st_size < 120_000, f"{name} is large for a page"
