"""What ablation found: how a prediction changes when one place of a model is silenced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nbsight.display.text import shorten, visible
from nbsight.results.base import Result, coordinate, variable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Ablation"]


@dataclass(frozen=True, eq=False, repr=False)
class Ablation(Result):
    """The metric of every ablated run beside the plain run's.

    Args:
        prompt: The text that was run.
        sites: What was ablated.
        layers: Which blocks.
        positions: The prompt's tokens, or the names of spans.
        heads: Heads, where `z` was ablated by head; otherwise empty.
        values: The metric of every run, (site, layer, position); NaN at `z` by head.
        head_values: The same by head, (layer, position, head); None without heads.
        baseline: The metric of the plain run.
        method: "zero", "mean" or "resample".
        metric: Name of the metric.
        unit: Its unit.
        notes: What a reader must know before believing the picture.
        resume: Goes on with what is left and returns the whole; None when complete. Never saved.
    """

    title = "ablation"

    prompt: str
    sites: Sequence[str] = coordinate("site")
    layers: Sequence[int] = coordinate("layer")
    positions: Sequence[str] = coordinate("position", name="token")
    heads: Sequence[int] = coordinate("head")
    values: NDArray[np.float64] = variable("site", "layer", "position", name="value")
    head_values: NDArray[np.float64] | None = variable(
        "layer", "position", "head", name="head_value", default=None
    )
    baseline: float = 0.0
    method: str = "zero"
    metric: str = "metric"
    unit: str = "metric"
    notes: Sequence[str] = ()
    resume: Callable[[], Ablation] | None = field(default=None, repr=False, metadata={"saved": False})

    @property
    def is_complete(self) -> bool:
        """Whether every run is done."""
        known = self.values if self.head_values is None else self.head_values
        return self.resume is None and bool(np.isfinite(known).any())

    @property
    def effect(self) -> NDArray[np.float64]:
        """How far each ablation moved the metric, (site, layer, position)."""
        return np.asarray(self.values - self.baseline, np.float64)

    @property
    def head_effect(self) -> NDArray[np.float64] | None:
        """The same by head, (layer, position, head)."""
        return None if self.head_values is None else np.asarray(self.head_values - self.baseline, np.float64)

    def plot(self, *, columns: int = 3) -> Figure:
        """Heatmaps of `effect`, one for each site; by head, layer × head at the position that moves most."""
        from nbsight.display.heatmaps import heatmaps, site_panels

        panels = site_panels(
            self.effect,
            self.head_effect,
            sites=self.sites,
            layers=self.layers,
            positions=self.positions,
            heads=self.heads,
        )
        title = f"{self.method.capitalize()} ablation · {self.provenance.get('model', '')}".rstrip(" ·")
        return heatmaps(panels, title=title, value_title=f"change of the {self.metric}", columns=columns)

    def __repr__(self) -> str:
        lines = [
            f"Ablation ({self.method}) of {shorten(repr(self.prompt), 60)}: {self.metric}"
            + ("" if self.is_complete else ", not complete"),
            f"  plain run {self.baseline:8.3f}",
        ]
        if np.isfinite(self.effect).any():
            place = np.unravel_index(int(np.nanargmax(np.abs(self.effect))), self.effect.shape)
            site, layer, position = (int(index) for index in place)
            moved = self.effect[site, layer, position]
            lines.append(
                f"  most moved by {self.sites[site]} of layer {self.layers[layer]} at "
                f"{visible(self.positions[position])!r} ({position}): {moved:+.3f}"
            )
        by_head = self.head_effect
        if by_head is not None and np.isfinite(by_head).any():
            place = np.unravel_index(int(np.nanargmax(np.abs(by_head))), by_head.shape)
            layer, position, head = (int(index) for index in place)
            lines.append(
                f"  most moved by head {self.heads[head]} of layer {self.layers[layer]} at "
                f"{visible(self.positions[position])!r} ({position}): {by_head[layer, position, head]:+.3f}"
            )
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)
