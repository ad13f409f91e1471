"""A job shown under the cell that waits for it, by whoever can draw there.

Whoever runs the job makes an `InCell` and lets it look now and then; whoever draws puts itself into
`presenters`, as `%load_ext nbsight` does with the jobs widget. Where nobody is, the work shows itself as it
always did: in text.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from nbsight.core.jobs import Job

__all__ = ["PATIENCE", "InCell", "presenters"]

PATIENCE = 0.5  # seconds that work may take before it is shown

#: Each shows a job under the running cell and returns what to call when nobody waits for it any more, or None
#: if it cannot show one. The last is asked first.
presenters: list[Callable[[Job], Callable[[], None] | None]] = []


class InCell:
    """One job under its cell, from half a second on; nothing is shown of work that is faster.

    Args:
        job: The job.
        at_once: Whether to show it from the start.
    """

    def __init__(self, job: Job, *, at_once: bool = False) -> None:
        self._job = job
        self._due = time.monotonic() + (0.0 if at_once else PATIENCE)
        self._leave: Callable[[], None] | None = None
        # what another thread shows would go under whatever cell runs then
        self._is_given_up = not presenters or threading.current_thread() is not threading.main_thread()

    @property
    def is_possible(self) -> bool:
        """Whether somebody can show it; if not, the work has to show itself."""
        return not self._is_given_up

    def look(self) -> None:
        """Show it if it is time. To be called on the thread of the cell."""
        if self._leave is None and not self._is_given_up and time.monotonic() >= self._due:
            for present in reversed(presenters):
                self._leave = present(self._job)
                if self._leave is not None:
                    return
            self._is_given_up = True

    def close(self) -> None:
        """The cell waits no longer: what is shown becomes what the notebook keeps."""
        leave, self._leave = self._leave, None
        self._is_given_up = True
        if leave is not None:
            leave()
