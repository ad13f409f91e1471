"""The examples of docs/any-module.md run."""

from __future__ import annotations

import linecache
import re
from pathlib import Path

import torch

TEXT = (Path(__file__).parents[2] / "docs" / "any-module.md").read_text(encoding="utf-8")


def test_the_examples_run_one_after_the_other():
    # A pickle looks classes up in their module.
    import __main__

    before = dict(vars(__main__))
    names = vars(__main__)
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 5
    try:
        for number, block in enumerate(blocks):
            filename = f"<any-module {number}>"
            linecache.cache[filename] = (len(block), None, block.splitlines(True), filename)
            exec(compile(block, filename, "exec"), names)
    finally:
        for name in set(names) - set(before):
            del names[name]
        names.update(before)
        torch._dynamo.reset()
