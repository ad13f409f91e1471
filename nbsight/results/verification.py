"""What the check of the standard names found: for each name where it is, and how far it is off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nbsight.display import html
from nbsight.results.base import Result, coordinate, variable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["NameRow", "Verification"]


@dataclass(frozen=True)
class NameRow:
    """One line of the table.

    Args:
        name: The standard name.
        place: The native place, `[i]` for the layer; empty where there is none.
        status: "verified", "absent" or "refused".
        error: The largest relative error over layers and positions; NaN where the name is a place by itself.
        remark: What the error compares, or why the name is absent or refused.
    """

    name: str
    place: str
    status: str
    error: float
    remark: str


@dataclass(frozen=True, eq=False, repr=False)
class Verification(Result):
    """The standard names of one model, checked on random tokens.

    Args:
        model: The name under which the model was loaded.
        architecture: The family that it was found to belong to; None if it is not known.
        is_guess: Whether the family was found by structure and not by the configuration.
        dtype: The dtype of the stream.
        tolerance: The largest error that is accepted.
        names: The standard names.
        places: Where each is.
        states: "verified", "absent" or "refused" for each.
        remarks: What was compared for each, or why it is not there.
        layers: A label per layer.
        error: Length of the difference over length of the sum, the largest of all positions; NaN where
            nothing is compared.
    """

    title = "check of the standard names"

    model: str
    architecture: str | None
    is_guess: bool
    dtype: str
    tolerance: float
    names: Sequence[str] = coordinate("name")
    places: Sequence[str] = coordinate("name", name="place")
    states: Sequence[str] = coordinate("name", name="status")
    remarks: Sequence[str] = coordinate("name", name="remark")
    layers: Sequence[int] = coordinate("layer")
    error: NDArray[np.float64] = variable("name", "layer", unit="relative error")

    @property
    def rows(self) -> tuple[NameRow, ...]:
        """The table, one line for each name."""
        worst = [_largest(row) for row in self.error]
        lines = zip(self.names, self.places, self.states, worst, self.remarks, strict=True)
        return tuple(NameRow(*line) for line in lines)

    @property
    def ok(self) -> bool:
        """Whether every name that exists holds."""
        return "refused" not in self.states and "verified" in self.states

    @property
    def largest(self) -> float:
        """The largest error of all that was compared; NaN if nothing was."""
        return _largest(self.error)

    def __getitem__(self, name: str) -> NameRow:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"{name!r} is none of {', '.join(self.names)}")

    def __repr__(self) -> str:
        return "\n".join([self.summary, *self._lines()])

    @property
    def summary(self) -> str:
        """One line: the model, its family, and whether the names hold."""
        family = self.architecture or "unknown architecture"
        family += " by structure" if self.is_guess else ""
        head = f"Standard names of {self.model} ({family}, {self.dtype}): "
        refused = self.states.count("refused") if isinstance(self.states, tuple) else 0
        if self.ok:
            return (
                head + f"all hold on random tokens, largest error {self.largest:.1e} of {self.tolerance:.0e}"
            )
        return head + (f"{refused} refused" if refused else "none")

    def _cells(self) -> list[tuple[str, str, str, str]]:
        return [
            (
                row.name,
                row.place or "-",
                _shown(row.error),
                f"{'' if row.status == 'verified' else row.status + ': '}{row.remark}",
            )
            for row in self.rows
        ]

    def _lines(self) -> list[str]:
        cells = self._cells()
        names = max((len(row[0]) for row in cells), default=0)
        places = max((len(row[1]) for row in cells), default=0)
        return [
            f"  {name:<{names}}  {place:<{places}}  {error:>7}  {remark}".rstrip()
            for name, place, error, remark in cells
        ]

    def _html(self) -> Sequence[str]:
        refused = np.where([state == "refused" for state in self.states], -1.0, np.nan)
        shades = np.stack([np.full_like(refused, np.nan), refused, np.full_like(refused, np.nan)], axis=1)
        return html.heading(self.summary), html.table((), self._cells(), left=(0, 1, 3), shades=shades)

    def plot(self) -> Figure:
        """The largest error of each name by layer, as powers of ten; exact places are pale."""
        from nbsight.display.heatmaps import heatmaps

        compared = [row for row, errors in enumerate(self.error) if not np.isnan(errors).all()]
        floor = np.finfo(np.float64).eps
        powers = np.log10(np.maximum(self.error[compared], floor)) - np.log10(floor)
        rows = [self.names[row] for row in compared]
        return heatmaps(
            [("", powers, rows, list(map(str, self.layers)))],
            title=f"Errors of the standard names · {self.model}",
            value_title="powers of ten of the relative error above rounding in float64",
            row_title="name",
            column_title="layer",
        )


def _largest(errors: NDArray[np.float64]) -> float:
    return float("nan") if np.isnan(errors).all() else float(np.nanmax(errors))


def _shown(error: float) -> str:
    return "" if np.isnan(error) else f"{error:.1e}"
