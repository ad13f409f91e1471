"""Takes a job in: looks at its header, writes it to disk, and only then says that it has it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from starlette.requests import Request

from nbsight.errors import RemoteError
from nbsight.server.store import JobRow
from nbsight.wire import messages
from nbsight.wire.api import ErrorRecord, ModelInfo
from nbsight.wire.messages import HEADER, JobHeader, header_size, inflate, unpack

if TYPE_CHECKING:
    from nbsight.server.app import Service

__all__ = ["Refused", "accept"]

#: Seconds that a sender may be silent.
_SILENCE = 30.0

#: Bytes per second that a sender has to reach, and the seconds for which nobody looks.
_SLOWEST, _GRACE = 1024, 60.0

#: Bytes of the disk that jobs leave alone: what has been accepted has to be written about.
_RESERVE = 64 * 2**20

#: Jobs of one owner that are on their way at a time.
_ARRIVING = 256

#: A header of no more bytes is looked at as a whole before its job is accepted.
_WHOLE = 256 * 1024

_KEY = 200


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, record: ErrorRecord, wait: float = 0.0) -> None:
        super().__init__(record.message)
        self.status = status
        self.record = record
        self.wait = wait


async def accept(service: Service, request: Request, owner: str) -> JobRow:
    """Take a job in.

    Raises:
        Refused: it is too large, comes too fast, is no job, or is for a model that is not here.
    """
    resume = request.headers.get("idempotency-key")
    if resume is not None and len(resume) > _KEY:
        raise Refused(400, ErrorRecord("malformed", f"an idempotency key has at most {_KEY} characters."))
    _check_rate(service, owner)
    _check_room(service, request)
    service.arriving[owner] += 1
    try:
        return await _accept(service, request, owner, resume)
    except OSError as error:
        message = f"the server cannot write the job: {error.strerror}"
        raise Refused(507, ErrorRecord("no_space", message, retryable=True)) from None
    finally:
        service.arriving[owner] -= 1


async def _accept(service: Service, request: Request, owner: str, resume: str | None) -> JobRow:
    job = secrets.token_hex(8)
    path = service.store.request(job)
    partial = path.with_name(f"{job}.partial")
    try:
        digest, size = await _receive(request, partial, service.settings.limits.request)
        async with service.reading:  # a header may become large, and takes its time
            head = await asyncio.to_thread(_header, partial)
        name = _model(service, head)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    try:
        row = _row(service, request, owner, job, head, name, resume, digest, size)
        kept = service.store.add(row)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    if kept.id != job:
        path.unlink(missing_ok=True)
        if kept.digest != digest:
            message = f"the idempotency key was used for job {kept.id}, which is another one."
            raise Refused(409, ErrorRecord("key_reused", message))
        return kept
    service.dispatcher.enqueue(row, service.dispatcher.spec_of(*name))
    service.dispatcher.assign()
    return row


def _check_rate(service: Service, owner: str) -> None:
    wait = service.rates.take(owner)
    if wait:
        limits = service.settings.limits
        message = f"{owner} submits more than {limits.rate:g} jobs per second."
        raise Refused(429, ErrorRecord("too_fast", message, retryable=True), wait)
    waiting = service.dispatcher.queued(owner)
    most = service.settings.limits.queued
    if service.arriving[owner] >= _ARRIVING:
        message = f"{owner} sends {_ARRIVING} jobs at a time already."
        raise Refused(429, ErrorRecord("too_many", message, retryable=True), 1.0)
    if waiting >= most:
        message = f"{owner} has {waiting} jobs waiting, and {most} are the most."
        raise Refused(429, ErrorRecord("queue_full", message, retryable=True), 5.0)


def _check_room(service: Service, request: Request) -> None:
    """Refuse a job that would fill the disk: those that run still have to write their results."""
    announced = request.headers.get("content-length", "")
    size = int(announced) if announced.isdecimal() and len(announced) < 18 else 0
    if shutil.disk_usage(service.store.folder).free - size < _RESERVE:
        message = "the server's disk has no room for another job."
        raise Refused(507, ErrorRecord("no_space", message, retryable=True), 60.0)


async def _receive(request: Request, path: Path, most: int) -> tuple[str, int]:
    """Write the body to a file as it comes; returns its digest and size."""
    digest, size = hashlib.sha256(), 0
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:18]) > most:
        raise _too_large(int(announced[:18]), most)
    began = time.monotonic()
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        stream = request.stream().__aiter__()
        while True:
            try:
                chunk = await asyncio.wait_for(stream.__anext__(), _SILENCE)
            except StopAsyncIteration:
                break
            except asyncio.TimeoutError:
                message = f"nothing came for {_SILENCE:g} seconds."
                raise Refused(408, ErrorRecord("too_slow", message, retryable=True)) from None
            size += len(chunk)
            seconds = time.monotonic() - began
            if seconds > _GRACE and size < seconds * _SLOWEST:
                message = f"the job comes slower than {_SLOWEST:,} bytes per second."
                raise Refused(408, ErrorRecord("too_slow", message, retryable=True))
            if size > most:
                raise _too_large(size, most)
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest(), size


def _too_large(size: int, most: int) -> Refused:
    message = f"the job has {size:,} bytes or more, and {most:,} are the most that this server takes."
    return Refused(
        413, ErrorRecord("too_large", message, hint="Send less: a part of the tensor, or half precision.")
    )


class _Head(msgspec.Struct):
    """The part of a long header that a server looks at; its worker looks at the rest."""

    protocol: int
    client: messages.Client
    model: messages.ModelRef
    kind: Literal["trace", "session"]
    method: str
    program: messages.BlockText


def _header(path: Path) -> JobHeader | _Head:
    try:
        with path.open("rb") as file:
            size, is_deflated = header_size(file.read(16))
            data = file.read(min(size, HEADER))
            if len(data) < size:
                raise RemoteError(f"the message ends early: its header has {size} bytes, {len(data)} came.")
        data = inflate(data) if is_deflated else data
        if len(data) <= _WHOLE:
            return unpack(data, JobHeader)
        # What is not asked for is passed over: of a long header nothing else is made here.
        return msgspec.json.decode(data, type=_Head)
    except (RemoteError, msgspec.MsgspecError, RecursionError) as error:
        raise Refused(400, ErrorRecord("malformed", str(error))) from None


def _model(service: Service, head: JobHeader | _Head) -> tuple[str, str, str, str]:
    """What the job needs, as `Dispatcher.spec_of` takes it."""
    model, settings = head.model, service.settings
    served = model.id in settings.models
    if not served and not settings.loads:
        there = ", ".join(f'"{name}"' for name in settings.models) or "none"
        message = f'this server has no model "{model.id}"; it has {there}.'
        raise Refused(404, ErrorRecord("unknown_model", message))
    name = (model.id, model.kind, model.revision, model.dtype)
    if any("\n" in part for part in name):
        raise Refused(400, ErrorRecord("malformed", "the name of a model has no line breaks."))
    if served:
        _check_served(service.dispatcher.model(service.dispatcher.spec_of(*name)), head)
    return name


def _check_served(there: ModelInfo, head: JobHeader | _Head) -> None:
    if there.tree and there.tree != head.model.tree:
        message = (
            f'the modules of "{there.id}" differ: {head.model.tree[:12]} in the block\'s process, '
            f"{there.tree[:12]} on the server."
        )
        hint = (
            f"Use the same transformers on both sides (the block's has {head.client.transformers or 'none'})."
        )
        raise Refused(409, ErrorRecord("other_tree", message, hint=hint))
    if there.dtype and head.model.dtype and head.model.dtype != there.dtype:
        message = (
            f'"{there.id}" was opened here in {head.model.dtype}, and the server holds it in {there.dtype}.'
        )
        hint = f'Open it with `dtype="{there.dtype}"`, or without a dtype.'
        raise Refused(409, ErrorRecord("other_dtype", message, hint=hint))


def _row(
    service: Service,
    request: Request,
    owner: str,
    job: str,
    head: JobHeader | _Head,
    name: tuple[str, str, str, str],
    resume: str | None,
    digest: str,
    size: int,
) -> JobRow:
    most = service.settings.limits.seconds
    try:
        seconds = float(request.query_params.get("timeout", most))
    except ValueError:
        raise Refused(400, ErrorRecord("malformed", "`timeout` is a number of seconds.")) from None
    if not seconds > 0:
        raise Refused(400, ErrorRecord("malformed", "`timeout` is a positive number of seconds."))
    values: dict[str, Any] = dict.fromkeys(("started", "ended", "stop", "error", "lease"))
    first = next((line.strip() for line in head.program.source.splitlines() if line.strip()), "")
    return JobRow(
        id=job,
        owner=owner,
        model="\n".join(name),
        kind=head.method if head.kind == "trace" else head.kind,
        label=first[:200],
        state="QUEUED",
        created=time.time(),
        attempt=0,
        seconds=min(seconds, most),
        resume=resume,
        digest=digest,
        request_bytes=size,
        result_bytes=0,
        logged=0,
        **values,
    )
