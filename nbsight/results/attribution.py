"""What attribution patching estimates, and how far the estimate can be believed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nbsight.errors import InputError
from nbsight.results.base import Result, coordinate, variable
from nbsight.results.patching import Patching

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["AttributionCheck", "AttributionPatching"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class AttributionCheck(Result):
    """Estimated and real effects of the patches that were estimated to be largest.

    Args:
        places: Site, layer, head and position of each.
        estimate: Estimated change of the metric, mean over pairs of prompts, (place,).
        exact: The change when the patch is really done, (place,).
        metric: Name of the metric.
        unit: Its unit.
    """

    title = "check of attribution patching"

    places: Sequence[str] = coordinate("place")
    estimate: Floats = variable("place")
    exact: Floats = variable("place")
    metric: str = "metric"
    unit: str = "metric"

    @property
    def correlation(self) -> float:
        """Pearson's correlation of estimates and real effects; NaN for fewer than three or equal ones."""
        if len(self.places) < 3 or not np.ptp(self.estimate) or not np.ptp(self.exact):
            return float("nan")
        return float(np.corrcoef(self.estimate, self.exact)[0, 1])

    @property
    def error(self) -> float:
        """The mean absolute error, relative to the mean absolute real effect."""
        size = float(np.abs(self.exact).mean())
        return float(np.abs(self.estimate - self.exact).mean()) / size if size else float("nan")

    def plot(self) -> Figure:
        """Each patch as a point: estimated across, real up; on the line both are equal."""
        from nbsight.display.scatter import agreement_figure

        return agreement_figure(
            self.estimate,
            self.exact,
            title=f"Estimated and real patches, r = {self.correlation:.2f} · "
            f"{self.provenance.get('model', '')}".rstrip(" ·"),
            x_title=f"estimated change of the {self.metric}",
            y_title="real change",
        )

    def __repr__(self) -> str:
        rows = [
            f"  {place:<36}{estimate:+9.3f}{exact:+9.3f}"
            for place, estimate, exact in zip(self.places[:12], self.estimate, self.exact, strict=False)
        ]
        head = (
            f"Check of {len(self.places)} estimates of the {self.metric}: correlation "
            f"{self.correlation:.2f}, mean error {self.error:.0%} of the mean effect"
        )
        more = [f"  {len(self.places) - 12} more"] if len(self.places) > 12 else []
        return "\n".join([head, f"  {'':<36}{'estimate':>9}{'exact':>9}", *rows, *more])


@dataclass(frozen=True, eq=False, repr=False)
class AttributionPatching(Patching):
    """Activation patching estimated from gradients: `values` are estimates, `clean` and `corrupted` real.

    Args:
        steps: Over how many points between the prompts the gradient was averaged.
        checker: Does the largest patches for `check`; None where no model is at hand. Never saved.
    """

    title = "attribution patching"
    _name = "Attribution patching"

    steps: int = 1
    checker: Callable[[int], AttributionCheck] | None = field(
        default=None, repr=False, metadata={"saved": False}
    )

    def check(self, top: int = 20) -> AttributionCheck:
        """Really do the patches that are estimated to be largest.

        Args:
            top: How many, each a forward for every pair of prompts.

        Raises:
            InputError: the result was loaded from a file, and has no model.
        """
        if self.checker is None:
            raise InputError(
                "this result was loaded from a file or copied without its model, so nothing can be run; call "
                "`attribution_patching` again to check it."
            )
        if top < 1:
            raise InputError(f"top={top} checks nothing; write 1 or more.")
        return self.checker(top)

    def __repr__(self) -> str:
        how = "one gradient" if self.steps == 1 else f"the mean of {self.steps} gradients"
        return f"{super().__repr__()}\n  estimated from {how}; `.check(20)` does the largest patches really"
