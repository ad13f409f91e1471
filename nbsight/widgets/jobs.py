"""Work under way, live: local sweeps and remote jobs, how far each is, what it said, and a way to stop it."""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from nbsight.core import jobs
from nbsight.core.job_rows import Pace, job_row
from nbsight.core.jobs import Job
from nbsight.widgets.base import Widget
from nbsight.widgets.code import name_of
from nbsight.widgets.desk import Answer, Command
from nbsight.widgets.jobs_text import jobs_figure, jobs_text
from nbsight.widgets.loops import let_through
from nbsight.widgets.payload import Payload, encode
from nbsight.widgets.worker import Job as Request
from nbsight.widgets.worker import Worker

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["JobsWidget"]

SHOWN = 20  # jobs in one view; older ones are counted

_views: weakref.WeakSet[JobsWidget] = weakref.WeakSet()


class JobsWidget(Widget):
    """All jobs of this kernel, newest first; or one of them, as a bar under its cell.

        JobsWidget()
        JobsWidget(job)                     # anything that makes a `nbsight.core.jobs.Job`

    Args:
        source: One job; or nothing, or `nbsight.jobs`, for all.

    Attributes:
        result: What came of the chosen job, or of the one on show; None while there is nothing.
        selection: `(id,)` of the chosen job, or None.
        state: `logs`, the ids of jobs whose log is open.
    """

    view = "jobs"
    axes: ClassVar[tuple[str, ...]] = ("job",)
    defaults: ClassVar[Mapping[str, Any]] = {"logs": []}

    def __init__(self, source: Any = None, **kwargs: Any) -> None:
        self._only = source if isinstance(source, Job) else None
        self._drawing = threading.Lock()
        self._pace = Pace(self._draw)
        # a thread of its own: stopping a sweep must not wait for the sweep
        super().__init__(self._payload(), Worker(), **kwargs)
        let_through(self.comm)
        _views.add(self)
        if _note not in jobs.listeners:
            jobs.listeners.append(_note)

    @property
    def result(self) -> Any:
        job = self._chosen_job()
        return None if job is None else job.result

    def commands(self) -> dict[str, Command]:
        return {"cancel": self._cancel, "log": self._log, "code": self._code_of}

    def chosen(self, selection: Any) -> tuple[str]:
        (key,) = selection
        try:
            return (jobs.find(key).id,)
        except LookupError as error:
            raise IndexError(error.args[0]) from None

    def close(self) -> None:
        """Follow the jobs no more; they go on."""
        _views.discard(self)
        if not _views and _note in jobs.listeners:
            jobs.listeners.remove(_note)
        self._pace.stop()
        super().close()

    # --- what happens ---------------------------------------------------------------------------

    def note(self, job: Job) -> None:
        """Something about a job is different; on any thread."""
        if self._only is None or job is self._only:
            self._pace.note(job)

    def _draw(self, job: Job) -> None:
        with self._drawing:
            if self.comm is not None:
                self.header = self._payload().header

    def _payload(self) -> Payload:
        every = [self._only] if self._only is not None else jobs.jobs()[::-1]
        return encode(
            "jobs",
            {
                "jobs": [job_row(job) for job in every[:SHOWN]],
                "older": max(0, len(every) - SHOWN),
                "single": self._only is not None,
                "at": time.time(),
                "code": "from nbsight.widgets import JobsWidget\n\nJobsWidget()",
                "provenance": {},
                "live": True,
            },
            {},
        )

    # --- what the page asks ---------------------------------------------------------------------

    def _cancel(self, params: dict[str, Any], request: Request) -> Answer:
        """Tell a job to stop."""
        jobs.find(params.get("job")).cancel()
        return {}, []

    def _log(self, params: dict[str, Any], request: Request) -> Answer:
        """All that a job has said, as far as it is kept."""
        return {"lines": list(jobs.find(params.get("job")).log)}, []

    def _code_of(self, params: dict[str, Any], request: Request) -> Answer:
        """The cell that has a job's result."""
        return {"code": _result_code(jobs.find(params.get("job")))}, []

    # --- copies ---------------------------------------------------------------------------------

    def _chosen_job(self) -> Job | None:
        if self.selection is None:
            return self._only
        try:
            return jobs.find(self.selection[0])
        except LookupError:
            return None

    def to_code(self) -> str:
        """The cell that has the chosen job's result, or that shows all jobs."""
        job = self._chosen_job()
        return str(self.header["code"]) if job is None else _result_code(job)

    def figure(self) -> Figure:
        return jobs_figure(self.header["jobs"])

    def still_picture(self) -> bytes | None:
        # The bar under a cell is to cost nothing; when the job is over it is shown anew, with a picture.
        return None if self._only is not None and not self._only.is_over else super().still_picture()

    def still_text(self) -> str:
        return jobs_text(self.header["jobs"])

    def table(self) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        columns = (
            "id",
            "title",
            "model",
            "state",
            "done",
            "total",
            "rate",
            "left",
            "seconds",
            "note",
            "error",
        )
        return columns, ([row[column] for column in columns] for row in self.header["jobs"])


def _note(job: Job) -> None:
    for view in list(_views):
        view.note(job)


def _result_code(job: Job) -> str:
    """A cell whose value is what came of a job."""
    if job.code:
        return job.code
    held = job.result
    name = "" if held is None else name_of(held, "") or _output_of(held)
    if name:
        return name
    return f"from nbsight.core.jobs import find\n\nresult = find({job.id!r}).result\nresult"


def _output_of(value: Any) -> str:
    """`Out[3]`, if that is what a value is."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    outputs = {} if shell is None else shell.user_ns.get("Out", {})
    return next((f"Out[{number}]" for number, held in list(outputs.items()) if held is value), "")
