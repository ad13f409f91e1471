"""Workers as processes of this machine: the engine that needs nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbsight.server.channel import LINE
from nbsight.server.engines.base import Engine, Heard, Lost, ModelSpec, Worker
from nbsight.server.scheduling.places import Node, Size
from nbsight.server.scheduling.scheduler import Policy, Start

__all__ = ["LocalEngine", "LocalWorker", "start_worker"]


def start_worker(environment: dict[str, str]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A worker process of this machine, and the line to it."""
    ours, theirs = socket.socketpair()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "nbsight.server.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            # Of its own session: an interrupt at the terminal is the server's to handle.
            start_new_session=True,
            env={**environment, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"},
        )
    finally:
        theirs.close()
    return process, ours


@dataclass(eq=False)
class LocalWorker(Worker):
    """A process of this machine; requests and results are files that both sides see."""

    _process: subprocess.Popen[bytes] | None = None
    _writer: asyncio.StreamWriter | None = None
    _task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the process and begin to listen."""
        self._process, ours = start_worker(dict(os.environ))
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=2 * LINE)
        self._task = asyncio.create_task(self._listen(reader))
        self._load()

    def send(self, do: str, **more: Any) -> None:
        """Tell the worker to do something."""
        if self._writer is not None and self.state != "gone":
            self._writer.write(json.dumps({"do": do, **more}).encode() + b"\n")

    def run(self, job: str, request: Path, result: Path, **limits: Any) -> None:
        """Name it the files."""
        self.send("run", job=job, request=str(request), result=str(result), **limits)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := await reader.readline():
                self._take(json.loads(line))
        self._end()

    def kill(self) -> None:
        """End the process now."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def _end(self) -> None:
        if self.state == "gone":
            return
        self.kill()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        if self._writer is not None:
            self._writer.close()
        self.lost(self)


class LocalEngine(Engine):
    """Processes of this machine, as many per model as the server was told, each once jobs wait for it."""

    def policy(self, fixed: tuple[ModelSpec, ...]) -> Policy:
        """No weighing: this machine is one user's, and its memory is his to know."""
        most = self.settings.workers
        return Policy(workers=most, models=self.settings.most_models, fixed=fixed, worth=0.0)

    def nodes(self) -> list[Node]:
        """This machine."""
        return [Node("here")]

    def size(self, spec: ModelSpec) -> Size:
        """Not asked: what does not fit fails to load, and says so."""
        return Size()

    def worker(self, start: Start, heard: Heard, lost: Lost) -> Worker:
        """A process."""
        return LocalWorker(
            start.model, start.node, start.grant, tier=self.settings.tier, heard=heard, lost=lost
        )
