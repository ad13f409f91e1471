"""What a logit lens found: the likeliest next tokens after every layer, at every position."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nbsight.display.text import grid_text, visible
from nbsight.results.base import Result, coordinate, variable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Lens", "LensCell"]


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
        model: The name under which the model was loaded.
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

    def to_figure(self, *, positions: slice = slice(None)) -> Figure:
        """A still picture of the grid as a matplotlib figure (no pyplot, so safe on any thread).

        Args:
            positions: Which positions to draw; long prompts do not fit one picture.
        """
        from nbsight.display.figures import token_grid_figure

        return token_grid_figure(
            columns=self.tokens[positions],
            rows=self.layers,
            labels=self.top_tokens[:, positions, 0],
            values=self.top_probs[:, positions, 0],
            title=f"Logit lens · {self.model}" if self.model else "Logit lens",
            column_title="input token",
            row_title="layer",
            value_title="probability of the top token",
        )

    def __repr__(self) -> str:
        head = f"Lens of {self.prompt!r}" + (f" through {self.model}" if self.model else "")
        table = grid_text(
            columns=self.tokens,
            rows=self.layers,
            labels=self.top_tokens[..., 0],
            values=self.top_probs[..., 0],
            corner="layer",
        )
        return f"{head}: top token and its probability, last layer first\n{table}"
