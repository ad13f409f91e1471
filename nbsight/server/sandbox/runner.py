"""The process in which a block runs: locks itself up, asks for its job, runs it, hands in the result."""

from __future__ import annotations

import os
import resource
from typing import Any, NoReturn

import msgspec
import torch

from nbsight.errors import RemoteError
from nbsight.server.output import sent_output
from nbsight.server.sandbox import filters, kernel, messages
from nbsight.server.sandbox.ghost import Ghost
from nbsight.server.sandbox.memory import Region, open_region
from nbsight.server.sandbox.messages import LineEnded, write_frame
from nbsight.wire.api import ErrorRecord
from nbsight.wire.execute import answer
from nbsight.wire.failures import record_of

__all__ = ["Limits", "run"]

#: The descriptors of a runner: nothing, nothing, nothing, the line, what it reads, what it writes.
LINE, THEIRS, OURS = 3, 4, 5

_THREADS, _FILES = 512, 64

_encode = msgspec.json.Encoder().encode


class Limits(msgspec.Struct, frozen=True):
    """What a job may use.

    Args:
        memory: Bytes beyond what a runner has to begin with; 0 sets no limit.
        seconds: Of computing, on all threads together; 0 sets no limit.
        threads: That torch computes with.
    """

    memory: int
    seconds: int
    threads: int


def run(root: Any, descriptors: list[int], limits: Limits, folders: list[str]) -> NoReturn:
    """Be a runner; called in a fresh process, and the end of it."""
    status = 1
    try:
        _keep_only(descriptors)
        theirs, ours = open_region(THEIRS, writable=False), open_region(OURS, writable=True)
        _lock(limits, folders)
        torch.set_num_threads(limits.threads)
        _work(root, theirs, ours)
        status = 0
    except LineEnded:
        status = 0
    finally:
        os._exit(status)


def _keep_only(descriptors: list[int]) -> None:
    """Close everything but these, which get numbers of their own; the three usual ones lead nowhere."""
    kept = [os.open("/dev/null", os.O_RDWR) for _ in range(3)] + descriptors
    high = [os.dup2(descriptor, 100 + place, inheritable=False) for place, descriptor in enumerate(kept)]
    os.closerange(0, 100)
    os.closerange(100 + len(high), 4096)
    for place, descriptor in enumerate(high):
        os.dup2(descriptor, place, inheritable=False)
    os.closerange(100, 100 + len(high))


def _lock(limits: Limits, folders: list[str]) -> None:
    """The second lock: limits, no file but Python's own, no call but those that compute."""
    most = resource.RLIM_INFINITY
    if limits.memory:
        with open("/proc/self/statm", encoding="ascii") as file:
            most = int(file.read().split()[0]) * resource.getpagesize() + limits.memory
    wanted = {
        resource.RLIMIT_AS: most,
        resource.RLIMIT_CPU: limits.seconds or most,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: _FILES,
        resource.RLIMIT_NPROC: _THREADS,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if not limits.seconds:
        wanted[resource.RLIMIT_CPU] = resource.RLIM_INFINITY
    for kind, value in wanted.items():
        resource.setrlimit(kind, (value, value))
    os.environ.clear()
    kernel.set_undumpable()
    kernel.only_read(folders)
    kernel.install_filter(filters.narrow_filter())


def _work(root: Any, theirs: Region, ours: Region) -> None:
    ghost = Ghost(root._module, LINE, theirs, ours)
    header, blob = _job(ghost)
    ghost.install()

    def say(what: str, **more: Any) -> None:
        word = messages.Log(**more) if what == "log" else messages.Progress(more["text"])
        write_frame(LINE, _encode(_sendable(word)))

    try:
        with sent_output(say):
            reply, numbers = answer(header, blob, root)
        _hand_in(ghost, ours, reply, numbers)
    except LineEnded:
        raise
    except BaseException as error:  # of whatever kind: it is the block's, and its user's to see
        write_frame(LINE, _encode(messages.Failed(_record(error))))


def _job(ghost: Ghost) -> tuple[bytes, bytes]:
    whole, left, header = bytearray(), 1, 0
    while left:
        part = ghost.ask(messages.Ready()).job
        assert part is not None
        whole += memoryview(ghost.theirs[: part.size].numpy())
        left, header = part.left, part.header
    return bytes(whole[:header]), bytes(whole[header:])


def _hand_in(ghost: Ghost, ours: Region, header: bytes, blob: bytes) -> None:
    for data in (header, blob):
        for begin in range(0, len(data), ours.size):
            part = data[begin : begin + ours.size]
            ours.view[: len(part)] = part
            ghost.ask(messages.Part(len(part)))
    write_frame(LINE, _encode(messages.Done(len(header))))


def _sendable(word: Any) -> Any:
    """Without halves of characters, which JSON has no form for."""
    fields = msgspec.structs.asdict(word)
    fields = {
        name: item.encode("utf-8", "replace").decode() if isinstance(item, str) else item
        for name, item in fields.items()
    }
    return type(word)(**fields)


def _record(error: BaseException) -> ErrorRecord:
    """What is told of the block's error, as a worker tells it that runs blocks itself."""
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return record_of(error, "memory_limit", "The job took more memory than it may.")
    record = record_of(error)
    is_ours = isinstance(error, RemoteError) and not record.frames
    return msgspec.structs.replace(record, code="refused") if is_ours else record
