"""Copies of a view as text and files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["csv_text", "written"]

Content = TypeVar("Content", str, bytes)

FORMULA = ("=", "+", "-", "@", "\t", "\r")


def written(path: str | Path | None, content: Content) -> Content:
    """The content, which is written to a file where there is a path."""
    if path is not None:
        file = Path(path)
        if isinstance(content, str):
            file.write_text(content, encoding="utf-8")
        else:
            file.write_bytes(content)
    return content


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as comma-separated values.

    A text that a spreadsheet would run as a formula, as a token may be, gets an apostrophe before it.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_inert(value) for value in row] for row in rows)
    return buffer.getvalue()


def _inert(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
