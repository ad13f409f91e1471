"""`nbsight.jobs`: your jobs on the server, also those that another kernel sent."""

from __future__ import annotations

import html
import time
from collections.abc import Iterator

from nbsight.errors import RemoteError
from nbsight.remote.addresses import find_client
from nbsight.remote.client import Client
from nbsight.remote.job import RemoteJob
from nbsight.remote.tables import jobs_table

__all__ = ["Jobs", "attach", "jobs"]


def attach(client: Client, job: str) -> RemoteJob:
    """A job that was sent before, perhaps by another kernel."""
    if client.kind == "ndif":
        from nbsight.remote.ndif.job import NdifJob
        from nbsight.remote.ndif.service import NdifClient

        assert isinstance(client, NdifClient)
        return NdifJob(client, job)
    return RemoteJob(client, job)


class Jobs:
    """Your jobs on the server that `remote=True` means: `jobs["3f97"]`, `jobs[0]` for the newest."""

    def __getitem__(self, job: str | int) -> RemoteJob:
        """A job by its id, by the first four characters of it or more, or by its number from the newest."""
        client = find_client(True)
        if isinstance(job, int):
            found = client.jobs(abs(job) + 1)
            if not -len(found) <= job < len(found):
                raise RemoteError(f"you have {len(found)} jobs on {client.url}, and asked for number {job}.")
            info = found[job]
        else:
            info = client.job(job)
        attached = attach(client, info.id)
        # What it is now, as words; its end is heard when it is waited for.
        attached.progress = info.state.lower()
        return attached

    def __iter__(self) -> Iterator[RemoteJob]:
        client = find_client(True)
        return iter([attach(client, info.id) for info in client.jobs()])

    def __repr__(self) -> str:
        try:
            return jobs_table(find_client(True).jobs(), time.time())
        except RemoteError as error:  # to be shown must not fail
            return f"no jobs to show: {error}"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


jobs = Jobs()
"""Your jobs on the server."""
