"""What a remote trace takes besides the trace's own arguments."""

from __future__ import annotations

from typing import Any, NamedTuple

from nbsight.core.backend import Job
from nbsight.errors import RemoteError

__all__ = ["Options", "take_options"]


class Options(NamedTuple):
    """How a block is sent.

    Args:
        blocking: Whether to wait for the result.
        verbose: Whether to show how far the job has come.
        job_id: An earlier job whose result is wanted.
        timeout: Seconds that the job may run.
        rehearse: Whether to run the block here on shapes before it is sent; None means if it would wait.
    """

    blocking: bool = True
    verbose: bool = True
    job_id: str | None = None
    timeout: float | None = None
    rehearse: bool | None = None


def take_options(job: Job) -> tuple[Options, dict[str, Any]]:
    """The options among a job's arguments, and the other arguments.

    Raises:
        RemoteError: a session was given something else.
    """
    known = Options._fields
    given = {name: value for name, value in job.kwargs.items() if name in known and value is not None}
    rest = {name: value for name, value in job.kwargs.items() if name not in known}
    if job.kind == "session" and rest:
        raise RemoteError(
            f"a session takes {', '.join(known)} and remote, and was given {', '.join(sorted(rest))}; "
            "give prompts and their options to the traces inside it."
        )
    return Options(**given), rest
