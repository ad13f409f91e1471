"""What each part of a model says of the next token: a lens of what is written, beside that of the stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nbsight.display import html
from nbsight.display.text import grid_text, number_text, shorten, visible
from nbsight.errors import InputError
from nbsight.results.base import Result, coordinate, variable
from nbsight.results.lens import Lens

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ONCE", "ComponentLens"]

ONCE = ("embed", "pos_embed")
"""What enters the first block and no other."""


@dataclass(frozen=True, eq=False, repr=False)
class ComponentLens(Result):
    """The top tokens of every component of the stream, each read as if it were the whole stream.

    The final norm makes every vector one length, so probabilities say what a component points at; how much
    it weighs in the stream is its `norm`. Where a component is not there (`embed` above the first layer)
    probabilities are NaN, ids −1 and texts empty.

    Args:
        prompt: The text that was read.
        components: Standard names, and `head_3` for what head 3 adds.
        layers: Indices of the blocks.
        positions: Positions that were read, counted from the prompt's own first token.
        tokens: The tokens there.
        top_ids: Token ids, int, (component, layer, position, rank), likeliest first.
        top_tokens: The same as text.
        top_probs: Probabilities over the whole vocabulary, float32, the same shape.
        entropy: Entropy of each prediction in nats, float32, (component, layer, position).
        kl: KL(model's prediction ‖ the component's) in nats, float32, the same shape.
        norm: L2 norm of each component, float32, the same shape.
        tracked: Tokens that were followed, as text.
        track_probs: Their probabilities, float32, (component, layer, position, tracked); None without any.
        track_ranks: How many tokens are likelier, int, the same shape; 0 is the top, −1 where nothing is.
        track_logits: Their logits, float32, the same shape.
        model: The name under which the model was loaded.
    """

    title = "logit lens of components"

    prompt: str
    components: Sequence[str] = coordinate("component")
    layers: Sequence[int] = coordinate("layer")
    positions: Sequence[int] = coordinate("position")
    tokens: Sequence[str] = coordinate("position", name="token")
    top_ids: NDArray[np.integer[Any]] = variable("component", "layer", "position", "rank", name="id")
    top_tokens: NDArray[np.object_] = variable("component", "layer", "position", "rank", name="prediction")
    top_probs: NDArray[np.float32] = variable(
        "component", "layer", "position", "rank", name="probability", unit="probability"
    )
    entropy: NDArray[np.float32] = variable("component", "layer", "position", unit="nats")
    kl: NDArray[np.float32] = variable("component", "layer", "position", unit="nats")
    norm: NDArray[np.float32] = variable("component", "layer", "position", unit="L2 norm")
    tracked: Sequence[str] = coordinate("tracked", default=())
    track_probs: NDArray[np.float32] | None = variable(
        "component",
        "layer",
        "position",
        "tracked",
        name="tracked_probability",
        unit="probability",
        default=None,
    )
    track_ranks: NDArray[np.integer[Any]] | None = variable(
        "component", "layer", "position", "tracked", name="tracked_rank", unit="rank", default=None
    )
    track_logits: NDArray[np.float32] | None = variable(
        "component", "layer", "position", "tracked", name="tracked_logit", unit="logit", default=None
    )
    model: str = ""

    def of(self, component: str) -> Lens:
        """The lens of one component, over the layers that have it.

        Raises:
            InputError: it was not read.
        """
        at = self._index(component)
        has = np.flatnonzero(~np.isnan(self.top_probs[at, :, 0, 0])).tolist()
        return Lens(
            prompt=self.prompt,
            tokens=self.tokens,
            layers=[self.layers[layer] for layer in has],
            top_ids=self.top_ids[at, has],
            top_tokens=self.top_tokens[at, has],
            top_probs=self.top_probs[at, has],
            entropy=self.entropy[at, has],
            kl=self.kl[at, has],
            tracked=self.tracked,
            track_probs=None if self.track_probs is None else self.track_probs[at, has],
            track_ranks=None if self.track_ranks is None else self.track_ranks[at, has],
            track_logits=None if self.track_logits is None else self.track_logits[at, has],
            model=self.model,
            provenance={**self.provenance, "component": component},
        )

    def plot(self, what: str = "token", *, position: int = -1) -> Figure:
        """A still picture.

        Args:
            what: "token": layers × components of every block, the top token of each at one position.
                "entropy", "kl" or "norm": a heatmap of layers and positions for each component.
            position: For the tokens, which of the positions that were read.
        """
        if what == "token":
            from nbsight.display.figures import token_grid_figure

            at, shown = self._place(position), self._in_blocks() or list(range(len(self.components)))
            return token_grid_figure(
                columns=[self.components[one] for one in shown],
                rows=self.layers,
                labels=self.top_tokens[shown, :, at, 0].T,
                values=self.top_probs[shown, :, at, 0].T,
                title=f"What each part points at, at {visible(self.tokens[at])} · {self.model}".rstrip(" ·"),
                column_title="component",
                row_title="layer",
                value_title="probability of the top token",
            )
        if what not in ("entropy", "kl", "norm"):
            raise InputError(f"the lens of components draws token, entropy, kl or norm; not {what!r}.")
        from nbsight.display.heatmaps import heatmaps

        rows, columns = list(map(str, self.layers)), [visible(token) for token in self.tokens]
        values = getattr(self, what)
        panels = [(name, values[at], rows, columns) for at, name in enumerate(self.components)]
        units = {
            "entropy": "entropy in nats",
            "kl": "KL(model ‖ component) in nats",
            "norm": "L2 norm",
        }
        return heatmaps(panels, title=f"Components · {self.model}".rstrip(" ·"), value_title=units[what])

    def _index(self, component: str) -> int:
        if component not in self.components:
            raise InputError(f"there is no {component!r} here; there are {', '.join(self.components)}.")
        return list(self.components).index(component)

    def _place(self, position: int) -> int:
        if not -len(self.tokens) <= position < len(self.tokens):
            raise InputError(
                f"{len(self.tokens)} positions were read, 0 to {len(self.tokens) - 1}; there is no "
                f"{position}. For the last one write -1."
            )
        return position % len(self.tokens)

    @property
    def _head(self) -> str:
        where = f"position {self.positions[-1]} ({visible(self.tokens[-1])})"
        return (
            f"Components of {shorten(repr(self.prompt), 50)}"
            + (f" through {self.model}" if self.model else "")
            + f": top token of each at {where}, last layer first"
        )

    def _in_blocks(self) -> list[int]:
        """The components that every block has."""
        return [at for at, name in enumerate(self.components) if name not in ONCE]

    def _cell(self, component: int, layer: int) -> str:
        """The top token at the last position and its probability."""
        word, prob = self.top_tokens[component, layer, -1, 0], self.top_probs[component, layer, -1, 0]
        return f"{visible(word)} {number_text(prob)}"

    def _before(self) -> list[str]:
        """What enters the first block."""
        said = [f"{name} {self._cell(at, 0)}" for at, name in enumerate(self.components) if name in ONCE]
        return ["before the first block: " + ", ".join(said)] if said else []

    def __repr__(self) -> str:
        shown = self._in_blocks()
        if not shown:
            return "\n".join([self._head, *self._before()])
        grid = grid_text(
            columns=[self.components[at] for at in shown],
            rows=self.layers,
            labels=self.top_tokens[shown, :, -1, 0].T,
            values=self.top_probs[shown, :, -1, 0].T,
            corner="layer",
            what="components",
        )
        return "\n".join([self._head, grid, *self._before()])

    def _html(self) -> Sequence[str]:
        shown = self._in_blocks()
        rows = [
            [str(self.layers[row]), *(self._cell(at, row) for at in shown)]
            for row in range(len(self.layers) - 1, -1, -1)
        ]
        header = ["layer", *(self.components[at] for at in shown)]
        shades = self.top_probs[shown, :, -1, 0].T[::-1]
        grid = html.table(header, rows, left=range(1, len(header)), shades=shades)
        return html.heading(self._head), grid if shown else "", html.lines(self._before())
