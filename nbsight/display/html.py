"""Results as HTML for a notebook: tables that take the page's own colours, so light and dark both work.

Every text is escaped here and nowhere else. What a result says in HTML it says in its text repr, too.
"""

from __future__ import annotations

import html
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["document", "heading", "lines", "preformatted", "table"]

#: Translucent, so that a page's own ink stays readable on them: the two arms of the pictures' scale.
ABOVE, BELOW = "50, 143, 168", "221, 139, 63"
_STRONGEST = 0.55

STYLE = (
    ".nbsight-result{overflow-x:auto;font-size:13px;line-height:1.45}"
    ".nbsight-result .head{font-weight:600;margin:2px 0 6px}"
    ".nbsight-result .note{margin:2px 0}"
    ".nbsight-result pre{margin:0;background:none;color:inherit;font-size:12px}"
    ".nbsight-result table{border-collapse:collapse;margin:0 0 6px;color:inherit;font-size:inherit;"
    "font-variant-numeric:tabular-nums}"
    ".nbsight-result th,.nbsight-result td{padding:2px 8px;text-align:right;background:none;"
    "border:0;border-bottom:1px solid rgba(128,128,128,.22);white-space:pre}"
    ".nbsight-result table tr .left{text-align:left}"
    ".nbsight-result th{font-weight:600;opacity:.75}"
)


def document(*parts: str, title: str = "") -> str:
    """One result.

    Args:
        parts: What `heading`, `table`, `lines` and `preformatted` gave.
        title: Shown when the pointer rests on it, as text.
    """
    hint = f' title="{html.escape(title, quote=True)}"' if title else ""
    return f'<div class="nbsight-result"{hint}><style>{STYLE}</style>{"".join(parts)}</div>'


def heading(text: str) -> str:
    """What the result is."""
    return f'<div class="head">{html.escape(text)}</div>'


def lines(texts: Sequence[str]) -> str:
    """Sentences, one below the other."""
    return "".join(f'<div class="note">{html.escape(text)}</div>' for text in texts)


def preformatted(text: str) -> str:
    """Text in which blanks and line ends count."""
    return f"<pre>{html.escape(text)}</pre>"


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: Collection[int] = (),
    shades: NDArray[np.floating[Any]] | None = None,
) -> str:
    """A table of texts.

    Args:
        header: Above each column; empty for none.
        rows: The cells; the first of each row is its label.
        left: Columns whose texts begin at the left; numbers end at the right.
        shades: For every cell but the first of a row a number in [−1, 1] for its colour; NaN for none.
    """
    said = "".join(f"<th{_side(at, left)}>{html.escape(text)}</th>" for at, text in enumerate(header))
    body = []
    for number, row in enumerate(rows):
        cells = [f"<th{_side(0, left)}>{html.escape(row[0])}</th>"]
        for at, text in enumerate(row[1:], 1):
            colour = "" if shades is None else _colour(float(shades[number, at - 1]))
            cells.append(f"<td{_side(at, left)}{colour}>{html.escape(text)}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    head = f"<thead><tr>{said}</tr></thead>" if header else ""
    return f"<table>{head}<tbody>{''.join(body)}</tbody></table>"


def _side(column: int, left: Collection[int]) -> str:
    return ' class="left"' if column in left else ""


def _colour(shade: float) -> str:
    if not np.isfinite(shade) or abs(shade) < 0.005:
        return ""
    strength = _STRONGEST * min(abs(shade), 1.0)
    return f' style="background:rgba({ABOVE if shade > 0 else BELOW}, {strength:.2f})"'
