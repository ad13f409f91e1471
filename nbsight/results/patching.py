"""What activation patching found: how much of an effect each place of a model carries."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nbsight.display.text import shorten, visible
from nbsight.errors import InputError
from nbsight.results.base import Result, coordinate, variable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Patching", "has_share"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Patching(Result):
    """The metric of every patched run, with the two runs that it lies between.

    In direction "denoise" the corrupted prompt is run and one place is given what it holds in the clean
    run; in direction "noise" the other way round.

    Args:
        clean_prompts: One for each pair.
        corrupted_prompts: The same.
        sites: What was patched: `resid_pre`, `attn_out`, `z`, ...
        layers: Which blocks.
        positions: The tokens of the first prompt that was run, or the names of spans.
        heads: Heads, where `z` was patched by head; otherwise empty.
        values: The metric of every run, (pair, site, layer, position); NaN where it is not known yet, and
            at `z`, which is in `head_values` when it was patched by head.
        head_values: The same by head, (pair, layer, position, head); None without heads.
        clean: The metric of each clean run, (pair,).
        corrupted: The metric of each corrupted run, (pair,).
        metric: Name of the metric.
        unit: Its unit.
        direction: "denoise" or "noise".
        notes: What a reader must know before believing the picture.
        resume: Goes on with what is left and returns the whole; None when complete. Never saved.
        runs: What can do single patched runs, one for each pair, for views; empty where no model is at hand.
            Never saved.
    """

    title = "activation patching"
    _name: ClassVar[str] = "Patching"

    clean_prompts: Sequence[str]
    corrupted_prompts: Sequence[str]
    sites: Sequence[str] = coordinate("site")
    layers: Sequence[int] = coordinate("layer")
    positions: Sequence[str] = coordinate("position", name="token")
    heads: Sequence[int] = coordinate("head")
    values: Floats = variable("pair", "site", "layer", "position", name="value")
    clean: Floats = variable("pair")
    corrupted: Floats = variable("pair")
    head_values: Floats | None = variable(
        "pair", "layer", "position", "head", name="head_value", default=None
    )
    metric: str = "metric"
    unit: str = "metric"
    direction: str = "denoise"
    notes: Sequence[str] = ()
    resume: Callable[[], Patching] | None = field(default=None, repr=False, metadata={"saved": False})
    runs: Sequence[Any] = field(default=(), repr=False, metadata={"saved": False})

    @property
    def is_complete(self) -> bool:
        """Whether every run is done."""
        known = self.values if self.head_values is None else self.head_values
        return self.resume is None and bool(np.isfinite(known).any())

    @property
    def effect(self) -> Floats:
        """How far each patch moved the metric of the patched run, (pair, site, layer, position)."""
        return self.values - self._ends(self.values.ndim)[0]

    @property
    def head_effect(self) -> Floats | None:
        """The same by head, (pair, layer, position, head)."""
        if self.head_values is None:
            return None
        return np.asarray(self.head_values - self._ends(self.head_values.ndim)[0], np.float64)

    @property
    def recovered(self) -> Floats:
        """The share of the way from the patched run's metric to the donor's, (pair, site, layer, position).

        0 where a patch changes nothing, 1 where it does as much as replacing the whole prompt; NaN for a
        pair whose two runs have the same metric.
        """
        return self._share(self.values)

    @property
    def head_recovered(self) -> Floats | None:
        """The same by head, (pair, layer, position, head)."""
        return None if self.head_values is None else self._share(self.head_values)

    def mean(self, *, by_head: bool = False) -> Floats:
        """The mean of `recovered` over pairs, (site, layer, position).

        Args:
            by_head: Whether heads are meant, (layer, position, head).
        """
        return _mean(self._shares(by_head))

    def interval(
        self, confidence: float = 0.95, *, by_head: bool = False, seed: int = 0, draws: int = 2000
    ) -> tuple[Floats, Floats]:
        """A bootstrap interval of `mean()` over pairs, lower and upper end, each (site, layer, position).

        Args:
            confidence: The share of resampled means that lie in it.
            by_head: Whether heads are meant, (layer, position, head).
            seed: Of the resampling.
            draws: How often pairs are drawn anew.

        Raises:
            InputError: there is one pair, or there are no heads.

        Source: Efron, "Bootstrap methods: another look at the jackknife", 1979 (percentile interval).
        """
        shares = self._of_pairs("an interval", by_head)
        drawn = np.random.default_rng(seed).integers(0, len(shares), (draws, len(shares)))
        means = np.stack([_mean(shares[rows]) for rows in drawn])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a cell of NaN has the interval NaN
            low, high = np.nanquantile(means, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
        return low, high

    def significant(
        self, level: float = 0.05, *, by_head: bool = False, seed: int = 0, draws: int = 5000
    ) -> NDArray[np.bool_]:
        """Where the mean effect differs from 0, (site, layer, position), false discoveries held at `level`.

        A test of random signs over pairs, then the step-up rule of Benjamini and Hochberg (1995). With n
        pairs no p-value is below 2 to the power 1 − n, so five pairs can show nothing at 0.05 in many cells.

        Args:
            level: The share of false discoveries among the cells that are marked.
            by_head: Whether heads are meant, (layer, position, head).
            seed: Of the random signs.
            draws: How many sign patterns are drawn when there are too many to try all.

        Raises:
            InputError: there is one pair, or there are no heads.
        """
        shares = self._of_pairs("significance", by_head)
        signs = _signs(len(shares), seed, draws)
        flat = shares.reshape(len(shares), -1)
        # Cells without a number are no tests, and must not count as some.
        tested: NDArray[np.bool_] = np.asarray(np.isfinite(flat).any(0))
        flat = np.nan_to_num(flat[:, tested])
        p = (np.abs(signs @ flat) >= np.abs(flat.sum(0)) - 1e-12).mean(0)
        order = np.argsort(p)
        passes = p[order] <= level * np.arange(1, len(p) + 1) / len(p)
        found = np.zeros(len(p), bool)
        if passes.any():
            found[order[: np.flatnonzero(passes)[-1] + 1]] = True
        marked = np.zeros(len(tested), bool)
        marked[tested] = found
        return marked.reshape(shares.shape[1:])

    def best_head(self) -> tuple[int, int, int]:
        """Layer label, position and head label of the head whose patch moves most of the share.

        Raises:
            InputError: no heads were patched.
        """
        means = self.mean(by_head=True)
        layer, position, head = np.unravel_index(int(np.nanargmax(np.abs(means))), means.shape)
        return int(self.layers[int(layer)]), int(position), int(self.heads[int(head)])

    def best(self, site: str | None = None) -> tuple[str, int, int]:
        """Site, layer label and position of the patch that recovers most."""
        means = self.mean()
        if site is not None:
            means = means[[self.sites.index(site)]]
        place = np.unravel_index(int(np.nanargmax(means)), means.shape)
        return (site or str(self.sites[int(place[0])]), int(self.layers[int(place[1])]), int(place[2]))

    def plot(self, *, sites: Sequence[str] | None = None, columns: int = 3) -> Figure:
        """Layer × position heatmaps of `mean()`, one for each site; with heads, layer × head.

        Args:
            sites: Which to draw; all by default.
            columns: Pictures side by side.
        """
        from nbsight.display.heatmaps import heatmaps, site_panels

        chosen = list(sites or self.sites)
        panels = site_panels(
            self.mean()[[self.sites.index(site) for site in chosen]],
            None if self.head_values is None else self.mean(by_head=True),
            sites=chosen,
            layers=self.layers,
            positions=self.positions,
            heads=self.heads,
        )
        pairs = len(self.clean)
        return heatmaps(
            panels,
            title=f"{self.title.capitalize()} ({self.direction}) · {self.provenance.get('model', '')}".rstrip(
                " ·"
            ),
            value_title=f"share of the {self.metric} recovered"
            + (f", mean of {pairs} pairs" if pairs > 1 else ""),
            columns=columns,
        )

    def _ends(self, dims: int) -> tuple[Floats, Floats]:
        """The metric of the run that was patched and of the donor, shaped to go with `values`."""
        ends = (self.corrupted, self.clean) if self.direction == "denoise" else (self.clean, self.corrupted)
        shape = (-1,) + (1,) * (dims - 1)
        return ends[0].reshape(shape), ends[1].reshape(shape)

    def _share(self, values: Floats) -> Floats:
        start, end = self._ends(values.ndim)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(has_share(start, end), (values - start) / (end - start), np.nan)

    def _shares(self, by_head: bool) -> Floats:
        if not by_head:
            return self.recovered
        shares = self.head_recovered
        if shares is None:
            raise InputError('no heads were patched: `sites=["z"]` with `heads=True` does.')
        return shares

    def _of_pairs(self, what: str, by_head: bool) -> Floats:
        if len(self.clean) < 2:
            raise InputError(f"{what} needs at least two pairs of prompts; this result has one.")
        return self._shares(by_head)

    def __repr__(self) -> str:
        count = len(self.clean)
        lines = [
            f"{self._name} ({self.direction}): {self.metric}"
            + (f", {count} pairs of prompts" if count > 1 else "")
            + ("" if self.is_complete else ", not complete"),
            f"  clean     {_number(self.clean)}  {shorten(repr(self.clean_prompts[0]), 70)}",
            f"  corrupted {_number(self.corrupted)}  {shorten(repr(self.corrupted_prompts[0]), 70)}",
        ]
        if np.isfinite(self.recovered).any():
            site, layer, position = self.best()
            means = self.mean()
            share = means[self.sites.index(site), list(self.layers).index(layer), position]
            lines.append(
                f"  most recovered: {site} of layer {layer} at {visible(self.positions[position])!r} "
                f"({position}): {share:.2f}"
            )
        if self.head_values is not None and np.isfinite(self.mean(by_head=True)).any():
            layer, position, head = self.best_head()
            place = list(self.layers).index(layer), position, list(self.heads).index(head)
            lines.append(
                f"  most moved by head {head} of layer {layer} at {visible(self.positions[position])!r} "
                f"({position}): {self.mean(by_head=True)[place]:.2f}"
            )
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def has_share(start: Any, end: Any) -> Any:
    """Whether two metrics are apart by more than rounding, so that there is a way between them.

    Args:
        start: Numbers, any shape.
        end: Numbers of the same shape.
    """
    return np.abs(np.subtract(end, start)) > 1e-5 * np.maximum(np.abs(start), np.abs(end))


def _mean(shares: Floats) -> Floats:
    known = np.isfinite(shares)
    with np.errstate(invalid="ignore"):
        mean: Any = np.where(known, shares, 0).sum(0) / np.where(known.any(0), known.sum(0), np.nan)
    return np.asarray(mean, np.float64)


def _signs(count: int, seed: int, draws: int) -> Floats:
    if 2**count <= draws:  # all of them: the p-values are exact
        return np.asarray(1.0 - 2.0 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1), np.float64)
    drawn = np.random.default_rng(seed).choice([-1.0, 1.0], (draws - 1, count))
    return np.asarray(np.concatenate([np.ones((1, count)), drawn]), np.float64)


def _number(values: Floats) -> str:
    mean = f"{values.mean():8.3f}"
    return mean if len(values) == 1 else f"{mean} ± {values.std(ddof=1):.3f}"
