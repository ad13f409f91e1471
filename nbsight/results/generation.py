"""What a model wrote: the text, and what the model thought of each token when it chose it."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nbsight.display import html
from nbsight.display.numbers import plural
from nbsight.display.text import number_text, shorten, visible
from nbsight.errors import InputError
from nbsight.results.base import Result, coordinate, variable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Generated", "GeneratedToken", "Generations"]

SHOWN = 40
"""Tokens in a table, and continuations in a list."""

INSTEAD = 3
"""Alternatives of one token on show."""

STOPS = {
    "end": "the model ended the text",
    "length": "as many as were asked for",
    "criterion": "a stopping criterion was met",
    "interrupted": "interrupted",
    "unfinished": "not finished",
}
"""Why there are no more tokens."""


@dataclass(frozen=True)
class GeneratedToken:
    """One token that a model chose.

    Args:
        step: The pass that chose it, counted from 0.
        id: Its id.
        token: Its own text, a leading blank included.
        text: What can be shown now; put together these are the text. A character that takes several tokens
            comes with the last of them.
        prob: Its probability under the model's own distribution, before temperature and the like.
        log_prob: The logarithm of that, in nats.
        entropy: Entropy of that distribution, in nats.
        rank: How many tokens were likelier.
        top: The likeliest tokens with their probabilities, likeliest first.
    """

    step: int
    id: int
    token: str
    text: str
    prob: float
    log_prob: float
    entropy: float
    rank: int
    top: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"GeneratedToken({self.step}: {visible(self.token)!r} {self.prob:.3f})"


@dataclass(frozen=True, eq=False, repr=False)
class Generated(Result):
    """A continuation of one prompt.

    Probabilities are the model's own: of the softmax of its logits in float32, as they were before
    temperature, top-k and other settings of the sampling acted on them.

    Args:
        prompt: The text that was continued.
        text: The continuation, without special tokens.
        stop: Why there is no more: "end", "length", "criterion", "interrupted" or "unfinished".
        prompt_tokens: The prompt's tokens as text.
        prompt_ids: Their ids.
        tokens: The tokens that were chosen, as text; special ones too.
        ids: Their ids.
        probs: Their probabilities, float32.
        log_probs: The logarithms of those in nats, float32.
        entropy: Entropy of each step's distribution in nats, float32.
        ranks: How many tokens were likelier than the chosen one; 0 is the top.
        top_ids: The likeliest tokens of each step as ids, (step, rank), likeliest first.
        top_tokens: The same as text.
        top_probs: Their probabilities, float32.
        prompt_roles: For a chat whose message each token of the prompt belongs to; "" for none.
        model: The name under which the model was loaded.
    """

    title = "generation"

    prompt: str
    text: str
    stop: str
    prompt_tokens: Sequence[str] = coordinate("position", name="prompt_token")
    prompt_ids: NDArray[np.int64] = variable("position", name="prompt_id")
    tokens: Sequence[str] = coordinate("step", name="token")
    ids: NDArray[np.int64] = variable("step", name="id")
    probs: NDArray[np.float32] = variable("step", name="probability", unit="probability")
    log_probs: NDArray[np.float32] = variable("step", name="log_probability", unit="nats")
    entropy: NDArray[np.float32] = variable("step", unit="nats")
    ranks: NDArray[np.int64] = variable("step", name="tokens_ahead")
    top_ids: NDArray[np.int64] = variable("step", "rank", name="top_id")
    top_tokens: NDArray[np.object_] = variable("step", "rank", name="top_token")
    top_probs: NDArray[np.float32] = variable("step", "rank", name="top_probability", unit="probability")
    prompt_roles: NDArray[np.object_] | None = variable("position", name="role", default=None)
    model: str = ""

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, step: int) -> GeneratedToken:
        index = operator.index(step)
        if not -len(self) <= index < len(self):
            # An IndexError too: the loop over a sequence ends with one.
            raise _NoStep(
                f"{plural(len(self), 'token')} were generated, steps 0 to {len(self) - 1}; there is no step "
                f"{step}. For the last one write -1."
                if len(self)
                else "no token was generated."
            )
        at = index % len(self)
        top = zip(self.top_tokens[at], self.top_probs[at], strict=True)
        return GeneratedToken(
            step=at,
            id=int(self.ids[at]),
            token=self.tokens[at],
            text=self.tokens[at],
            prob=float(self.probs[at]),
            log_prob=float(self.log_probs[at]),
            entropy=float(self.entropy[at]),
            rank=int(self.ranks[at]),
            top=tuple((token, float(prob)) for token, prob in top),
        )

    def __iter__(self) -> Iterator[GeneratedToken]:
        return (self[step] for step in range(len(self)))

    @property
    def sequence(self) -> NDArray[np.int64]:
        """The ids of the prompt and of what follows, (position,): `model.trace(result.sequence)`."""
        return np.concatenate([self.prompt_ids, self.ids])

    @property
    def perplexity(self) -> float:
        """The exponential of the mean negative log-probability of the tokens; NaN without any."""
        return float(np.exp(-self.log_probs.astype(np.float64).mean())) if len(self) else float("nan")

    # -- as text and picture -------------------------------------------------------------------

    def __repr__(self) -> str:
        if not len(self):
            return self._head
        table = [self._columns(), *self._cells()]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = []
        for number, token, *numbers, instead in table:
            cells = [number.rjust(widths[0]), token.ljust(widths[1])]
            cells += [text.rjust(width) for text, width in zip(numbers, widths[2:], strict=False)]
            lines.append("  ".join([*cells, instead]).rstrip())
        return "\n".join([self._head, visible_lines(self.text), *lines, *self._left_out()])

    def _html(self) -> Sequence[str]:
        shades = np.full((min(len(self), SHOWN), len(self._columns()) - 1), np.nan)
        shades[:, 0] = self.probs[: len(shades)]
        grid = html.table(self._columns(), self._cells(), left=(1, 5), shades=shades) if len(self) else ""
        said = html.preformatted(self.text) if self.text else ""
        return html.heading(self._head), said, grid, html.lines(self._left_out())

    @property
    def _head(self) -> str:
        by = f" by {self.model}" if self.model else ""
        why = STOPS.get(self.stop, self.stop)
        return f"{plural(len(self), 'token')}{by} after {shorten(repr(self.prompt), 60)} ({why})"

    def _columns(self) -> list[str]:
        return ["step", "token", "prob", "log-prob", "entropy", "instead"]

    def _cells(self) -> list[list[str]]:
        rows = []
        for at in range(min(len(self), SHOWN)):
            others = [rank for rank, index in enumerate(self.top_ids[at]) if index != self.ids[at]]
            instead = "  ".join(
                f"{visible(self.top_tokens[at, rank])} {number_text(self.top_probs[at, rank])}"
                for rank in others[:INSTEAD]
            )
            numbers = (self.probs[at], self.log_probs[at], self.entropy[at])
            rows.append(
                [
                    str(at),
                    visible(self.tokens[at]),
                    *(f"{round(float(one), 3) + 0.0:.3f}" for one in numbers),
                    instead,
                ]
            )
        return rows

    def _left_out(self) -> list[str]:
        return [f"… and {len(self) - SHOWN} more tokens"] if len(self) > SHOWN else []

    def plot(self, what: str = "probability") -> Figure:
        """A still picture: one number along the tokens.

        Args:
            what: "probability", or "entropy" in nats.

        Raises:
            InputError: there is no such picture.
        """
        from nbsight.display.lines import lines_figure

        values = {"probability": self.probs, "entropy": self.entropy}.get(what)
        if values is None:
            raise InputError(f"a generation draws probability or entropy; not {what!r}.")
        name = "probability of the chosen token" if what == "probability" else "entropy in nats"
        return lines_figure(
            [(name, values, values, values)],
            places=[visible(token) for token in self.tokens],
            title=f"{name[:1].upper()}{name[1:]} · {self.model}".rstrip(" ·"),
            x_title="generated token",
            y_title=name,
        )


class _NoStep(InputError, IndexError):
    """A step that there is not."""


class Generations(Sequence[Generated]):
    """Continuations of several prompts, or several of one, in the order of the prompts.

    Args:
        each: One result for each row.
    """

    def __init__(self, each: Sequence[Generated]) -> None:
        self._each = tuple(each)

    def __len__(self) -> int:
        return len(self._each)

    def __getitem__(self, row: Any) -> Any:
        return self._each[row]

    @property
    def texts(self) -> tuple[str, ...]:
        """The text of each continuation."""
        return tuple(one.text for one in self._each)

    def __repr__(self) -> str:
        lines = [f"{row:>2}: {count:>3}  {stop:<11}  {text}" for row, count, stop, text in self._rows()]
        return "\n".join([self._head, *lines, *self._left_out()])

    def _repr_html_(self) -> str:
        grid = html.table(("", "tokens", "stop", "text"), self._rows(), left=(2, 3))
        return html.document(html.heading(self._head), grid, html.lines(self._left_out()))

    @property
    def _head(self) -> str:
        by = f" by {self._each[0].model}" if self._each and self._each[0].model else ""
        return f"{plural(len(self), 'continuation')}{by}"

    def _rows(self) -> list[tuple[str, str, str, str]]:
        return [
            (str(row), str(len(one)), one.stop, f"{shorten(one.prompt, 40)!r} → {shorten(one.text, 60)!r}")
            for row, one in enumerate(self._each[:SHOWN])
        ]

    def _left_out(self) -> list[str]:
        return [f"… and {len(self) - SHOWN} more"] if len(self) > SHOWN else []


def visible_lines(text: str) -> str:
    """A text whose lines are indented, for the middle of a repr."""
    return "\n".join(f"  {line}" for line in text.splitlines() or [""])
