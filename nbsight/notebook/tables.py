"""Lists that a magic prints: aligned text, and the same as a plain table where HTML is shown."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["Table"]


class Table:
    """Rows with a heading; shows itself as the last value of a cell or magic.

    Args:
        columns: The names of the columns.
        rows: The cells, as text.
        empty: What is said when there are no rows.
    """

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
        self.columns, self.rows, self.empty = list(columns), [list(row) for row in rows], empty

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        if not self.rows:
            return self.empty
        lines = [self.columns, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.columns))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )

    def _repr_html_(self) -> str:
        if not self.rows:
            return f"<p>{escape(self.empty)}</p>"
        head = "".join(f'<th style="text-align: left">{escape(name)}</th>' for name in self.columns)
        body = "".join(
            "<tr>" + "".join(f'<td style="text-align: left">{escape(cell)}</td>' for cell in row) + "</tr>"
            for row in self.rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
