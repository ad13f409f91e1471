"""Texts from wherever they are: lists, iterators, rows of a data set, files; never all at once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nbsight.errors import InputError

__all__ = ["Text", "TextHash", "count_of", "read_texts"]

#: A text, or the ids of its tokens.
Text = str | list[int]


def read_texts(texts: Any, field: str = "text") -> Iterator[Text]:
    """The texts one by one, in their order.

    Args:
        texts: Texts, lists of token ids, or rows with a text in them; anything that can be gone through. A
            `Path`, or several: of a `.jsonl` file every line is a row, of others a text.
        field: Where the text stands in a row.

    Raises:
        InputError: something is no text; the message says which.
    """
    if isinstance(texts, str):
        raise InputError(
            f"a single text was given, {texts[:40]!r}. Write a list of texts, or for a file "
            "`pathlib.Path(...)`."
        )
    if isinstance(texts, os.PathLike):
        texts = [texts]
    if isinstance(texts, Mapping) or not isinstance(texts, Iterable):
        raise InputError(
            f"texts are something to go through, such as a list; a {type(texts).__name__} was given."
        )
    number = 0
    for item in texts:
        for each in _lines(Path(item)) if isinstance(item, os.PathLike) else (item,):
            yield _text(each, field, number)
            number += 1


def _lines(path: Path) -> Iterator[Any]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield json.loads(line) if path.suffix == ".jsonl" else line.rstrip("\r\n")
                except json.JSONDecodeError as error:
                    raise InputError(f"line {number} of {path} is no JSON: {error}.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text: {error}.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None


def _text(item: Any, field: str, number: int) -> Text:
    if isinstance(item, Mapping):
        if field not in item:
            raise InputError(
                f"row {number} has no {field!r}; it has {', '.join(map(repr, item))}. Say which is the text: "
                "`field=...`."
            )
        item = item[field]
    if isinstance(item, str):
        return item
    ids = item.tolist() if hasattr(item, "tolist") else item
    if isinstance(ids, (list, tuple)) and all(type(one) is int for one in ids):
        return list(ids)
    raise InputError(
        f"text {number} is a {type(item).__name__}; a text is a string, a list of token ids, or a row with "
        f"one under {field!r}."
    )


def count_of(texts: Any) -> int | None:
    """How many texts there are, where that is known beforehand."""
    if isinstance(texts, os.PathLike) or not hasattr(texts, "__len__"):
        return None
    if isinstance(texts, (list, tuple)) and any(isinstance(one, os.PathLike) for one in texts):
        return None
    return len(texts)


class TextHash:
    """The hash of texts in their order, with which a later run sees that they are the same."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, text: Text) -> None:
        """One more text."""
        raw = json.dumps(text, ensure_ascii=True).encode()
        self._hash.update(len(raw).to_bytes(8, "little") + raw)

    @property
    def value(self) -> str:
        """Of all so far."""
        return self._hash.hexdigest()
