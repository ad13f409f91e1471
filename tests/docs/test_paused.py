"""The examples of docs/paused.md run, and it shows what they print."""

from __future__ import annotations

import linecache
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "paused.md"


def test_the_examples_run_one_after_the_other_and_print_what_is_shown(capsys):
    text = PAGE.read_text(encoding="utf-8")
    names: dict = {"__name__": "__main__"}
    printed = []
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)):
        filename = f"<paused {number}>"
        linecache.cache[filename] = (len(block), None, block.splitlines(True), filename)
        exec(compile(block, filename, "exec"), names)
        printed.append(capsys.readouterr().out)
    shown = re.search(r"^```text\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[1]
    assert printed[1] == shown
    assert "this run has passed `transformer.h.1.output`" in printed[2]
    edits = "".join(printed).splitlines()[-3:]
    assert [line.split()[:2] for line in edits] == [
        ["transformer.h.3.output", "in"],
        ["transformer.h.4.mlp.output", "assigned"],
        ["transformer.h.5.attn.output", "skipped"],
    ]
    assert edits[0].endswith("1: run.here.value[0][:, -1] *= 0.5")
