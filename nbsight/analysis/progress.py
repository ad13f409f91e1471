"""How far a sweep has come: shown under its cell, and a job for whoever lists them."""

from __future__ import annotations

import os
from typing import Any

from nbsight.core.in_cell import InCell
from nbsight.core.jobs import Job

__all__ = ["Progress"]


class Progress:
    """A bar in the cell and a job for whoever lists them; a job that was told to stop is interrupted.

    The bar is the jobs widget where the notebook extension is loaded, else tqdm's.

    Args:
        total: How many runs there are; None where nobody knows.
        what: What both are labelled with.
        progress: True shows the bar at once, False never; None leaves it to the time (it is shown when
            it takes longer than half a second) and to TQDM_DISABLE.
        model: The name of the model.
        done: How many runs were done before.

    Attributes:
        bar: The bar, tqdm's.
        job: What others see of the work.
        n: How many runs are done.
    """

    def __init__(
        self, total: int | None, what: str, progress: bool | None, model: str = "", *, done: int = 0
    ) -> None:
        from tqdm.auto import tqdm

        # In a notebook tqdm itself does not look there.
        off = bool(os.environ.get("TQDM_DISABLE")) if progress is None else not progress
        self.job = Job(what, total=total, model=model)
        self.n = done
        self._cell = None if off else InCell(self.job, at_once=bool(progress))
        has_widget = self._cell is not None and self._cell.is_possible
        self.bar = tqdm(
            total=total,
            desc=what,
            delay=0 if progress else 0.5,
            leave=False,
            disable=off or has_widget,
            initial=done,
        )

    def update(self, count: int, note: str | None = None) -> None:
        """So many more runs are done.

        Args:
            count: How many.
            note: What to say beside it, such as a rate in other units.

        Raises:
            KeyboardInterrupt: the job was told to stop.
        """
        self.n += count
        if note is not None:
            self.bar.set_postfix_str(note, refresh=False)
        self.bar.update(count)
        self.job.advance(to=self.n, note=note)
        if self._cell is not None:
            self._cell.look()
        self.job.check()

    def __enter__(self) -> Progress:
        self.job.start(self.n)
        if self._cell is not None:
            self._cell.look()
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.close()
        self.job.__exit__(*error)
        if self._cell is not None:
            self._cell.close()
