"""Sweeps: one prompt run many times, each time changed at another place.

Runs that differ from layer 7 on are the same up to layer 6, so they are one row until there. A sweep
runs the prompt once, lets a row join the batch where it begins to differ (a *growing batch*), and
computes logits only where they are read. Where a model's forward cannot grow it runs all rows from
the start, with the same numbers.
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nbsight.analysis.progress import Progress
from nbsight.analysis.unembedding import last_blocks, unembedding_of
from nbsight.core.displays import name_of
from nbsight.errors import InputError
from nbsight.models.language_model import LanguageModel

__all__ = [
    "SITES",
    "Change",
    "Measure",
    "Point",
    "Sweep",
    "can_grow",
    "run_points",
    "stored_values",
]

#: Where a block can be changed, in the order in which it computes them.
SITES = ("resid_pre", "z", "attn_out", "resid_mid", "mlp_out", "resid_post")

#: What stands at some places becomes what: `change(layer, site, where, current)`. `where` is one index
#: tensor for positions and, at `z`, one for heads; `current` and the result are (place, d_model).
Change = Callable[[int, str, tuple[torch.Tensor, ...], torch.Tensor], torch.Tensor]

#: Numbers of runs: logits (row, read position, d_vocab) to an array or tensor (row, ...).
Measure = Callable[[torch.Tensor], Any]

_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Point:
    """One run of a sweep: where it differs from the plain run.

    Args:
        layer: Index of the block.
        site: One of `SITES`.
        positions: Indices of tokens, counted from the first.
        heads: Indices of heads, for `z`; None means all.
    """

    layer: int
    site: str
    positions: tuple[int, ...]
    heads: tuple[int, ...] | None = None


class Sweep:
    """Many runs of one prompt, in batches; stop it and go on when you like.

        sweep = Sweep(model, ids, points, change, measure)
        for done in sweep:            # after each batch: how many runs are done
            sweep.values              # (run, ...), NaN where nothing is known yet

    Args:
        model: A language model.
        ids: The prompt, (1, position).
        points: One for each run.
        change: What a run's places become.
        measure: What is kept of each run.
        read: Positions whose logits are measured.
        batch: Rows in one batch; None for as many as fit the free memory.
        grow: Whether rows join the batch where they begin to differ; None tries it out.
    """

    def __init__(
        self,
        model: LanguageModel,
        ids: torch.Tensor,
        points: Sequence[Point],
        change: Change,
        measure: Measure,
        *,
        read: Sequence[int] = (-1,),
        batch: int | None = None,
        grow: bool | None = None,
    ) -> None:
        if batch is not None and batch < 1:
            raise InputError(f"batch={batch} leaves no room for a run; write 1 or more.")
        self.model, self.ids, self.points = model, ids, tuple(points)
        self.change, self.measure, self.read = change, measure, tuple(read)
        self.grow = grow
        self.values: NDArray[np.float64] | None = None
        self.base: NDArray[np.float64] | None = None
        """The measure of the plain run."""
        self.done = np.zeros(len(self.points), bool)
        # Later layers last, so that a batch begins to grow as late as it can.
        order = sorted(range(len(self.points)), key=lambda index: _place(self.points[index]))
        self._waiting = list(order)
        self._rows = batch or _rows_that_fit(model, ids.shape[1], len(self.read))

    @property
    def is_complete(self) -> bool:
        """Whether every run is done."""
        return not self._waiting and self.base is not None

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[int]:
        while not self.is_complete:
            if self.grow is None:
                self.grow = can_grow(self.model)
            batch = self._waiting[: self._rows]
            try:
                measured = self._measured(batch)
            except Exception as error:
                if self._rows == 1 or not _is_out_of_memory(error):
                    raise
                self._rows = max(1, min(self._rows, len(batch)) // 2)
                continue
            del self._waiting[: len(batch)]
            self._keep(batch, measured)
            yield int(self.done.sum())

    def run(self, progress: bool | None = None, what: str = "sweep") -> None:
        """Run what is left; a KeyboardInterrupt leaves what is done, and `run` goes on from there.

        Args:
            progress: Whether to show a bar; None shows one if it takes longer than half a second.
            what: What the bar is labelled with.
        """
        with Progress(len(self), what, progress, name_of(self.model)) as bar:
            bar.update(int(self.done.sum()))
            for done in self:
                bar.update(done - bar.n)

    # -- one batch -----------------------------------------------------------------------------

    def _measured(self, batch: list[int]) -> NDArray[np.float64]:
        """The measures of the plain run and of these, (1 + run, ...)."""
        points = [self.points[index] for index in batch]
        logits = run_points(self.model, self.ids, points, self.change, self.read, grow=bool(self.grow))
        measured = self.measure(logits)
        if isinstance(measured, torch.Tensor):
            measured = measured.detach().cpu().double().numpy()
        values = np.asarray(measured, np.float64)
        if values.ndim == 0 or len(values) != len(logits):
            raise InputError(
                f"a metric turns logits of shape {tuple(logits.shape)} (row, position, d_vocab) into one "
                f"number for each row, shape ({len(logits)},); this one gave shape {values.shape}."
            )
        if not np.isfinite(values).all():
            where = int(np.argwhere(~np.isfinite(values))[0][0])
            which = "the plain run" if where == 0 else f"the run changed at {points[where - 1]}"
            raise InputError(
                f"the metric gave {values[where]} for {which}; its logits are "
                f"{'finite' if torch.isfinite(logits[where]).all() else 'not finite themselves'}."
            )
        return values

    def _keep(self, batch: list[int], measured: NDArray[np.float64]) -> None:
        if self.values is None:
            self.values = np.full((len(self.points), *measured.shape[1:]), np.nan)
        self.base = measured[0]
        self.values[batch] = measured[1:]
        self.done[batch] = True


def run_points(
    model: LanguageModel,
    ids: torch.Tensor,
    points: Sequence[Point],
    change: Change,
    read: Sequence[int],
    *,
    grow: bool,
) -> torch.Tensor:
    """Logits of the plain run and of one run for each point, (1 + point, read position, d_vocab).

    Args:
        model: A language model.
        ids: The prompt, (1, position).
        points: In the order of their layers.
        change: What a run's places become.
        read: Positions whose logits are wanted.
        grow: Whether rows join where they begin to differ; otherwise all run from the start.
    """
    blocks = last_blocks(model)
    groups: dict[int, list[tuple[int, Point]]] = {}
    for row, point in enumerate(points, 1):
        groups.setdefault(point.layer, []).append((row, point))
    start = ids if grow else ids.expand(1 + len(points), -1)
    unembedding = unembedding_of(model, ids)
    head, final = (model.get(model._path_of(part)) for part in (unembedding.head, unembedding.first))
    with model.trace(start, grad=False, use_cache=False, receipts=False):
        for layer in sorted(groups):
            inner = [entry for entry in groups[layer] if entry[1].site != "resid_post"]
            outer = [entry for entry in groups[layer] if entry[1].site == "resid_post"]
            if inner:
                _change_inside(model, blocks[layer], layer, inner, change, grow)
            if outer:
                # At the input of what comes next: a block's own output keeps its number of rows.
                after = blocks[layer + 1] if layer + 1 < len(blocks) else final
                stream = _joined(after.input, len(outer), grow)
                after.input = _changed(stream, layer, "resid_post", outer, change)
        head.input = head.input[:, list(read)]
        logits = model.output.logits
    if logits.shape[0] != 1 + len(points) or logits.shape[1] != len(read):
        raise InputError(
            f"the model's logits came out with shape {tuple(logits.shape)} for {1 + len(points)} rows."
        )
    return logits


def stored_values(
    model: LanguageModel, ids: torch.Tensor, sites: Sequence[str], layers: Sequence[int]
) -> tuple[dict[tuple[int, str], torch.Tensor], torch.Tensor]:
    """What sites hold in a plain run, and its last logits, (1, d_vocab).

    Args:
        model: A language model.
        ids: The prompt, (1, position).
        sites: Some of `SITES`.
        layers: Which blocks.

    Returns:
        By layer and site the value, (position, d_model), at `z` (position, head, d_head); a copy.
    """
    blocks, stored = last_blocks(model), {}
    with model.trace(ids, grad=False):
        for layer in sorted(layers):
            for site in SITES:
                if site not in sites:
                    continue
                if site == "resid_pre":
                    value = blocks[layer].input
                elif site == "resid_post":
                    value = blocks[layer].output[0]
                else:
                    value = model.std.get(site, layer)
                stored[layer, site] = value[0].clone()
        logits = model.output.logits[:, -1].clone()
    return stored, logits


def _change_inside(
    model: LanguageModel,
    block: Any,
    layer: int,
    entries: list[tuple[int, Point]],
    change: Change,
    grow: bool,
) -> None:
    """Let rows join before a block, and change them where they ask inside it."""
    stream = _joined(block.input, len(entries), grow)
    at_start = [entry for entry in entries if entry[1].site == "resid_pre"]
    if grow or at_start:
        block.input = _changed(stream, layer, "resid_pre", at_start, change)
    for site in SITES[1:-1]:
        mine = [entry for entry in entries if entry[1].site == site]
        if mine:
            model.std.set(site, layer, _changed(model.std.get(site, layer), layer, site, mine, change))


def _joined(stream: torch.Tensor, count: int, grow: bool) -> torch.Tensor:
    return torch.cat([stream, stream[:1].expand(count, *stream.shape[1:])]) if grow else stream


def _changed(
    value: torch.Tensor, layer: int, site: str, entries: list[tuple[int, Point]], change: Change
) -> torch.Tensor:
    """The value with each entry's places in its own row changed."""
    if not entries:
        return value
    rows, positions, heads = [], [], []
    for row, point in entries:
        chosen: Sequence[int] = (0,)
        if site == "z":
            chosen = range(value.shape[2]) if point.heads is None else point.heads
        for position in point.positions:
            for which in chosen:
                rows.append(row)
                positions.append(position)
                heads.append(which)
    index = [torch.tensor(part, device=value.device) for part in (rows, positions, heads)]
    places = tuple(index[1:] if site == "z" else index[1:2])
    value = value.clone()
    where = (index[0], *places)
    current = value[where]
    value[where] = change(layer, site, places, current).to(current)
    return value


