"""Sweeps: one prompt run many times, each time changed at another place.

Runs that differ from layer 7 on are the same up to layer 6, so they are one row until there; runs that
differ from position 5 on need not compute the positions before it. A sweep runs the prompt once, lets a
row join the batch where it begins to differ, takes keys and values of what comes before from the plain
run, and computes logits only where they are read. Where a model's forward does not allow it, all rows
run from the start, with the same numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nbsight.analysis.growing import Change, Plain, Point, is_edited, plain_run, run_points
from nbsight.analysis.memory import is_out_of_memory, let_go, rows_that_fit
from nbsight.analysis.strategy import begin_together, may_use_prefix, ways_of
from nbsight.errors import InputError
from nbsight.models.language_model import LanguageModel

__all__ = ["Measure", "Sweep"]

#: Numbers of runs: logits (row, read position, d_vocab) to an array or tensor (row, ...).
Measure = Callable[[torch.Tensor], Any]


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
        prefix: Whether positions before the first changed one are taken from the plain run; None tries it
            out, and does it where it is quicker.
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
        prefix: bool | None = None,
    ) -> None:
        if batch is not None and (not isinstance(batch, int) or batch < 1):
            raise InputError(f"batch={batch!r} is no number of runs; write 1 or more.")
        self.model, self.ids, self.points = model, ids, tuple(points)
        self.change: Change | None = change
        self.measure, self.read = measure, tuple(read)
        self.grow, self.prefix = grow, prefix
        if is_edited(model):
            # A kept edit may speak of rows and positions: each run is as a trace of it would be.
            batch, self.grow, self.prefix = 1, False, False
        self.values: NDArray[np.float64] | None = None
        self.base: NDArray[np.float64] | None = None
        """The measure of the plain run."""
        self.done = np.zeros(len(self.points), bool)
        self.rows = batch or rows_that_fit(model, ids.shape[1], len(self.read))
        """Rows in one batch; fewer after memory has run out."""
        self._plain: Plain | None = None
        #: What is left: the position from which a group is computed, and its points.
        self._waiting: deque[tuple[int, list[int]]] = deque()

    @property
    def is_complete(self) -> bool:
        """Whether every run is done."""
        return self.base is not None and bool(self.done.all())

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[int]:
        if self.is_complete:
            return
        if self._plain is None and not self._waiting:
            self._begin()
        while self._waiting:
            start, group = self._waiting[0]
            batch = group[: self.rows]
            try:
                measured = self._run(batch, start)
            except Exception as error:
                if self.rows == 1 or not is_out_of_memory(error):
                    raise
                self.rows = max(1, min(self.rows, len(batch)) // 2)
            else:
                del group[: len(batch)]
                if not group:
                    self._waiting.popleft()
                self._keep(batch, measured)
                yield int(self.done.sum())
                continue
            let_go()  # here, where the error and all that it holds are gone
        # With many prompts, what only runs need would fill the memory.
        self._plain = self.change = None

    def run(self) -> None:
        """Run what is left; whatever stops it leaves what is done, and `run` goes on from there."""
        for _ in self:
            pass

    # -- one batch -----------------------------------------------------------------------------

    def _begin(self) -> None:
        """Run the prompt as it is, and decide how the rest is run."""
        ways = ways_of(self.model) if self.grow is None or self.prefix is None else None
        if self.grow is None:
            self.grow = ways is not None and ways.grow
        length = self.ids.shape[1]
        first_read = min(position % length for position in self.read)
        wanted = self.prefix
        if wanted is None:
            wanted = ways is not None and ways.prefix and may_use_prefix(self.model, length)
        groups = [list(range(len(self.points)))]
        if wanted:
            groups = begin_together(self.model, length, self.points, first_read, grow=self.grow)
        starts = [
            min((min(self.points[index].positions) for index in group), default=0) if wanted else 0
            for group in groups
        ]
        starts = [min(start, first_read) for start in starts]
        self.prefix = any(starts)
        # Later layers last, so that a batch begins to grow as late as it can.
        for start, group in zip(starts, groups, strict=True):
            self._waiting.append((start, sorted(group, key=lambda index: self.points[index].order)))

    def _run(self, batch: list[int], start: int) -> NDArray[np.float64]:
        """The measures of some runs, (run, ...); the first time of the plain run as well."""
        points = [self.points[index] for index in batch]
        if self._plain is None:
            along = points if start == 0 and self.rows > 1 else []
            plain, logits = plain_run(
                self.model,
                self.ids,
                self.read,
                prefix=bool(self.prefix),
                points=along,
                change=self.change,
                grow=bool(self.grow),
            )
            measured = self._measured(torch.cat([plain.logits, logits]), [None, *along])
            self.base, self._plain = measured[0], plain
            self.values = np.full((len(self.points), *self.base.shape), np.nan)
            if along:
                return measured[1:]
        if not points:
            return self.values[:0] if self.values is not None else np.empty(0)
        assert self.change is not None
        logits = run_points(
            self.model, self._plain, points, self.change, self.read, grow=bool(self.grow), start=start
        )
        return self._measured(logits, points)

    def _measured(self, logits: torch.Tensor, points: Sequence[Point | None]) -> NDArray[np.float64]:
        """The measures of runs, (run, ...)."""
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
            point = points[where]
            which = "the plain run" if point is None else f"the run changed at {point}"
            raise InputError(
                f"the metric gave {values[where]} for {which}; its logits are "
                f"{'finite' if torch.isfinite(logits[where]).all() else 'not finite themselves'}."
            )
        return values

    def _keep(self, batch: list[int], measured: NDArray[np.float64]) -> None:
        assert self.values is not None
        self.values[batch] = measured
        self.done[batch] = True
