"""The examples of docs/edits.md run, and its table is the one that is printed."""

from __future__ import annotations

import linecache
import re
import warnings
from pathlib import Path

from nbsight.errors import EditWarning

PAGE = Path(__file__).parent.parent.parent / "docs" / "edits.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_examples_run_one_after_the_other_and_print_what_the_page_shows(capsys):
    names: dict = {"__name__": "__main__"}
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 10
    with warnings.catch_warnings():
        warnings.simplefilter("error", EditWarning)
        for number, block in enumerate(blocks):
            filename = f"<edits {number}>"
            linecache.cache[filename] = (len(block), None, block.splitlines(True), filename)
            exec(compile(block, filename, "exec", dont_inherit=True), names)
    (shown,) = re.findall(r"^```text\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    assert _without_weights(capsys.readouterr().out) == _without_weights(shown)


def _without_weights(table: str) -> list[list[str]]:
    """The cells of a table but for the norm of a state, which another training would change."""
    rows = [re.split(r" {2,}", line) for line in table.splitlines()]
    return [row[:5] + row[6:] for row in rows]
