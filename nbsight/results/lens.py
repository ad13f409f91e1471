"""What a logit lens found: the likeliest next tokens after every layer, at every position."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nbsight.display import html
from nbsight.display.text import grid_text, number_text, visible
from nbsight.errors import InputError
from nbsight.results.base import Result, coordinate, variable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Lens", "LensCell"]

CLOSE = 1e-3
"""How far the last row may be from the model's own output; half precision rounds that much."""

WIDEST = 24
"""Positions in one table."""


@dataclass(frozen=True, eq=False)
class LensCell:
    """The likeliest next tokens at one layer and position, likeliest first.

    Args:
        layer: Index of the layer, counted from 0.
        position: Index of the input token, counted from 0.
        tokens: The predicted tokens as text.
        ids: The same tokens as ids, int, shape (rank,).
        probs: Their probabilities over the whole vocabulary, float32, shape (rank,).
    """

    layer: int
    position: int
    tokens: Sequence[str]
    ids: NDArray[np.integer[Any]]
    probs: NDArray[np.float32]

    def __repr__(self) -> str:
        best = ", ".join(
            f"{visible(token)!r} {prob:.3f}" for token, prob in zip(self.tokens, self.probs, strict=True)
        )
        return f"LensCell(layer {self.layer}, position {self.position}: {best})"


