"""A job on NDIF: sent, attached to from another kernel, and its result opened with care."""

from __future__ import annotations

import io
import os
import pickle
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from nbsight.core.backend import Job
from nbsight.core.displays import name_of
from nbsight.errors import NbsightWarning, RemoteError
from nbsight.remote.job import RemoteJob, Sender
from nbsight.remote.listed import list_job
from nbsight.remote.ndif.records import Record, keep
from nbsight.remote.ndif.service import NdifClient
from nbsight.remote.ndif.twin import request_of
from nbsight.remote.options import Options
from nbsight.remote.rehearsal import rehearse
from nbsight.wire.jobs import pack_job
from nbsight.wire.missing import NotHere

__all__ = ["NdifJob", "send_to_ndif"]

#: Bytes that a result may unpack to; a small file can hold an endless row of zeros.
_MOST = 2**36


class NdifJob(RemoteJob):
    """One job on NDIF.

    Args:
        client: NDIF.
        job_id: Its id, or the first characters of it.
        record: What is remembered of it, where that is at hand.
    """

    def __init__(self, client: NdifClient, job_id: str, record: Record | None = None) -> None:
        record = record or client.record(job_id)
        super().__init__(client, record.id, Sender(None, {}, {record.filename: record.home}))
        self._names = record.names
        self._trusts = False

    def result(
        self, timeout: float | None = None, *, verbose: bool = True, trust: bool = False
    ) -> dict[str, Any]:
        """The names that the block saved, once the job has ended.

        Args:
            timeout: Seconds to wait.
            verbose: Whether to show how far it has come.
            trust: Whether to open a result that holds more than tensors and plain data. Opening it
                runs code that NDIF chooses.

        Raises:
            RemoteError: the job was cancelled, is not known any more, or its result is of that kind.
            Exception: what the block raised, on the user's line.
        """
        __tracebackhide__ = True
        self._trusts = trust or os.environ.get("NBSIGHT_TRUST_NDIF") == "1"
        return super().result(timeout, verbose=verbose)

    def _decoded(self, verbose: bool) -> dict[str, Any]:
        content = self._fetch(verbose)
        names = _opened(content, self.job_id, self._trusts)
        why = (
            "NDIF returns only what was saved. Write `.save()`, or `nbsight.save(...)` for what is no tensor"
        )
        return {name: NotHere(name, f"{why}.") for name in self._names if name not in names} | names


def send_to_ndif(client: NdifClient, job: Job, options: Options) -> NdifJob:
    """Send a block to NDIF; returns as soon as that has it.

    Raises:
        RemoteError: it cannot travel there, or NDIF will not take it.
    """
    if options.timeout is not None:
        raise RemoteError("NDIF sets its own limit of time for a job; leave out `timeout=`.")
    if options.rehearse is not False:
        rehearse(job, pack_job(job))
    request = request_of(job, client.deployed())
    answer = client.post(request.envelope, request.blob)
    model = name_of(job.model)
    record = Record(
        answer.id,
        client.url,
        model,
        job.kind,
        job.block.source.split("\n", 1)[0],
        filename=request.filename,
        home=job.block.filename,
        names=sorted(job.block.stores),
    )
    try:
        keep(record)
    except OSError as error:  # a full disk must not lose a job that NDIF has
        warnings.warn(
            f"the job {answer.id} was sent, and its id could not be written down ({error}); note it.",
            NbsightWarning,
            stacklevel=2,
        )
    sent = NdifJob(client, answer.id, record)
    list_job(sent, job.kind, model, is_detached=not options.blocking)
    return sent


def _opened(content: bytes, job: str, trusts: bool) -> dict[str, Any]:
    """What a result holds.

    Raises:
        RemoteError: it is broken, or could run code here and is not trusted to.
    """
    data = _unpacked(content)
    try:
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=not trusts)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()[-1] if str(error) else "it holds objects"
        raise RemoteError(
            f"the result of job {job} holds more than tensors and plain data, and to open it runs code "
            f"that NDIF chooses ({reason}). If you trust it, write "
            f"`nbsight.jobs[{job[:8]!r}].result(trust=True)` or set NBSIGHT_TRUST_NDIF=1; else save "
            "tensors, lists and dicts of them, and numbers."
        ) from None
    except (RuntimeError, EOFError, ValueError) as error:
        raise RemoteError(f"the result of job {job} cannot be read: {error}") from None
    if not isinstance(found, Mapping):
        raise RemoteError(f"the result of job {job} is a {type(found).__name__}, and no names with values.")
    return dict(found)


def _unpacked(content: bytes) -> bytes:
    from zstandard import ZstdDecompressor, ZstdError

    whole = bytearray()
    try:
        for piece in ZstdDecompressor().read_to_iter(content):
            whole += piece
            if len(whole) > _MOST:
                raise RemoteError(f"NDIF's answer unpacks to more than {_MOST:,} bytes.")
    except ZstdError as error:
        raise RemoteError(f"NDIF's answer cannot be unpacked: {error}") from None
    return bytes(whole)
