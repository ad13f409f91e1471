"""The jobs widget under a cell that waits for a job."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from nbsight.core.jobs import Job
from nbsight.errors import NbsightWarning

__all__ = ["present"]


def present(job: Job) -> Callable[[], None] | None:
    """Show a job under the running cell.

    Args:
        job: The job.

    Returns:
        What to call when the cell waits no longer: the copy that the notebook keeps is made then.
    """
    try:
        from IPython.display import display

        from nbsight.widgets.jobs import JobsWidget

        widget = JobsWidget(job)
        handle = display(widget, display_id=True)
    except Exception as error:  # work goes on whatever happens to its bar
        warnings.warn(f"the bar of {job.title!r} cannot be shown: {error}", NbsightWarning, stacklevel=2)
        return None
    return None if handle is None else lambda: handle.update(widget)
