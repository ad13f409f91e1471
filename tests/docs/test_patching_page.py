"""The examples of docs/patching.md run, one after the other."""

from __future__ import annotations

import linecache
import re
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "docs" / "patching.md").read_text(encoding="utf-8")


def test_the_examples_run_one_after_the_other(capsys):
    names: dict = {"__name__": "__main__"}
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 9
    for number, block in enumerate(blocks):
        filename = f"<patching {number}>"
        linecache.cache[filename] = (len(block), None, block.splitlines(True), filename)
        exec(compile(block, filename, "exec"), names)
    printed = capsys.readouterr().out
    assert "most recovered: resid_post of layer 11" in printed
    assert "Norms of 'The Eiffel Tower" in printed