# -- what fits, and what works -----------------------------------------------------------------------


def _place(point: Point) -> tuple[int, int]:
    return point.layer, SITES.index(point.site)


_grows: weakref.WeakKeyDictionary[nn.Module, tuple[Any, bool]] = weakref.WeakKeyDictionary()


def can_grow(model: LanguageModel) -> bool:
    """Whether rows may join in the middle of this model's forward, found by trying it once.

    Not where the forward hands every block something that has a row for each prompt.
    """
    module = model._model
    kind = getattr(model.config, "_attn_implementation", None)
    known = _grows.get(module)
    if known is None or known[0] != kind:
        known = _grows[module] = (kind, _try_growing(model))
    return known[1]


def _try_growing(model: LanguageModel) -> bool:
    generator = torch.Generator().manual_seed(0)
    size = model._limits.vocabulary or 2
    ids = torch.randint(0, size, (1, 4), generator=generator)
    count = len(last_blocks(model))
    points = [Point(layer, "resid_post", (1,)) for layer in sorted({0, count // 2, count - 1})]

    def half(layer: int, site: str, where: Any, current: torch.Tensor) -> torch.Tensor:
        return current / 2

    whole = run_points(model, ids, points, half, (-1,), grow=False)
    try:
        grown = run_points(model, ids, points, half, (-1,), grow=True)
    except Exception:  # whatever a forward does when rows join it: then they must not
        return False
    return bool(torch.allclose(grown, whole, atol=_TOLERANCE * float(whole.abs().max()), rtol=0))


def _rows_that_fit(model: LanguageModel, positions: int, read: int) -> int:
    """Rows whose values fit into a third of the free memory."""
    module = model._model
    parameter = next(module.parameters())
    text = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    width = int(getattr(text, "hidden_size", 1024))
    inner = max(int(getattr(text, "intermediate_size", None) or 4 * width), 4 * width)
    heads = int(getattr(text, "num_attention_heads", 1) or 1)
    # The stream and its copies, one MLP, the scores of one attention; then logits and a float copy.
    numbers = positions * (8 * width + 3 * inner) + 2 * heads * positions**2
    bytes_ = numbers * parameter.element_size() + 3 * 4 * read * (model._limits.vocabulary or 50_000)
    return max(1, min(1024, math.floor(_free_memory(parameter.device) / 3 / bytes_)))


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo") as file:
            known = dict(line.split(":", 1) for line in file)
        return int(known["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux
        pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 20
        return pages * 4096 // 2


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
