"""Which positions of two prompts correspond, as a value."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nbsight.display import html
from nbsight.display.text import visible
from nbsight.errors import InputError
from nbsight.results.tokens import Tokens

if TYPE_CHECKING:
    import pandas

__all__ = ["Alignment", "align"]


SHOWN = 60
"""Pairs on show."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """Pairs of positions of two prompts.

    Args:
        first: The tokens of one prompt.
        second: The tokens of the other.
        pairs: Positions that correspond, in order.
        how: What they were found by: "equal", "span" or "diff".
    """

    first: Tokens
    second: Tokens
    pairs: tuple[tuple[int, int], ...]
    how: str

    @property
    def differing(self) -> tuple[tuple[int, int], ...]:
        """The pairs whose tokens are not the same."""
        return tuple(pair for pair in self.pairs if self.first.ids[pair[0]] != self.second.ids[pair[1]])

    @property
    def only_first(self) -> tuple[int, ...]:
        """Positions of the first prompt that have no partner."""
        paired = {one for one, _ in self.pairs}
        return tuple(place for place in range(len(self.first)) if place not in paired)

    @property
    def only_second(self) -> tuple[int, ...]:
        """Positions of the second prompt that have no partner."""
        paired = {other for _, other in self.pairs}
        return tuple(place for place in range(len(self.second)) if place not in paired)

    @property
    def index(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The pairs as two arrays: `first[:, i]` and `second[:, j]` line up for `i, j = alignment.index`."""
        table = np.array(self.pairs, np.int64).reshape(-1, 2)
        return table[:, 0], table[:, 1]

    def partner(self, position: int) -> int | None:
        """The position of the second prompt that corresponds to one of the first; None if there is none."""
        place = self.first.position(position)
        return next((other for one, other in self.pairs if one == place), None)

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.pairs)

    def to_dataframe(self) -> pandas.DataFrame:
        """One row for each pair: positions, tokens, and whether they are the same (needs pandas)."""
        import pandas

        first, second = self.index
        return pandas.DataFrame(
            {
                "first": first,
                "first_token": [self.first.strings[place] for place in first],
                "second": second,
                "second_token": [self.second.strings[place] for place in second],
                "same": self.first.ids[first] == self.second.ids[second],
            }
        )

    def __repr__(self) -> str:
        width = max((len(visible(text)) for text in self.first.strings), default=0)
        lines = [
            f"{one:>3} {left:<{width}}  {mark}  {other:>3} {right}".rstrip()
            for one, left, mark, other, right in self._rows()[:SHOWN]
        ]
        return "\n".join([self._head, *lines, *self._left_out()])

    def _repr_html_(self) -> str:
        rows = self._rows()[:SHOWN]
        # Only what differs has a colour.
        shades = np.array([[0.0, 1.0 if mark == "≠" else 0.0, 0.0, 0.0] for _, _, mark, _, _ in rows])
        grid = html.table((), rows, left=(1, 4), shades=shades)
        return html.document(html.heading(self._head), grid, html.lines(self._left_out()))

    @property
    def _head(self) -> str:
        missing = len(self.only_first) + len(self.only_second)
        head = f"{len(self)} pairs of positions ({self.how}), {len(self.differing)} differ"
        return head + (f", {missing} positions have no partner" if missing else "")

    def _left_out(self) -> list[str]:
        more = len(self._rows()) - SHOWN
        return [f"… and {more} more"] if more > 0 else []

    def _rows(self) -> list[tuple[str, str, str, str, str]]:
        """What is on show, a line each: position and token here, a mark, position and token there."""
        differing = set(self.differing)
        partners = dict(self.pairs)
        lone = list(self.only_second)
        rows: list[tuple[int | None, int | None]] = []
        for place in range(len(self.first)):
            other = partners.get(place)
            while other is not None and lone and lone[0] < other:
                rows.append((None, lone.pop(0)))
            rows.append((place, other))
        rows += [(None, place) for place in lone]
        return [
            (
                *_place(self.first, one),
                "≠" if (one, other) in differing else "=" if None not in (one, other) else " ",
                *_place(self.second, other),
            )
            for one, other in rows
        ]


