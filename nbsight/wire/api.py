"""What client and server tell each other about jobs, as checked records; API version 1.

    POST   /v1/jobs                     a framed job; 202, or the stream of its events if asked for
    GET    /v1/jobs                     the caller's jobs, newest first
    GET    /v1/jobs/{id}                one of them
    GET    /v1/jobs/{id}/events         server-sent events; `Last-Event-ID` resumes
    GET    /v1/jobs/{id}/result         a framed result; `Range` resumes
    POST   /v1/jobs/{id}/cancel         ends it
    DELETE /v1/jobs/{id}                forgets it and its result
    GET    /v1/info  /v1/models  /v1/models/{id}  /v1/whoami
    POST   /v1/models/{id}/load
    GET    /health  /metrics

A job is QUEUED, LOADING (its model is), RUNNING, and then COMPLETED, FAILED, CANCELLED or EXPIRED.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

__all__ = [
    "API",
    "FINAL",
    "ErrorRecord",
    "FrameRecord",
    "JobInfo",
    "Limits",
    "ModelInfo",
    "ServerInfo",
    "State",
]

API = 1

State = Literal["QUEUED", "LOADING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "EXPIRED"]

#: The states that a job does not leave again; a COMPLETED one expires when its result is deleted.
FINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED", "EXPIRED"})


class FrameRecord(msgspec.Struct, frozen=True):
    """One line of a user's traceback."""

    filename: str
    line: int
    name: str


class ErrorRecord(msgspec.Struct, frozen=True):
    """What went wrong, for people and for programs.

    Args:
        code: For programs: "block_failed", "time_limit", "unauthorized" and so on.
        message: One or more sentences.
        kind: The class of the exception, as far as the receiver may know it.
        args: Its arguments, if they are plain.
        frames: The user's lines, outermost first.
        hint: What to do.
        retryable: Whether the same request may succeed later.
    """

    code: str
    message: str
    kind: str = "RemoteError"
    args: list[Any] | None = None
    frames: list[FrameRecord] = []
    hint: str = ""
    retryable: bool = False


class Limits(msgspec.Struct, frozen=True):
    """What one job, one owner and the whole server may use.

    Args:
        seconds: Of running, per job.
        memory: Bytes that a job may take beyond its model; 0 sets no limit.
        request: Bytes of a job.
        result: Bytes of a result.
        queued: Jobs of one owner that wait.
        running: Jobs of one owner that run.
        rate: Jobs that one owner may submit per second, on average.
        burst: Jobs that one owner may submit at once.
        log: Bytes of output kept per job.
        keep: Seconds that results are kept.
    """

    seconds: float = 600.0
    memory: int = 0
    request: int = 2**30
    result: int = 2**32
    queued: int = 1000
    running: int = 4
    rate: float = 100.0
    burst: int = 500
    log: int = 2**20
    keep: float = 24 * 3600.0


class ModelInfo(msgspec.Struct, frozen=True):
    """A model of a server.

    Args:
        id: Its name or folder.
        state: "cold", "loading", "ready" or "failed".
        tree: The fingerprint of its module tree, once it is loaded.
        dtype: Of its weights.
        lines: The module tree as text, where it was asked for.
        error: Why it could not be loaded.
    """

    id: str
    state: Literal["cold", "loading", "ready", "failed"]
    tree: str = ""
    dtype: str = ""
    queued: int = 0
    workers: int = 0
    lines: list[str] = []
    error: str = ""


class ServerInfo(msgspec.Struct, frozen=True):
    """What a server is.

    Args:
        protocols: The protocols of messages that it reads.
        loads: Whether it loads models that are not on its list when a job asks for one.
    """

    nbsight: str
    python: str
    torch: str
    transformers: str
    api: int
    protocols: list[int]
    tier: str
    loads: bool
    limits: Limits
    models: list[ModelInfo] = []


class JobInfo(msgspec.Struct, frozen=True):
    """A job, as its owner sees it.

    Args:
        label: The first line of its block.
        created: Seconds since the epoch.
        place: Its place in the queue of its model, from 1; 0 when it does not wait.
        attempt: How often it was begun.
        result_bytes: The size of its result.
    """

    id: str
    state: State
    model: str
    kind: str
    label: str
    created: float
    started: float | None = None
    ended: float | None = None
    place: int = 0
    attempt: int = 0
    request_bytes: int = 0
    result_bytes: int = 0
    error: ErrorRecord | None = None
