"""How far a sweep has come: a bar with the time that is left, and a job for whoever lists them."""

from __future__ import annotations

import os
from typing import Any

from nbsight.core.jobs import Job

__all__ = ["Progress"]


class Progress:
    """A bar in the cell and a job for whoever lists them; a job that was told to stop is interrupted.

    Args:
        total: How many runs there are.
        what: What both are labelled with.
        progress: True shows the bar at once, False never; None leaves it to the time (it is shown when
            it takes longer than half a second) and to TQDM_DISABLE.
        model: The name of the model.

    Attributes:
        bar: The bar, tqdm's.
        job: What others see of the work.
        n: How many runs are done.
    """

    def __init__(self, total: int, what: str, progress: bool | None, model: str = "") -> None:
        from tqdm.auto import tqdm

        # In a notebook tqdm itself does not look there.
        off = bool(os.environ.get("TQDM_DISABLE")) if progress is None else not progress
        self.bar = tqdm(total=total, desc=what, delay=0 if progress else 0.5, leave=False, disable=off)
        self.job = Job(what, total=total, model=model)
        self.n = 0

    def update(self, count: int) -> None:
        """So many more runs are done.

        Raises:
            KeyboardInterrupt: the job was told to stop.
        """
        self.n += count
        self.bar.update(count)
        self.job.advance(to=self.n)
        self.job.check()

    def __enter__(self) -> Progress:
        self.job.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.close()
        self.job.__exit__(*error)