def _place(tokens: Tokens, position: int | None) -> tuple[str, str]:
    return ("", "") if position is None else (str(position), visible(tokens.strings[position]))


def align(
    first: Tokens,
    second: Tokens,
    *,
    how: str = "equal",
    spans: Mapping[str, str] | Sequence[tuple[str, str]] | None = None,
) -> Alignment:
    """Say which positions of two prompts correspond.

    Args:
        first: The tokens of one prompt, `model.tokens(prompt)`.
        second: The tokens of the other.
        how: "equal": one by one, for prompts of one length. "diff": by what their ids have in common; a
            replaced stretch is paired if it is as long on both sides, else it has no partners.
        spans: Pairs of strings that stand for each other, `{"Eiffel Tower": "Colosseum"}`. Around them the
            prompts must have as many tokens; within them the last tokens correspond.

    Raises:
        InputError: the prompts do not line up in this way.
    """
    if not (isinstance(first, Tokens) and isinstance(second, Tokens)):
        raise InputError(
            "align takes the tokens of two prompts: `nbsight.align(model.tokens(clean), "
            "model.tokens(corrupted))`."
        )
    if spans is not None:
        listed = list(spans.items()) if isinstance(spans, Mapping) else list(spans)
        return Alignment(first, second, _by_spans(first, second, listed), "span")
    if how == "diff":
        return Alignment(first, second, _by_difference(first, second), how)
    if how != "equal":
        raise InputError(f'`how` is "equal" or "diff", not {how!r}; for strings give `spans={{a: b}}`.')
    if len(first) != len(second):
        raise InputError(
            f"these prompts have {len(first)} and {len(second)} tokens, so they do not line up one by one:\n"
            f"{_both(first, second)}\n"
            'Say what corresponds, `spans={"Eiffel Tower": "Colosseum"}`, let `how="diff"` find what they '
            "have in common, or choose words with as many tokens."
        )
    return Alignment(first, second, tuple((place, place) for place in range(len(first))), how)


def _both(first: Tokens, second: Tokens) -> str:
    return "\n".join(
        f"  {len(one):>3}: {' '.join(visible(text) for text in one.strings[:40])}" for one in (first, second)
    )


def _by_difference(first: Tokens, second: Tokens) -> tuple[tuple[int, int], ...]:
    matcher = difflib.SequenceMatcher(None, first.ids.tolist(), second.ids.tolist(), autojunk=False)
    pairs: list[tuple[int, int]] = []
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal" or (kind == "replace" and b - a == d - c):
            pairs += zip(range(a, b), range(c, d), strict=True)
    if not pairs:
        raise InputError(f"these prompts have no token in common:\n{_both(first, second)}")
    return tuple(pairs)


def _by_spans(first: Tokens, second: Tokens, spans: Sequence[tuple[str, str]]) -> tuple[tuple[int, int], ...]:
    found = sorted(
        ((first.span(one), second.span(other), one, other) for one, other in spans),
        key=lambda entry: entry[0].start,
    )
    pairs: list[tuple[int, int]] = []
    at = 0, 0
    for one, other, text, its in [*found, (slice(len(first), None), slice(len(second), None), "", "")]:
        before = one.start - at[0], other.start - at[1]
        if before[0] != before[1] or min(before) < 0:
            where = f"before {text!r} and {its!r}" if text else "after the last of them"
            raise InputError(
                f"around the spans the prompts must have as many tokens, and {where} there are {before[0]} "
                f'and {before[1]}:\n{_both(first, second)}\nGive more spans, or use `how="diff"`.'
            )
        pairs += zip(range(at[0], one.start), range(at[1], other.start), strict=True)
        if not text:
            break
        common = min(one.stop - one.start, other.stop - other.start)
        pairs += zip(range(one.stop - common, one.stop), range(other.stop - common, other.stop), strict=True)
        at = one.stop, other.stop
    return tuple(pairs)
