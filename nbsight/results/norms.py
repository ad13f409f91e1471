"""How large the residual stream is, and what each part of a model writes into it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nbsight.display import html
from nbsight.display.text import shorten, visible
from nbsight.errors import InputError
from nbsight.results.base import Result, coordinate, variable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Norms"]

#: What each part is written into.
STREAM_OF = {"attn_out": "resid_pre", "mlp_out": "resid_mid"}
_SPIKE = 5.0
#: Channels that the text names.
NAMED = 3


@dataclass(frozen=True, eq=False, repr=False)
class Norms(Result):
    """L2 norms of the stream and of what is written into it.

    Args:
        prompt: The text that was read.
        components: Parts of a block, in the order in which they are computed.
        layers: Indices of the blocks.
        tokens: The prompt's tokens as text.
        norm: L2 norms over d_model, float32, (component, layer, position).
        turn: Cosine between the stream before and after each block, float32, (layer, position).
        other_layers: The same layers, for the second axis of `alike`.
        alike: Cosine between the streams after every two blocks, the mean over positions from the second on
            (of at most 256 of them), float32, (layer, other_layer).
        channels: The channels of the stream with the largest values, largest first.
        channel_size: How many times the median channel's size each of them has after each block,
            float32, (layer, channel); sizes are root mean squares over positions from the second on.
        model: The name under which the model was loaded.
        detail: How to ask the model for the values themselves: `detail(layer)` returns the components of
            a block by name. None where the model is out of reach; never pickled.
    """

    title = "residual stream norms"

    prompt: str
    components: Sequence[str] = coordinate("component")
    layers: Sequence[int] = coordinate("layer")
    tokens: Sequence[str] = coordinate("position", name="token")
    norm: NDArray[np.float32] = variable("component", "layer", "position", unit="L2 norm")
    turn: NDArray[np.float32] = variable("layer", "position", name="cosine", unit="cosine")
    other_layers: Sequence[int] = coordinate("other_layer")
    alike: NDArray[np.float32] = variable("layer", "other_layer", name="cosine_between", unit="cosine")
    channels: Sequence[int] = coordinate("channel")
    channel_size: NDArray[np.float32] = variable("layer", "channel", unit="times the median channel")
    model: str = ""
    detail: Callable[[int], Mapping[str, Any]] | None = field(
        default=None, repr=False, metadata={"saved": False}
    )

    def of(self, component: str) -> NDArray[np.float32]:
        """The norms of one component, (layer, position)."""
        if component not in self.components:
            raise KeyError(f"there is no {component!r} here; there are {', '.join(self.components)}.")
        found: NDArray[np.float32] = self.norm[list(self.components).index(component)]
        return found

    def ratio(self, component: str) -> NDArray[np.float32]:
        """How large a write is beside the stream that it is added to, (layer, position).

        Args:
            component: "attn_out" or "mlp_out".
        """
        stream = STREAM_OF.get(component)
        if stream is None:
            raise KeyError(f"{component!r} is not written into the stream; attn_out and mlp_out are.")
        # Parallel blocks have no stream between: both read, and add to, the one before.
        return self.of(component) / self.of(stream if stream in self.components else "resid_pre")

    @property
    def spike(self) -> float:
        """How many times the median of later positions the first position's stream is, at its largest."""
        if len(self.tokens) < 2:
            return 1.0
        stream = self.of("resid_post")
        return float((stream[:, 0] / np.median(stream[:, 1:], axis=1)).max())

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth knowing before reading the picture."""
        found = []
        if self.spike > _SPIKE:
            found.append(
                f"the first position is up to {self.spike:.0f} times as large as the others: many models "
                "park attention there. Leave it out of means."
            )
        largest = float(self.channel_size[:, 0].max())
        if largest > 4 * _SPIKE:
            found.append(
                f"channel {self.channels[0]} is up to {largest:.0f} times the median channel, so cosines "
                "between streams say little else."
            )
        return tuple(found)

    def plot(self, what: str = "norm") -> Figure:
        """A still picture.

        Args:
            what: "norm": one line for each component, the median over positions with its range. "ratio": the
                same of what attention and MLP write, beside the stream they write to. "cosine": a heatmap of
                the streams after every two blocks. Or a component: its norms by layer and position.

        Raises:
            InputError: there is no such picture.
        """
        if what in ("norm", "ratio"):
            return self._lines(what)
        from nbsight.display.heatmaps import heatmaps

        rows = list(map(str, self.layers))
        if what == "cosine":
            panel = ("", self.alike, rows, list(map(str, self.other_layers)))
            title, unit = "Cosine between the streams after two blocks", "mean cosine over positions"
        elif what in self.components:
            panel = ("", self.of(what), rows, [visible(token) for token in self.tokens])
            title, unit = f"Norms of {what}", "L2 norm"
        else:
            raise InputError(
                f"norms draw norm, ratio, cosine, or one of {', '.join(self.components)}; not {what!r}."
            )
        return heatmaps(
            [panel],
            title=f"{title} · {self.model}".rstrip(" ·"),
            value_title=unit,
            column_title="layer" if what == "cosine" else "",
        )

    def _lines(self, what: str) -> Figure:
        from nbsight.display.lines import lines_figure

        start = 1 if self.spike > _SPIKE and len(self.tokens) > 1 else 0
        # The stream before a block is the stream after the one below it.
        drawn = [name for name in self.components if name not in ("resid_pre", "resid_mid")]
        if what == "norm":
            shown = [(name, self.of(name)[:, start:]) for name in drawn]
        else:
            shown = [(name, self.ratio(name)[:, start:]) for name in drawn if name in STREAM_OF]
        series = [(name, np.median(values, axis=1), values.min(1), values.max(1)) for name, values in shown]
        titles = {"norm": "Norms of the stream and its parts", "ratio": "What is written, beside the stream"}
        where = "positions from the second" if start else "positions"
        return lines_figure(
            series,
            places=list(map(str, self.layers)),
            title=f"{titles[what]} · {self.model}".rstrip(" ·"),
            x_title="layer",
            y_title=f"{'L2 norm' if what == 'norm' else 'share'} (median and range of {where})",
        )

    def __repr__(self) -> str:
        lines = [self._head]
        for first, *cells, last in [self._columns(), *self._cells()]:
            lines.append(f"{first:>5}{''.join(f'{cell:>12}' for cell in cells)}{last:>10}")
        return "\n".join([*lines, *self._said()])

    def _html(self) -> Sequence[str]:
        grid = html.table(self._columns(), self._cells())
        return html.heading(self._head), grid, html.lines(self._said())

    @property
    def _head(self) -> str:
        head = f"Norms of {shorten(repr(self.prompt), 60)}" + (f" through {self.model}" if self.model else "")
        return f"{head}: L2 norm, median over positions"

    def _columns(self) -> list[str]:
        return ["layer", *self.components, "cosine"]

    def _cells(self) -> list[list[str]]:
        """The table of medians, last layer first."""
        medians, turns = np.median(self.norm, axis=-1), np.median(self.turn, axis=-1)
        return [
            [str(self.layers[row]), *(f"{part[row]:.3g}" for part in medians), f"{turns[row]:.3f}"]
            for row in range(len(self.layers) - 1, -1, -1)
        ]

    def _said(self) -> list[str]:
        notes = [f"note: {note}" for note in self.notes]
        sizes = self.channel_size.max(0)[:NAMED]
        largest = ", ".join(f"{name} ({size:.2g})" for name, size in zip(self.channels, sizes, strict=False))
        channels = f"largest channels, in times the median one: {largest}"
        return [*notes, channels, "tokens: " + " ".join(visible(token) for token in self.tokens[:24])]
