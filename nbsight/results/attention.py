"""How far a model with eager attention in every layer is from the model as it was loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nbsight.results.base import Result, coordinate, variable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["AttentionDifference"]


@dataclass(frozen=True, eq=False, repr=False)
class AttentionDifference(Result):
    """What changes where the eager attention function takes the place of the loaded one.

    Args:
        implementation: What the model was loaded with.
        layers: Indices of the blocks.
        tokens: The prompt's tokens as text; their positions where ids were given.
        attention: How far the eager result is off the loaded one in each layer, given the same queries, keys
            and values: length of the difference over length of the result, the largest over positions; 0
            where the loaded one is the eager one.
        logits: The largest difference of a logit at each position, when every layer goes on with the eager
            result.
        shift: Total variation between the two next-token distributions at each position, in [0, 1].
    """

    title = "difference of attention implementations"

    implementation: str
    layers: Sequence[int] = coordinate("layer")
    tokens: Sequence[str] = coordinate("position", name="token")
    attention: NDArray[np.float64] = variable("layer", unit="relative error")
    logits: NDArray[np.float64] = variable("position", unit="largest difference of a logit")
    shift: NDArray[np.float64] = variable("position", unit="total variation")

    @property
    def largest(self) -> float:
        """The largest difference of a logit at any position."""
        return float(self.logits.max())

    def plot(self) -> Figure:
        """A matplotlib figure: how far the eager attention is off in each layer."""
        from nbsight.display.lines import lines_figure

        return lines_figure(
            [("eager", self.attention, self.attention, self.attention)],
            places=[str(layer) for layer in self.layers],
            title=f"Eager attention against {self.implementation}",
            x_title="layer",
            y_title="relative error",
        )

    def __repr__(self) -> str:
        return (
            f"Eager attention against {self.implementation}: logits differ by {self.largest:.1e} at most, "
            f"next-token distributions by {float(self.shift.max()):.1e} (total variation)\n"
            f"  the attention of {len(self.layers)} layers differs by {float(self.attention.max()):.1e} at "
            f"most, in layer {self.layers[int(self.attention.argmax())]}"
        )
