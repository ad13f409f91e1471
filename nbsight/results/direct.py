"""What each part of a model adds to a logit, and the picture of that sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nbsight.display import html
from nbsight.display.text import shorten, visible
from nbsight.errors import InputError
from nbsight.results.base import Result, coordinate, variable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DirectAttribution"]

Floats = NDArray[np.float64]
_SHOWN = 12


@dataclass(frozen=True, eq=False, repr=False)
class DirectAttribution(Result):
    """A logit, or the difference of two, as a sum over the parts of the model.

    Args:
        prompt: The text that was read.
        answers: The token, or the two of which the difference is meant, as text.
        parts: `embed`, `attn_out 3`, `head 3.5`, `mlp_out 3`, ...; `bias` is what the norm and the
            unembedding add whatever was read.
        kinds: embed, attn_out, head, attn bias, mlp_out or bias, one for each part.
        layers: Index of the block of each part; −1 where it is in none.
        positions: Positions whose predictions were split.
        tokens: The tokens there.
        contribution: What each part adds, (part, position).
        logit: The model's own logit or difference, (position,).
        capped: Whether the model bends its logits afterwards, so that these are those before.
    """

    title = "direct logit attribution"

    prompt: str
    answers: Sequence[str]
    parts: Sequence[str] = coordinate("part")
    kinds: Sequence[str] = coordinate("part", name="kind")
    layers: Sequence[int] = coordinate("part", name="layer")
    positions: Sequence[int] = coordinate("position")
    tokens: Sequence[str] = coordinate("position", name="token")
    contribution: Floats = variable("part", "position", unit="logits")
    logit: Floats = variable("position", unit="logits")
    capped: bool = False

    @property
    def gap(self) -> Floats:
        """How far the sum of all parts is from the model's own logit, (position,): rounding."""
        return np.asarray(self.contribution.sum(0) - self.logit, np.float64)

    @property
    def what(self) -> str:
        """The logit that is split, in words."""
        return "logit " + " − ".join(visible(answer) for answer in self.answers)

    def by_layer(self, kind: str) -> Floats:
        """What all parts of a kind add in each block, (layer, position).

        Args:
            kind: attn_out, head or mlp_out; for heads `by_head` keeps them apart.

        Raises:
            InputError: there is no such part.
        """
        rows = self._of(kind)
        layers = np.array(self.layers)[rows]
        return np.stack([self.contribution[rows[layers == layer]].sum(0) for layer in np.unique(layers)])

    def by_head(self) -> Floats:
        """What each head adds, (layer, head, position).

        Raises:
            InputError: attention was not split by head.
        """
        rows = self._of("head")
        return self.contribution[rows].reshape(
            len({self.layers[row] for row in rows}), -1, len(self.positions)
        )

    def top(self, count: int = 10, *, position: int = -1) -> list[tuple[str, float]]:
        """The parts that add or take away most, with what they add.

        Args:
            count: How many.
            position: Which of the positions that were split.
        """
        column = self.contribution[:, self._place(position)]
        return [(self.parts[row], float(column[row])) for row in np.argsort(-np.abs(column))[:count]]

    def plot(self, what: str = "waterfall", *, position: int = -1, count: int = 20) -> Figure:
        """A still picture.

        Args:
            what: "waterfall": the parts in the model's order, each from where the sum before it ends, the
                last at the logit. "heads": a heatmap of layer × head.
            position: Which of the positions that were split.
            count: Parts with a bar of their own; the others share one.
        """
        at = self._place(position)
        where = f"{self.what} at {visible(self.tokens[at])} · {self.provenance.get('model', '')}".rstrip(" ·")
        if what == "heads":
            from nbsight.display.heatmaps import heatmaps

            heads = self.by_head()[..., at]
            labels = [str(n) for n in range(heads.shape[0])], [str(n) for n in range(heads.shape[1])]
            return heatmaps([("heads", heads, *labels)], title=where, value_title="logits added")
        if what != "waterfall":
            raise InputError(f"direct attribution draws waterfall or heads; not {what!r}.")
        from nbsight.display.waterfall import waterfall_figure

        return waterfall_figure(self._steps(at, count), title=where, value_title="logits")

    def _steps(self, at: int, count: int) -> list[tuple[str, float]]:
        """The parts with a bar of their own in the model's order, and what the others add together."""
        column = self.contribution[:, at]
        own = set(np.argsort(-np.abs(column))[:count].tolist())
        steps = [(self.parts[row], float(column[row])) for row in range(len(column)) if row in own]
        if len(own) < len(column):
            rest = float(sum(column[row] for row in range(len(column)) if row not in own))
            steps.append((f"{len(column) - len(own)} others", rest))
        return steps

    def _of(self, kind: str) -> NDArray[np.intp]:
        rows = np.array([row for row, own in enumerate(self.kinds) if own == kind], np.intp)
        if not len(rows):
            more = " Write `direct_attribution(..., heads=True)`." if kind == "head" else ""
            has = ", ".join(dict.fromkeys(self.kinds))
            raise InputError(f"there is no part of kind {kind!r} here; there are {has}.{more}")
        return rows

    def _place(self, position: int) -> int:
        if not -len(self.positions) <= position < len(self.positions):
            raise InputError(
                f"{len(self.positions)} positions were split, 0 to {len(self.positions) - 1}; there is no "
                f"{position}."
            )
        return position % len(self.positions)

    @property
    def _head(self) -> str:
        return (
            f"Direct attribution of {self.what} = {self.logit[-1]:.3f} at position {self.positions[-1]} "
            f"({visible(self.tokens[-1])}) of {shorten(repr(self.prompt), 50)}"
        )

    def _notes(self) -> list[str]:
        said = [f"{len(self.parts)} parts add up to it within {np.abs(self.gap).max():.1e}"]
        if self.capped:
            said.append("this model bends its logits afterwards; these are those before")
        return said

    def __repr__(self) -> str:
        rows = [f"  {name:<14}{value:+9.3f}" for name, value in self._steps(len(self.tokens) - 1, _SHOWN)]
        header = f"  {'part':<14}{'logits':>9}"
        return "\n".join([self._head, header, *rows, *(f"  {note}" for note in self._notes())])

    def _html(self) -> Sequence[str]:
        steps = self._steps(len(self.tokens) - 1, _SHOWN)
        largest = max(abs(value) for _, value in steps) or 1.0
        shades: Any = [[abs(value) / largest] for _, value in steps]
        rows = [[name, f"{value:+.3f}"] for name, value in steps]
        table = html.table(["part", "logits"], rows, shades=np.array(shades))
        return html.heading(self._head), table, html.lines(self._notes())
