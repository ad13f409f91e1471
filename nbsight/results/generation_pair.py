"""The same prompt continued twice, plain and steered: where the two part, and how far each step was moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nbsight.display import html
from nbsight.display.text import shorten, visible
from nbsight.errors import InputError
from nbsight.results.base import Result, coordinate, variable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["GenerationPair"]

SHOWN = 40
"""Steps in a table."""


@dataclass(frozen=True, eq=False, repr=False)
class GenerationPair(Result):
    """A plain and a steered continuation of one prompt, side by side.

    Args:
        prompt: The text that was continued.
        steering: What was done to the steered one, in words.
        plain_text: The plain continuation.
        text: The steered one.
        plain_stop: Why there is no more of the plain one, as in `Generated.stop`.
        stop: The same of the steered one.
        plain_tokens: The tokens of the plain one, as text.
        plain_ids: Their ids.
        plain_probs: Their probabilities in the plain model, float32.
        tokens: The tokens of the steered one, as text.
        ids: Their ids.
        probs: Their probabilities in the steered model, float32.
        unsteered_probs: Their probabilities in the plain model after the same text, float32.
        kl: KL(steered ‖ plain) of the two models' distributions at each step of the steered text, after the
            same text, in nats, float32.
        model: The name under which the model was loaded.
    """

    title = "steered generation"

    prompt: str
    steering: str
    plain_text: str
    text: str
    plain_stop: str
    stop: str
    plain_tokens: Sequence[str] = coordinate("plain_step", name="plain_token")
    plain_ids: NDArray[np.int64] = variable("plain_step", name="plain_id")
    plain_probs: NDArray[np.float32] = variable("plain_step", name="plain_probability", unit="probability")
    tokens: Sequence[str] = coordinate("step", name="token")
    ids: NDArray[np.int64] = variable("step", name="id")
    probs: NDArray[np.float32] = variable("step", name="probability", unit="probability")
    unsteered_probs: NDArray[np.float32] = variable("step", name="unsteered_probability", unit="probability")
    kl: NDArray[np.float32] = variable("step", unit="nats")
    model: str = ""

    @property
    def divergence(self) -> int | None:
        """The first step at which the two chose different tokens, or only one went on; None if none did."""
        for step in range(min(len(self.ids), len(self.plain_ids))):
            if self.ids[step] != self.plain_ids[step]:
                return step
        shorter = min(len(self.ids), len(self.plain_ids))
        return None if len(self.ids) == len(self.plain_ids) else shorter

    @property
    def perplexity(self) -> float:
        """Perplexity of the steered text in the plain model: how fluent it is; NaN without tokens."""
        if not len(self.ids):
            return float("nan")
        with np.errstate(divide="ignore"):
            return float(np.exp(-np.log(self.unsteered_probs.astype(np.float64)).mean()))

    def plot(self, what: str = "kl") -> Figure:
        """A still picture along the steered text.

        Args:
            what: "kl": how far each step was moved, in nats. "probability": of the steered tokens, in the
                steered and in the plain model.

        Raises:
            InputError: there is no such picture.
        """
        from nbsight.display.lines import lines_figure

        if what not in ("kl", "probability"):
            raise InputError(f"a pair of generations draws kl or probability; not {what!r}.")
        named = (
            [("KL", self.kl)] if what == "kl" else [("steered", self.probs), ("plain", self.unsteered_probs)]
        )
        return lines_figure(
            [(name, values, values, values) for name, values in named],
            places=[visible(token) for token in self.tokens],
            title=f"Plain and steered · {self.model}".rstrip(" ·"),
            x_title="token of the steered text",
            y_title="KL(steered ‖ plain) in nats" if what == "kl" else "probability",
        )

    # -- as text -------------------------------------------------------------------------------

    def __repr__(self) -> str:
        table = [self._columns(), *self._cells()]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = []
        for mark, step, plain, plain_prob, token, *numbers in table:
            cells = [
                mark.ljust(1),
                step.rjust(widths[1]),
                plain.ljust(widths[2]),
                plain_prob.rjust(widths[3]),
            ]
            cells += [token.ljust(widths[4])]
            cells += [text.rjust(width) for text, width in zip(numbers, widths[5:], strict=True)]
            lines.append("  ".join(cells).rstrip())
        texts = [f"plain    {visible_line(self.plain_text)}", f"steered  {visible_line(self.text)}"]
        return "\n".join([self._head, *texts, *lines, *self._said()])

    def _html(self) -> Sequence[str]:
        texts = html.table(
            (),
            [("plain", visible_line(self.plain_text)), ("steered", visible_line(self.text))],
            left=(1,),
        )
        cells = self._cells()
        shades = np.full((len(cells), 7), np.nan)
        largest = max(float(self.kl[:SHOWN].max()), 1e-9) if len(self.kl) else 1.0
        count = min(len(self.kl), SHOWN)
        shades[:count, 6] = -self.kl[:count] / largest
        grid = html.table(self._columns(), cells, left=(2, 4), shades=shades)
        return html.heading(self._head), texts, grid, html.lines(self._said())

    @property
    def _head(self) -> str:
        by = f" by {self.model}" if self.model else ""
        at = self.divergence
        part = "the same tokens" if at is None else f"they part at step {at}"
        return f"Plain and steered{by} after {shorten(repr(self.prompt), 60)}: {part}"

    def _columns(self) -> list[str]:
        return ["", "step", "plain", "prob", "steered", "prob", "in plain", "KL"]

    def _cells(self) -> list[list[str]]:
        """One row a step; the one where the two part is marked."""
        rows = []
        for at in range(min(max(len(self.ids), len(self.plain_ids)), SHOWN)):
            mark = "→" if at == self.divergence else ""
            plain = (
                [visible(self.plain_tokens[at]), f"{self.plain_probs[at]:.3f}"]
                if at < len(self.plain_ids)
                else ["", ""]
            )
            own = ["", "", "", ""]
            if at < len(self.ids):
                numbers = (self.probs[at], self.unsteered_probs[at], self.kl[at])
                own = [visible(self.tokens[at]), *(f"{number:.3f}" for number in numbers)]
            rows.append([mark, str(at), *plain, *own])
        return rows

    def _said(self) -> list[str]:
        longest = max(len(self.ids), len(self.plain_ids))
        more = [f"… and {longest - SHOWN} more steps"] if longest > SHOWN else []
        mean = float(self.kl.mean()) if len(self.kl) else float("nan")
        return [
            *more,
            f"steered by {self.steering}",
            f"KL(steered ‖ plain) a step: mean {mean:.3f} nats",
            f"the steered text has perplexity {self.perplexity:.4g} in the plain model",
        ]


def visible_line(text: str) -> str:
    """A text in one cell of a table."""
    return shorten(text.replace("\n", "⏎"), 160)
