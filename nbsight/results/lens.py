"""What a logit lens found: the likeliest next tokens after every layer, at every position."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nbsight.display.text import grid_text, visible

if TYPE_CHECKING:
    import pandas
    import xarray
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


@dataclass(frozen=True, eq=False)
class Lens:
    """The top tokens that each layer's residual stream stands for.

    Args:
        prompt: The text that was read.
        tokens: Its tokens as text, one per position.
        layers: A label per layer, lowest first; layer i is the stream after block i, and the
            last one is the model's own output.
        top_ids: Token ids, int, shape (layer, position, rank), likeliest first.
        top_tokens: The same as text, shape (layer, position, rank).
        top_probs: Probabilities over the whole vocabulary, float32, shape (layer, position, rank).
        model: The name under which the model was loaded.
        provenance: What the numbers depend on: model, revision, dtype, attention implementation,
            versions of libraries. Plain values only.
        detail: How to ask the model for more than was kept: `detail(layer, position, top_k)`
            returns a `LensCell`. None where the model is out of reach; never pickled.
    """

    prompt: str
    tokens: Sequence[str]
    layers: Sequence[Any]
    top_ids: NDArray[np.integer[Any]]
    top_tokens: NDArray[np.object_]
    top_probs: NDArray[np.float32]
    model: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    detail: Callable[[int, int, int], LensCell] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        # frozen: the arrays are normalised once, here
        settle = object.__setattr__
        settle(self, "tokens", tuple(self.tokens))
        settle(self, "layers", tuple(self.layers))
        settle(self, "top_ids", np.asarray(self.top_ids))
        settle(self, "top_tokens", np.asarray(self.top_tokens, dtype=object))
        settle(self, "top_probs", np.asarray(self.top_probs, dtype=np.float32))
        shape = self.top_probs.shape
        if len(shape) != 3 or shape[:2] != (len(self.layers), len(self.tokens)) or not shape[2]:
            raise ValueError(
                f"A lens of {len(self.layers)} layers and {len(self.tokens)} tokens needs top_probs of shape "
                f"({len(self.layers)}, {len(self.tokens)}, top_k); this one has {shape}."
            )
        for name in ("top_ids", "top_tokens"):
            if getattr(self, name).shape != shape:
                raise ValueError(
                    f"{name} has shape {getattr(self, name).shape} and top_probs {shape}; "
                    "both are (layer, position, rank)."
                )

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

    def to_dataframe(self) -> pandas.DataFrame:
        """One row per layer, position and rank (needs pandas)."""
        import pandas

        layer, position, rank = (axis.ravel() for axis in np.indices(self.top_probs.shape))
        return pandas.DataFrame(
            {
                "layer": [self.layers[i] for i in layer],
                "position": position,
                "token": [self.tokens[i] for i in position],
                "rank": rank,
                "prediction": self.top_tokens.ravel(),
                "id": self.top_ids.ravel(),
                "probability": self.top_probs.ravel(),
            }
        )

    def to_xarray(self) -> xarray.Dataset:
        """`probability`, `id` and `prediction` over layer, position and rank (needs xarray)."""
        import xarray

        axes = ("layer", "position", "rank")
        return xarray.Dataset(
            {
                "probability": (axes, self.top_probs),
                "id": (axes, self.top_ids),
                "prediction": (axes, self.top_tokens),
            },
            coords={
                "layer": list(self.layers),
                "position": np.arange(len(self.tokens)),
                "rank": np.arange(self.top_k),
                "token": ("position", np.array(self.tokens, dtype=object)),
            },
            attrs={"model": self.model, "prompt": self.prompt},
        )

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

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "detail": None}  # a model does not travel with its results

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

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
