"""`remote=True` and `remote="http://..."`: a block as a job on a server."""

from __future__ import annotations

import dataclasses
from typing import Any

from nbsight.core.backend import Job
from nbsight.core.displays import name_of
from nbsight.core.tracebacks import users_part
from nbsight.errors import RemoteError
from nbsight.remote.addresses import find_client
from nbsight.remote.attached import attach
from nbsight.remote.client import Client
from nbsight.remote.fitting import check_fits
from nbsight.remote.job import RemoteJob, Sender
from nbsight.remote.listed import list_job
from nbsight.remote.options import Options, take_options
from nbsight.remote.rehearsal import rehearse, would_wait
from nbsight.wire.jobs import pack_job
from nbsight.wire.messages import frame

__all__ = ["ServerBackend"]


class ServerBackend:
    """Sends blocks to a server.

    Args:
        remote: True, or the server's address.
    """

    def __init__(self, remote: Any) -> None:
        self.remote = remote

    def run(self, job: Job) -> dict[str, Any]:
        """Run a job there and return the names that it bound.

        With `blocking=False` it returns at once, and the name after `as` means the job.

        Raises:
            RemoteError: the block cannot travel, or the server cannot or will not run it.
            Exception: what the block raised, on the user's line.
        """
        __tracebackhide__ = True
        options, kwargs = take_options(job)
        client = find_client(self.remote)
        if options.job_id is not None:
            return attach(client, options.job_id).result(verbose=options.verbose)
        sent = send(client, dataclasses.replace(job, kwargs=kwargs), options)
        if not options.blocking:
            return {} if job.target is None else {job.target: sent}
        try:
            return sent.result(verbose=options.verbose)
        except Exception as error:  # the user's own, which we only shorten
            raise error.with_traceback(users_part(error.__traceback__)) from None


def send(client: Client, job: Job, options: Options) -> RemoteJob:
    """Send a job; returns as soon as the server has it.

    Raises:
        RemoteError: the block cannot travel, or the server will not take it.
    """
    __tracebackhide__ = True
    if client.kind == "ndif":
        return _to_ndif(client, job, options)
    info = client.info()
    check_fits(client, info, job)
    parcel = pack_job(job)
    asked = options.rehearse
    if would_wait(info, str(job.model.__dict__.get("_name"))) if asked is None else asked:
        rehearse(job, parcel)
    is_here = client.url.startswith(("http://127.0.0.1", "http://localhost"))
    data = frame(parcel.header, parcel.blob, deflate=not is_here)
    if len(data) > info.limits.request:
        raise RemoteError(
            f"the block takes {len(data):,} bytes along, and the server takes {info.limits.request:,}. "
            "Send less: a part of the tensor, or half precision."
        )
    stream = client.submit(data, options.timeout)
    first = next(stream, None)
    if first is None or first.kind != "job":
        raise RemoteError(f"what answers at {client.url} is no nbsight server: it named no job.")
    sender = Sender(job.model, parcel.objects, parcel.files)
    sent = RemoteJob(client, first.data["id"], sender, stream)
    list_job(sent, job.kind, name_of(job.model), is_detached=not options.blocking)
    return sent


def _to_ndif(client: Client, job: Job, options: Options) -> RemoteJob:
    from nbsight.remote.ndif.job import send_to_ndif  # few send there
    from nbsight.remote.ndif.service import NdifClient

    assert isinstance(client, NdifClient)
    return send_to_ndif(client, job, options)
