"""Numbers by position: how likely each token was, how sure the model is, how far two predictions differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nbsight.display import html
from nbsight.display.text import shorten, visible
from nbsight.results.base import Result, coordinate, variable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Divergence", "Entropy", "LogProbs", "ScoreBatch"]

SHOWN = 60
"""Positions in a table, and prompts in a list."""


@dataclass(frozen=True, eq=False, repr=False)
class _Scores(Result):
    """One number a position of one prompt; the kinds of it say which.

    Args:
        prompt: The text.
        tokens: Its tokens as text.
        ids: Their ids.
        values: The numbers in nats, float32; NaN where there is none.
        model: The name under which the model was loaded.
    """

    #: What a number is, for a head and an axis.
    what: ClassVar[str] = ""

    prompt: str
    tokens: Sequence[str] = coordinate("position", name="token")
    ids: NDArray[np.int64] = variable("position", name="id")
    values: NDArray[np.float32] = variable("position", name="value", unit="nats")
    model: str = ""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def mean(self) -> float:
        """The mean over the positions that have a number; NaN if none has."""
        known = self.values[~np.isnan(self.values)]
        return float(known.astype(np.float64).mean()) if len(known) else float("nan")

    def plot(self) -> Figure:
        """A matplotlib figure: the numbers along the tokens."""
        from nbsight.display.lines import lines_figure

        return lines_figure(
            [(self.what, self.values, self.values, self.values)],
            places=[visible(token) for token in self.tokens],
            title=f"{self.what[:1].upper()}{self.what[1:]} · {self.model}".rstrip(" ·"),
            x_title="token",
            y_title=f"{self.what} in nats",
        )

    def __repr__(self) -> str:
        cells = [["", "token", "nats"], *self._cells()]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            f"{at:>{widths[0]}}  {token:<{widths[1]}}  {value:>{widths[2]}}" for at, token, value in cells
        ]
        return "\n".join([self._head, *lines, *self._said()])

    def _html(self) -> Sequence[str]:
        grid = html.table(("", "token", "nats"), self._cells(), left=(1,))
        return html.heading(self._head), grid, html.lines(self._said())

    @property
    def _head(self) -> str:
        by = f" by {self.model}" if self.model else ""
        return f"{self.what[:1].upper()}{self.what[1:]} of {shorten(repr(self.prompt), 60)}{by}, in nats"

    def _cells(self) -> list[list[str]]:
        pairs = zip(self.tokens[:SHOWN], self.values, strict=False)
        return [
            [str(at), visible(token), "–" if np.isnan(value) else f"{value:.3f}"]
            for at, (token, value) in enumerate(pairs)
        ]

    def _said(self) -> list[str]:
        more = [f"… and {len(self) - SHOWN} more positions"] if len(self) > SHOWN else []
        return [*more, f"mean {self.mean:.3f}"]


@dataclass(frozen=True, eq=False, repr=False)
class LogProbs(_Scores):
    """The log-probability of each token of a prompt given all before it; the first has none."""

    title = "token log-probabilities"
    what = "log-probability of each token given those before it"

    @property
    def total(self) -> float:
        """The log-probability of the whole text after its first token, in nats."""
        return float(np.nansum(self.values.astype(np.float64)))

    @property
    def perplexity(self) -> float:
        """The exponential of the mean negative log-probability; NaN for a single token."""
        return float(np.exp(-self.mean))

    def _said(self) -> list[str]:
        *more, mean = super()._said()
        return [*more, f"{mean}, perplexity {self.perplexity:.4g}"]


@dataclass(frozen=True, eq=False, repr=False)
class Entropy(_Scores):
    """The entropy of the next-token distribution at each position."""

    title = "next-token entropy"
    what = "entropy of the next-token distribution"


@dataclass(frozen=True, eq=False, repr=False)
class Divergence(_Scores):
    """KL(reference ‖ prediction) of the next-token distributions at each position."""

    title = "next-token divergence"
    what = "KL(reference ‖ prediction) of the next-token distributions"


class ScoreBatch(Sequence[Any]):
    """The same of several prompts, in their order.

    Args:
        each: One result a prompt.
    """

    def __init__(self, each: Sequence[Any]) -> None:
        self._each = tuple(each)

    def __len__(self) -> int:
        return len(self._each)

    def __getitem__(self, row: Any) -> Any:
        return self._each[row]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._each)

    def __repr__(self) -> str:
        lines = [f"{row:>2}: {mean:>9}  {text}" for row, mean, text in self._rows()]
        return "\n".join([self._head, *lines, *self._left_out()])

    def _repr_html_(self) -> str:
        grid = html.table(("", "mean", "prompt"), self._rows(), left=(2,))
        return html.document(html.heading(self._head), grid, html.lines(self._left_out()))

    @property
    def _head(self) -> str:
        what = self._each[0].what if self._each else "nothing"
        return f"{what[:1].upper()}{what[1:]} of {len(self)} prompts, the mean in nats"

    def _rows(self) -> list[tuple[str, str, str]]:
        shown = self._each[:SHOWN]
        return [(str(row), f"{one.mean:.3f}", repr(shorten(one.prompt, 70))) for row, one in enumerate(shown)]

    def _left_out(self) -> list[str]:
        return [f"… and {len(self) - SHOWN} more"] if len(self) > SHOWN else []
