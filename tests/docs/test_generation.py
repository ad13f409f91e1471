"""The examples of docs/generation.md run, and the list of steps that it shows is the real one."""

from __future__ import annotations

import linecache
import re
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "docs" / "generation.md").read_text(encoding="utf-8")


def test_the_examples_run_one_after_the_other(capsys):
    names: dict = {"__name__": "__main__"}
    blocks = re.findall(r"^```(python|text)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 10
    for number, (kind, block) in enumerate(blocks):
        if kind == "text":
            assert repr(names["tracer"].steps) == block.rstrip("\n")
            continue
        filename = f"<generation {number}>"
        linecache.cache[filename] = (len(block), None, block.splitlines(True), filename)
        exec(compile(block, filename, "exec"), names)
    assert capsys.readouterr().out.endswith(" Paris\n.\n")
