"""The backend that encodes a block, decodes it in the same process and runs it there."""

from __future__ import annotations

import dataclasses
from typing import Any

from nbsight.core.backend import Job
from nbsight.core.tracebacks import users_part
from nbsight.errors import RemoteError
from nbsight.remote.options import take_options
from nbsight.wire.execute import answer
from nbsight.wire.jobs import encode_job
from nbsight.wire.messages import frame, unframe
from nbsight.wire.results import decode_result

__all__ = ["LocalBackend"]


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
            raise error.with_traceback(users_part(error.__traceback__)) from error.__cause__
        return decode_result(*unframe(reply), job.model, sent)


def _without_options(job: Job) -> Job:
    """The job without what only concerns how it is sent: here it is always done at once."""
    options, kwargs = take_options(job)
    if options.job_id is not None:
        raise RemoteError(
            f'job_id={options.job_id!r} asks for an earlier job, and remote="local" keeps none; '
            "leave it out to run the block."
        )
    return dataclasses.replace(job, kwargs=kwargs)
