"""One worker process, seen from the server: started, listened to, ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from nbsight.server.channel import LINE

__all__ = ["ModelSpec", "WorkerProcess"]


@dataclass(frozen=True)
class ModelSpec:
    """What a worker is to hold."""

    id: str
    kind: str = "nbsight.models.language_model:LanguageModel"
    options: tuple[tuple[str, Any], ...] = ()


@dataclass(eq=False)
class WorkerProcess:
    """A worker.

    Args:
        spec: Its model.
        tier: What its jobs may do.
        heard: Called with what it says.
        lost: Called once, when it is gone.
    """

    spec: ModelSpec
    tier: str
    heard: Callable[[WorkerProcess, dict[str, Any]], None]
    lost: Callable[[WorkerProcess], None]
    state: Literal["loading", "idle", "busy", "gone"] = "loading"
    #: The job that it runs, when that began and when it must have ended.
    job: str | None = None
    began: float = 0.0
    deadline: float = 0.0
    #: Why the job was told to stop, and when.
    stop: str | None = None
    stopped: float = 0.0
    beat: float = field(default_factory=time.monotonic)
    used: float = field(default_factory=time.monotonic)
    about: dict[str, Any] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None
    _writer: asyncio.StreamWriter | None = None
    _task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start the process and begin to listen."""
        ours, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "nbsight.server.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # Of its own session: an interrupt at the terminal is the server's to handle.
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"},
            )
        finally:
            theirs.close()
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=2 * LINE)
        self._task = asyncio.create_task(self._listen(reader))
        self.send(
            "load", model=self.spec.id, kind=self.spec.kind, options=dict(self.spec.options), tier=self.tier
        )

    def send(self, do: str, **more: Any) -> None:
        """Tell the worker to do something."""
        if self._writer is not None and self.state != "gone":
            self._writer.write(json.dumps({"do": do, **more}).encode() + b"\n")

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := await reader.readline():
                self.beat = time.monotonic()
                message = json.loads(line)
                if message["say"] != "beat":
                    self.heard(self, message)
        self._end()

    def ask_to_stop(self, why: str) -> None:
        """Ask the job to end; whoever asks first says why."""
        if self.stop is None and self.job is not None:
            self.stop, self.stopped = why, time.monotonic()
            self.send("stop", job=self.job)

    def kill(self) -> None:
        """End the process now."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def _end(self) -> None:
        if self.state == "gone":
            return
        self.state = "gone"
        self.kill()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        if self._writer is not None:
            self._writer.close()
        self.lost(self)
