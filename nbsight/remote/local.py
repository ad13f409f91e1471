"""The backend that encodes a block, decodes it in the same process and runs it there."""

from __future__ import annotations

import dataclasses
from types import TracebackType
from typing import Any

from nbsight.core.backend import Job
from nbsight.core.tracebacks import entries_of, is_own
from nbsight.errors import RemoteError
from nbsight.wire.execute import answer
from nbsight.wire.jobs import encode_job
from nbsight.wire.messages import frame, unframe
from nbsight.wire.results import decode_result

__all__ = ["LocalBackend"]

#: What nnsight's remote traces take besides the trace's own arguments.
_OPTIONS = ("blocking", "verbose", "job_id")


class LocalBackend:
    """`remote="local"`: everything travels as bytes, and nothing leaves the process."""

    def run(self, job: Job) -> dict[str, Any]:
        """Run a job and return the names that it bound.

        Raises:
            RemoteError: the block cannot travel.
            Exception: what the block raised, on the user's line.
        """
        __tracebackhide__ = True
        job = _without_options(job)
        header, blob, sent = encode_job(job)
        data = frame(header, blob)
        try:
            reply = frame(*answer(*unframe(data), job.model))
        except Exception as error:  # the user's own, which we only shorten
            raise error.with_traceback(_users_part(error.__traceback__)) from error.__cause__
        return decode_result(*unframe(reply), job.model, sent)


def _without_options(job: Job) -> Job:
    """The job without what only concerns how it is sent: here it is always done at once."""
    if job.kwargs.get("job_id") is not None:
        raise RemoteError(
            f'job_id={job.kwargs["job_id"]!r} asks for an earlier job, and remote="local" keeps none; '
            "leave it out to run the block."
        )
    kwargs = {name: value for name, value in job.kwargs.items() if name not in _OPTIONS}
    if job.kind == "session" and kwargs:
        raise RemoteError(
            f"a session takes {', '.join(_OPTIONS)} and remote, and was given {', '.join(sorted(kwargs))}; "
            "give prompts and their options to the traces inside it."
        )
    return dataclasses.replace(job, kwargs=kwargs)


def _users_part(trace: TracebackType | None) -> TracebackType | None:
    """A traceback from the first frame on that is not this package's."""
    return next((entry for entry in entries_of(trace) if not is_own(entry)), trace)