@dataclass(frozen=True, eq=False, repr=False)
class Lens(Result):
    """The top tokens that each layer's residual stream stands for.

    Args:
        prompt: The text that was read.
        tokens: Its tokens as text, one per position.
        layers: A label per layer, lowest first; layer i is the stream after block i, and the
            last one is the model's own output.
        top_ids: Token ids, int, shape (layer, position, rank), likeliest first.
        top_tokens: The same as text, shape (layer, position, rank).
        top_probs: Probabilities over the whole vocabulary, float32, shape (layer, position, rank).
        entropy: Entropy of the distribution in nats, float32, (layer, position); None unless asked for.
        kl: KL(last layer ‖ this layer) in nats, float32, (layer, position); None unless asked for.
        tracked: Tokens that were followed, as text.
        track_probs: Their probabilities, float32, (layer, position, tracked); None without any.
        track_ranks: How many tokens are likelier, int, (layer, position, tracked); 0 is the top.
        track_logits: Their logits, float32, (layer, position, tracked); None without any.
        model: The name under which the model was loaded.
        check: How far the last row's probabilities at the last position are from the model's own output
            of the same run, at most; None if it was not measured.
        provenance: What the numbers depend on: model, revision, dtype, attention implementation,
            versions of libraries. Plain values only.
        detail: How to ask the model for more than was kept: `detail(layer, position, top_k)`
            returns a `LensCell`. None where the model is out of reach; never pickled.
    """

    title = "logit lens"

    prompt: str
    tokens: Sequence[str] = coordinate("position", name="token")
    layers: Sequence[Any] = coordinate("layer")
    top_ids: NDArray[np.integer[Any]] = variable("layer", "position", "rank", name="id")
    top_tokens: NDArray[np.object_] = variable("layer", "position", "rank", name="prediction")
    top_probs: NDArray[np.float32] = variable(
        "layer", "position", "rank", name="probability", unit="probability"
    )
    model: str = ""
    entropy: NDArray[np.float32] | None = variable("layer", "position", unit="nats", default=None)
    kl: NDArray[np.float32] | None = variable("layer", "position", unit="nats", default=None)
    tracked: Sequence[str] = coordinate("tracked", default=())
    track_probs: NDArray[np.float32] | None = variable(
        "layer", "position", "tracked", name="tracked_probability", unit="probability", default=None
    )
    track_ranks: NDArray[np.integer[Any]] | None = variable(
        "layer", "position", "tracked", name="tracked_rank", default=None
    )
    track_logits: NDArray[np.float32] | None = variable(
        "layer", "position", "tracked", name="tracked_logit", unit="logit", default=None
    )
    check: float | None = None
    detail: Callable[[int, int, int], LensCell] | None = field(
        default=None, repr=False, metadata={"saved": False}
    )

    def __post_init__(self) -> None:
        settle = object.__setattr__
        settle(self, "top_tokens", np.asarray(self.top_tokens, dtype=object))
        settle(self, "top_probs", np.asarray(self.top_probs, dtype=np.float32))
        super().__post_init__()
        if not self.top_probs.shape[2]:
            raise ValueError("a lens keeps at least one token per layer and position.")

    @property
    def top_k(self) -> int:
        """How many tokens were kept per layer and position."""
        return int(self.top_probs.shape[2])

    def at(self, layer: int, position: int) -> LensCell:
        """The tokens that were kept at one layer and position; negative indices count from the end."""
        layer, position = self.locate(layer, position)
        return LensCell(
            layer,
            position,
            tuple(self.top_tokens[layer, position]),
            self.top_ids[layer, position],
            self.top_probs[layer, position],
        )

    def locate(self, layer: int, position: int) -> tuple[int, int]:
        """The same place with both indices counted from 0.

        Raises:
            IndexError: There is no such layer or position.
        """
        place = []
        for name, index, size in (
            ("layer", layer, len(self.layers)),
            ("position", position, len(self.tokens)),
        ):
            if not -size <= index < size:
                raise IndexError(
                    f"This lens has {size} {name}s, 0 to {size - 1}; there is no {index}. "
                    f"For the last one write -1."
                )
            place.append(int(index) % size)
        return place[0], place[1]

    def contrast(self, first: str | int, second: str | int, *, what: str = "logit") -> NDArray[np.float32]:
        """How much more a followed token has than another, (layer, position).

        Args:
            first: A followed token: its text, or its place among `tracked`.
            second: The one that is taken off.
            what: "logit", of which softmax leaves exactly this difference, or "probability".

        Raises:
            InputError: a token is not followed, or there is no such difference.
        """
        if what not in ("logit", "probability"):
            raise InputError(f"tokens differ in logit or probability; not in {what!r}.")
        values = self.track_logits if what == "logit" else self.track_probs
        if values is None:
            raise InputError(
                'no tokens were followed: `logit_lens(model, prompt, track=[" Paris", " Rome"])`.'
            )
        one, other = (values[..., self._tracked(token)] for token in (first, second))
        difference: NDArray[np.float32] = one - other
        return difference

    def _tracked(self, token: str | int) -> int:
        places = [at for at, text in enumerate(self.tracked) if token in (text, at)]
        if len(places) != 1:
            followed = ", ".join(f"{at}: {text!r}" for at, text in enumerate(self.tracked))
            which = "is not followed" if not places else "is the text of several"
            raise InputError(
                f"{token!r} {which}; followed are {followed}. Write the text, or its number here."
            )
        return places[0]

    @property
    def said(self) -> tuple[str, ...]:
        """What the check of the last row found, as a sentence; nothing if it was not measured."""
        if self.check is None:
            return ()
        if self.check <= CLOSE:
            return (f"the last row is the model's own output (probabilities within {self.check:.0e})",)
        off = f"note: the last row's probabilities are up to {self.check:.2g} off the model's own output."
        why = "Something changes it after the last block: an edit that is kept, or dropout in training mode."
        return (f"{off} {why}",)

    def plot(self, what: str = "token", *, position: int = -1, positions: slice = slice(None)) -> Figure:
        """A still picture.

        Args:
            what: "token": the grid of top tokens. "probability" or "rank": the course of the tracked tokens
                through the layers, at one position. "entropy" or "kl": a heatmap of layers and positions.
            position: For the courses, which position; negative ones count from the end.
            positions: For grid and heatmap, which positions; long prompts do not fit one picture.

        Raises:
            InputError: what it would show was not computed.
        """
        if what == "token":
            return self.to_figure(positions=positions)
        if what in ("probability", "rank"):
            return self._courses(what, self.locate(0, position)[1])
        if what not in ("entropy", "kl"):
            raise InputError(f"a lens draws token, probability, rank, entropy or kl; not {what!r}.")
        values = getattr(self, what)
        if values is None:
            raise InputError(f"`{what}` was not computed: `logit_lens(model, prompt, statistics=True)`.")
        from nbsight.display.heatmaps import heatmaps

        columns = [visible(token) for token in self.tokens[positions]]
        panel = ("", values[:, positions], list(map(str, self.layers)), columns)
        title = {"entropy": "Entropy of each layer's prediction", "kl": "From the last layer's prediction"}
        unit = {"entropy": "entropy in nats", "kl": "KL(last layer ‖ this layer) in nats"}
        return heatmaps([panel], title=self._titled(title[what]), value_title=unit[what])

    def _courses(self, what: str, position: int) -> Figure:
        from nbsight.display.lines import lines_figure

        if self.track_probs is None or self.track_ranks is None:
            raise InputError('no tokens were followed: `logit_lens(model, prompt, track=[" Paris"])`.')
        courses = (self.track_probs if what == "probability" else self.track_ranks + 1.0)[:, position]
        series = [
            (visible(word), courses[:, at], courses[:, at], courses[:, at])
            for at, word in enumerate(self.tracked)
        ]
        figure = lines_figure(
            series,
            places=list(map(str, self.layers)),
            title=self._titled(f"Courses of tokens after {visible(self.tokens[position])}"),
            x_title="layer",
            y_title="probability" if what == "probability" else "rank (1 is the top)",
        )
        if what == "rank":
            figure.axes[0].invert_yaxis()
        return figure

    def _titled(self, text: str) -> str:
        return f"{text} · {self.model}" if self.model else text

    def to_figure(self, *, positions: slice = slice(None), layers: Sequence[int] | None = None) -> Figure:
        """A still picture of the grid as a matplotlib figure (no pyplot, so safe on any thread).

        Args:
            positions: Which positions to draw; long prompts do not fit one picture.
            layers: Which rows to draw, as indices of `layers`; all by default.
        """
        from nbsight.display.figures import token_grid_figure

        rows = list(range(len(self.layers))) if layers is None else list(layers)
        return token_grid_figure(
            columns=self.tokens[positions],
            rows=[self.layers[row] for row in rows],
            labels=self.top_tokens[rows, positions, 0],
            values=self.top_probs[rows, positions, 0],
            title=self._titled("Logit lens"),
            column_title="input token",
            row_title="layer",
            value_title="probability of the top token",
        )

    def __repr__(self) -> str:
        table = grid_text(
            columns=self.tokens,
            rows=self.layers,
            labels=self.top_tokens[..., 0],
            values=self.top_probs[..., 0],
            corner="layer",
        )
        return "\n".join([self._head, table, *self.said])

    @property
    def _head(self) -> str:
        head = f"Lens of {self.prompt!r}" + (f" through {self.model}" if self.model else "")
        return f"{head}: top token and its probability, last layer first"

    def _html(self) -> Sequence[str]:
        shown = min(len(self.tokens), WIDEST)
        rows = [
            [
                str(self.layers[row]),
                *(
                    f"{visible(self.top_tokens[row, at, 0])} {number_text(self.top_probs[row, at, 0])}"
                    for at in range(shown)
                ),
            ]
            for row in range(len(self.layers) - 1, -1, -1)
        ]
        header = ["layer", *map(visible, self.tokens[:shown])]
        more = [f"… and {len(self.tokens) - shown} more positions"] if shown < len(self.tokens) else []
        grid = html.table(header, rows, left=range(1, shown + 1), shades=self.top_probs[::-1, :shown, 0])
        return html.heading(self._head), grid, html.lines([*more, *self.said])
