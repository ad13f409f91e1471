"""Run the examples of a page, one after the other, and see that they print what the page shows."""

from __future__ import annotations

import contextlib
import io
import linecache
import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def run_examples(page: str) -> str:
    """Run every Python block; a text block must be in what the block before it printed.

    Args:
        page: Name of a file in `docs`.

    Returns:
        All that was printed.
    """
    values: dict = {"__name__": "__main__"}
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```(python|text)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert sum(kind == "python" for kind, _ in blocks) >= 3
    said = printed = ""
    for number, (kind, block) in enumerate(blocks):
        if kind == "text":
            assert block.strip() in said, f"{page} shows something else than its example prints:\n{said}"
            continue
        filename = f"<{page} {number}>"
        linecache.cache[filename] = (len(block), None, block.splitlines(True), filename)
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(block, filename, "exec", dont_inherit=True), values)
        said = out.getvalue() or said
        printed += out.getvalue()
    return printed
