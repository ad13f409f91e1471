"""A worker on another machine, as the server sees it: its files are carried, in parts, both ways."""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbsight.server.engines.agent import PART, Message
from nbsight.server.engines.base import Worker

__all__ = ["DistantWorker", "worker_environment"]

#: Of the server's environment, what a worker elsewhere gets too.
_PASSED = ("OMP_NUM_THREADS", "HF_HOME", "HF_HUB_OFFLINE", "HF_TOKEN", "TRANSFORMERS_OFFLINE")


def worker_environment() -> dict[str, str | None]:
    """What a worker's environment elsewhere has besides its own."""
    found: dict[str, str | None] = {name: os.environ[name] for name in _PASSED if name in os.environ}
    # Whoever starts agents may have set this for the agent, which computes nothing; torch's own default
    # is right for the worker.
    return {"OMP_NUM_THREADS": None, **found}


@dataclass(eq=False)
class DistantWorker(Worker):
    """A worker behind an agent. How messages reach the agent is for the engine to say."""

    _outbox: asyncio.Queue[tuple[dict[str, Any], Path | None]] = field(default_factory=asyncio.Queue)
    _result: Path | None = None
    _left: int = 0
    _is_killed: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @abstractmethod
    async def _open(self) -> None:
        """Start the agent."""

    @abstractmethod
    async def _deliver(self, message: dict[str, Any], content: bytes) -> None:
        """Bring the agent a message; an OSError says that it is gone."""

    @abstractmethod
    def _arriving(self) -> AsyncIterator[Message]:
        """What the agent brings, until it is gone."""

    @abstractmethod
    def _close(self) -> None:
        """End the agent, if there is still one."""

    async def start(self) -> None:
        """Start the agent; the model's load and all that follows goes through it."""
        self._load()
        task = asyncio.create_task(self._live())
        self._tasks = [task]
        # A callback: a task that is cancelled before it has begun runs none of its own lines.
        task.add_done_callback(lambda _: self._end())
        if self._is_killed:
            task.cancel()

    def send(self, do: str, **more: Any) -> None:
        """Tell the worker to do something, after what it was told before."""
        self._outbox.put_nowait(({"do": do, **more}, None))

    def run(self, job: str, request: Path, result: Path, **limits: Any) -> None:
        """Bring it the request, and let it run."""
        self._result, self._left = result, limits["most"] + 2**20
        self._partial.unlink(missing_ok=True)
        self._outbox.put_nowait(({"do": "run", "job": job, **limits}, request))

    def kill(self) -> None:
        """End it now."""
        self._is_killed = True
        for task in self._tasks:
            task.cancel()

    async def _live(self) -> None:
        try:
            await self._open()
            self._tasks.append(asyncio.create_task(self._post()))
            async for message, content in self._arriving():
                self._arrived(message, content)
        except OSError:
            pass  # it is gone

    async def _post(self) -> None:
        try:
            while True:
                message, file = await self._outbox.get()
                if file is not None:
                    await self._carry(file)
                await self._deliver(message, b"")
        except OSError:
            self.kill()

    async def _carry(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                while content := file.read(PART):
                    await self._deliver({"do": "part"}, content)
        except FileNotFoundError:
            return  # the job has been ended meanwhile; the worker will say that there is no request

    @property
    def _partial(self) -> Path:
        assert self._result is not None
        return self._result.with_name(f"{self._result.name}.partial")

    def _arrived(self, message: dict[str, Any], content: bytes) -> None:
        is_ours = message.get("job") == self.job and self._result is not None
        if message["say"] == "part":
            self._left -= len(content)
            if is_ours and self._left >= 0:
                with self._partial.open("ab") as file:
                    file.write(content)
            return
        if message["say"] == "done" and is_ours:
            assert self._result is not None
            os.replace(self._partial, self._result)
        self._take(message)

    def _end(self) -> None:
        if self.state == "gone":
            return
        for task in self._tasks:
            task.cancel()
        self._close()
        if self._result is not None:
            self._partial.unlink(missing_ok=True)
        self.lost(self)
