"""How far two runs are apart at every site, and where they part first."""

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

__all__ = ["Parting", "RunDifference"]

#: What belongs to no layer has this number for one.
NO_LAYER = -1
STATISTICS = ("relative", "cosine", "max_abs")
_TOKENS_SHOWN = 16
#: From this ratio of largest to smallest on, a picture shows powers of ten.
_WIDE = 1000.0


@dataclass(frozen=True)
class Parting:
    """One place where two runs differ.

    Args:
        site: Its name in the table, such as "3.attn_out".
        component: The standard name.
        layer: The layer; None for what belongs to none.
        position: The position in the first run's prompt.
        token: The token there.
        relative: Length of the difference over the length of the first run's value.
        cosine: Cosine of the two values.
        max_abs: The largest difference of two numbers.
    """

    site: str
    component: str
    layer: int | None
    position: int
    token: str
    relative: float
    cosine: float
    max_abs: float

    def __str__(self) -> str:
        where = f"{self.site} at position {self.position} ({visible(self.token)})"
        return f"{where}: relative {self.relative:.2g}, cosine {self.cosine:.4g}, largest {self.max_abs:.2g}"


@dataclass(frozen=True, eq=False, repr=False)
class RunDifference(Result):
    """The distance of two runs, site by site in the order of the forward, token by token.

    Args:
        prompt: The text of the first run.
        other_prompt: The text of the second.
        what: What the second run is, beside the first.
        sites: Names of the sites in the order in which they are computed: "embed", "0.resid_pre", ….
        components: The standard name of each.
        layers: The layer of each; -1 where it belongs to none.
        tokens: The tokens of the first prompt that have a partner.
        other_tokens: Their partners in the second.
        positions: Where they are in the first prompt.
        other_positions: Where they are in the second.
        relative: Length of the difference over the length of the first run's value, (site, position); 0 where
            both are equal to the last bit, infinite where only the first is 0 or a number is NaN.
        cosine: Cosine of the two values, (site, position); NaN where one is 0.
        max_abs: The largest difference of two numbers, (site, position); infinite where one is NaN.
        tolerance: From which relative distance on the runs count as apart.
    """

    title = "distance of two runs"

    prompt: str
    other_prompt: str
    what: str
    sites: Sequence[str] = coordinate("site")
    components: Sequence[str] = coordinate("site", name="component")
    layers: Sequence[int] = coordinate("site", name="layer")
    tokens: Sequence[str] = coordinate("position", name="token")
    other_tokens: Sequence[str] = coordinate("position", name="other_token")
    positions: Sequence[int] = coordinate("position", name="first_position")
    other_positions: Sequence[int] = coordinate("position", name="other_position")
    relative: NDArray[np.float64] = variable("site", "position", unit="relative L2 distance")
    cosine: NDArray[np.float64] = variable("site", "position", unit="cosine")
    max_abs: NDArray[np.float64] = variable("site", "position", unit="largest absolute difference")
    tolerance: float = 0.0

    # -- where they part -----------------------------------------------------------------------

    @property
    def first(self) -> Parting | None:
        """The first place in the order of the forward where the runs are apart; None if nowhere."""
        return self.first_beyond(self.tolerance)

    def first_beyond(self, tolerance: float) -> Parting | None:
        """The first site, and at it the first position, whose relative distance is above a tolerance.

        Args:
            tolerance: 0 for any difference at all.
        """
        apart = np.argwhere(self.relative > tolerance)
        return self.at(int(apart[0, 0]), int(apart[0, 1])) if len(apart) else None

    def first_of_tokens(self, tolerance: float | None = None) -> list[Parting | None]:
        """For each token the first site at which it is apart; None where it never is.

        Args:
            tolerance: By default the result's own.
        """
        apart = self.relative > (self.tolerance if tolerance is None else tolerance)
        return [
            self.at(int(column.argmax()), place) if column.any() else None
            for place, column in enumerate(apart.T)
        ]

    def at(self, site: int | str, place: int) -> Parting:
        """The numbers of one cell.

        Args:
            site: Its name, or its index.
            place: Index along the position axis; negative ones count from the end.

        Raises:
            InputError: there is no such site or place.
        """
        if isinstance(site, str):
            if site not in self.sites:
                raise InputError(
                    f"there is no site {site!r} here; `.sites` has {', '.join(self.sites[:8])} and so on."
                )
            site = list(self.sites).index(site)
        size = len(self.tokens)
        if not -size <= place < size:
            raise InputError(f"{size} positions were compared, 0 to {size - 1}; there is no {place}.")
        layer = int(self.layers[site])
        return Parting(
            self.sites[site],
            self.components[site],
            None if layer == NO_LAYER else layer,
            int(self.positions[place]),
            self.tokens[place],
            *(float(getattr(self, name)[site, place]) for name in STATISTICS),
        )

    # -- on show -------------------------------------------------------------------------------

    def plot(self, what: str = "relative") -> Figure:
        """A layer × position heatmap for each component; powers of ten where the range is wide.

        Args:
            what: "relative", "max_abs", or "cosine" (drawn as 1 − cosine).

        Raises:
            InputError: there is no such picture.
        """
        from nbsight.display.heatmaps import heatmaps

        if what not in STATISTICS:
            raise InputError(f"a distance of runs draws {', '.join(STATISTICS)}; not {what!r}.")
        values, unit = self._drawn(what)
        columns = [visible(token) for token in self.tokens]
        names = np.array(self.components)
        within = np.array(self.layers) != NO_LAYER
        panels = []
        if not within.all():
            panels.append(("outside of the blocks", values[~within], list(names[~within]), columns))
        for component in dict.fromkeys(names[within]):
            # The stream before a block is the stream after the one below it.
            if component != "resid_pre" or "resid_post" not in names:
                rows = np.flatnonzero(names == component).tolist()
                panels.append((component, values[rows], [str(self.layers[row]) for row in rows], columns))
        first = self.first
        return heatmaps(
            panels,
            title=f"{self._head} · {'equal everywhere' if first is None else f'apart from {first.site} on'}",
            value_title=unit,
        )

    def _drawn(self, what: str) -> tuple[NDArray[np.float64], str]:
        """What the colours show, and what that is called."""
        values = 1 - self.cosine if what == "cosine" else getattr(self, what)
        name = {"relative": "relative L2 distance", "cosine": "1 − cosine", "max_abs": "largest difference"}
        values = np.where(np.isfinite(values), values, np.nan)
        known = values[values > 0]
        if not len(known) or known.max() / known.min() < _WIDE:
            return values, name[what]
        floor = np.floor(np.log10(known.min()))
        powers = np.where(values > 0, np.log10(np.maximum(values, known.min())) - floor, 0.0)
        return np.where(np.isnan(values), np.nan, powers), f"{name[what]}, powers of ten above 1e{floor:.0f}"

    def __repr__(self) -> str:
        lines = [self._head, self._said()]
        width = max(12, *(len(name) + 2 for name in self._columns()))
        for first, *cells in [self._columns(), *self._cells()]:
            lines.append(f"{first:>5}{''.join(f'{cell:>{width}}' for cell in cells)}".rstrip())
        return "\n".join([*lines, *self._rest()])

    def _html(self) -> Sequence[str]:
        grid = html.table(self._columns(), self._cells())
        return html.heading(self._head), html.lines([self._said()]), grid, html.lines(self._rest())

    @property
    def _head(self) -> str:
        return f"{shorten(repr(self.prompt), 50)} beside {shorten(self.what, 60)}"

    def _said(self) -> str:
        first = self.first
        beyond = f" by more than {self.tolerance:g}" if self.tolerance else ""
        if first is not None:
            return f"apart{beyond} first at {first}"
        if not self.relative.any():
            return "equal to the last bit at every site"
        return f"nowhere apart{beyond}; the largest relative distance is {self.relative.max():.2g}"

    def _columns(self) -> list[str]:
        blocks = [name for name, layer in zip(self.components, self.layers, strict=True) if layer != NO_LAYER]
        return ["layer", *dict.fromkeys(blocks)]

    def _cells(self) -> list[list[str]]:
        """The largest relative distance over positions, last layer first."""
        places = {(c, n): i for i, (c, n) in enumerate(zip(self.components, self.layers, strict=True))}
        worst = self.relative.max(1)
        layers = sorted({layer for layer in self.layers if layer != NO_LAYER}, reverse=True)
        return [
            [
                str(layer),
                *(
                    _number(worst[places[name, layer]]) if (name, layer) in places else ""
                    for name in self._columns()[1:]
                ),
            ]
            for layer in layers
        ]

    def _rest(self) -> list[str]:
        worst = self.relative.max(1)
        single = [
            f"{name} {_number(worst[row])}"
            for row, (name, layer) in enumerate(zip(self.components, self.layers, strict=True))
            if layer == NO_LAYER
        ]
        firsts = self.first_of_tokens()[:_TOKENS_SHOWN]
        tokens = [
            f"{visible(token)} {'never' if first is None else first.site}"
            for token, first in zip(self.tokens, firsts, strict=False)
        ]
        more = len(self.tokens) - len(tokens)
        tokens += [f"and {more} more"] if more > 0 else []
        found = ["the largest relative L2 distance over positions"]
        found += ["; ".join(single)] if single else []
        return [*found, "tokens part at: " + "; ".join(tokens)]


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.2g}"
