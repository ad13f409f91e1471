"""How much every head of a model looks where known kinds of heads look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nbsight.display.numbers import plural
from nbsight.errors import InputError
from nbsight.results.base import Result, coordinate, variable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["HeadScores"]


@dataclass(frozen=True, eq=False, repr=False)
class HeadScores(Result):
    """The mean attention that each head pays to a kind of place.

    Args:
        scores: Names of the kinds: previous, duplicate, induction, first, self.
        layers: Indices of the blocks.
        heads: Indices of the heads.
        values: Attention in [0, 1], (score, layer, head).
        count: Over how many positions each is a mean, (score,).
        texts: How many texts were read.
    """

    title = "scores of attention heads"

    scores: Sequence[str] = coordinate("score")
    layers: Sequence[int] = coordinate("layer")
    heads: Sequence[int] = coordinate("head")
    values: NDArray[np.float64] = variable("score", "layer", "head", name="value", unit="mean attention")
    count: NDArray[np.integer[Any]] = variable("score", unit="positions")
    texts: int = 1

    def of(self, score: str) -> NDArray[np.float64]:
        """One score of all heads, (layer, head).

        Raises:
            InputError: it was not asked for.
        """
        if score not in self.scores:
            raise InputError(f"there is no score {score!r} here; there are {', '.join(self.scores)}.")
        return np.asarray(self.values[list(self.scores).index(score)], np.float64)

    def top(self, score: str, count: int = 5) -> list[tuple[int, int, float]]:
        """Layer, head and score of the heads that score highest.

        Args:
            score: Which.
            count: How many.
        """
        values = self.of(score)
        order = np.argsort(-values, axis=None)[:count]
        places = zip(*np.unravel_index(order, values.shape), strict=True)
        return [
            (int(self.layers[layer]), int(self.heads[head]), float(values[layer, head]))
            for layer, head in places
        ]

    def plot(self) -> Figure:
        """A layer × head heatmap for each score."""
        from nbsight.display.heatmaps import heatmaps

        labels = [str(layer) for layer in self.layers], [str(head) for head in self.heads]
        panels = [(score, self.of(score), *labels) for score in self.scores]
        title = f"Heads · {self.provenance.get('model', '')}".rstrip(" ·")
        return heatmaps(panels, title=title, value_title="mean attention", columns=2)

    def __repr__(self) -> str:
        lines = [f"Head scores over {plural(self.texts, 'text')}: mean attention to a kind of place"]
        for score, count in zip(self.scores, self.count, strict=True):
            best = ", ".join(f"{layer}.{head} {value:.2f}" for layer, head, value in self.top(score))
            lines.append(f"  {score:<10} {best}  ({plural(int(count), 'position')})")
        return "\n".join(lines)
