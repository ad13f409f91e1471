"""Workers as jobs of Slurm: an agent each, which calls the server back.

submitit writes the batch script, hands it to `sbatch` and ends the job. Slurm chooses the machine and
queues; to the scheduler it is one machine on which everything fits, with a most of workers. Between
agent and server runs one connection, on which both have to know a secret of this worker's own, and on
which only bytes are read, never pickles.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from nbsight.server.engines.agent import Agent, Message
from nbsight.server.engines.base import Engine, Heard, Lost, ModelSpec, Worker
from nbsight.server.engines.distant import DistantWorker, worker_environment
from nbsight.server.scheduling.places import Node, Size
from nbsight.server.scheduling.scheduler import Policy, Start
from nbsight.server.settings import RefusedToStart, Settings

try:
    import submitit
except ImportError as _missing:
    raise RefusedToStart('`--engine slurm` needs submitit: pip install "nbsight[slurm]"') from _missing

__all__ = ["SlurmEngine", "work"]

#: Seconds that an agent tries to reach the server.
_CALLS = 120.0


def work(address: tuple[str, int], secret: bytes, environment: dict[str, str | None]) -> None:
    """What Slurm runs: an agent that calls the server and works for it until either is gone.

    Args:
        address: Where the server waits for this worker.
        secret: What both have to know.
        environment: What the worker's environment has besides.
    """
    line = _call(address, secret)
    agent = Agent(environment)

    def listen() -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                agent.take(*_unpack(line))
        agent.end()

    threading.Thread(target=listen, daemon=True).start()
    try:
        with contextlib.suppress(OSError):
            for message, content in agent.messages():
                _pack(line, message, content)
    finally:
        agent.end()


def _call(address: tuple[str, int], secret: bytes) -> Connection:
    until = time.monotonic() + _CALLS
    while True:
        try:
            return Client(address, authkey=secret)
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(1.0)


def _pack(line: Connection, message: dict[str, Any], content: bytes) -> None:
    line.send_bytes(json.dumps(message).encode())
    line.send_bytes(content)


def _unpack(line: Connection) -> Message:
    message = json.loads(line.recv_bytes(2**22))
    return message, line.recv_bytes(2**23)


@dataclass(eq=False)
class SlurmWorker(DistantWorker):
    """A worker in an allocation of Slurm's."""

    executor: Any = None
    address: str = ""
    _job: Any = None
    _listener: Listener | None = None
    _line: Connection | None = None
    _arrived_here: asyncio.Queue[Message | None] = field(default_factory=asyncio.Queue)

    async def _open(self) -> None:
        secret = secrets.token_bytes(32)
        self._listener = Listener((self.address, 0), authkey=secret)
        where: Any = (self.address, self._listener.address[1])
        self._job = await asyncio.to_thread(self.executor.submit, work, where, secret, worker_environment())
        call = asyncio.create_task(asyncio.to_thread(self._accept))
        while not call.done():
            # An allocation that waits is no sign of death: Slurm's queue may take hours.
            self.beat = time.monotonic()
            if await asyncio.to_thread(self._job.done):
                raise OSError("the job of Slurm has ended before its worker called")
            await asyncio.wait([call], timeout=2.0)
        self._line = call.result()
        self._listener.close()
        threading.Thread(target=self._listen, args=[asyncio.get_running_loop()], daemon=True).start()

    def _accept(self) -> Connection:
        while True:
            assert self._listener is not None
            try:
                return self._listener.accept()
            except (AuthenticationError, EOFError):
                continue  # somebody else, who does not know the secret

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._line is not None

        async def arrive(item: Message | None) -> None:
            self._arrived_here.put_nowait(item)

        with contextlib.suppress(EOFError, OSError, ValueError, RuntimeError):
            while True:
                item = _unpack(self._line)
                # One at a time: who is slow to write a result down is slow to read it.
                asyncio.run_coroutine_threadsafe(arrive(item), loop).result()
        with contextlib.suppress(RuntimeError):  # the server's loop has ended
            loop.call_soon_threadsafe(self._arrived_here.put_nowait, None)

    async def _deliver(self, message: dict[str, Any], content: bytes) -> None:
        assert self._line is not None
        await asyncio.to_thread(_pack, self._line, message, content)

    async def _arriving(self) -> AsyncIterator[Message]:
        while (item := await self._arrived_here.get()) is not None:
            yield item

    def _close(self) -> None:
        if self._listener is not None and self._line is None:
            with contextlib.suppress(OSError):  # wake the thread that waits for a call
                self._listener._listener._socket.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]
            self._listener.close()
        if self._line is not None:
            with contextlib.suppress(OSError):
                self._line.close()
        if self._job is not None:
            threading.Thread(target=self._job.cancel, kwargs={"check": False}, daemon=True).start()


class SlurmEngine(Engine):
    """Allocations of Slurm, one per worker.

    Its options are those of submitit's `AutoExecutor` (`slurm_partition`, `timeout_min`, `gpus_per_node`,
    `mem_gb`, …) and three of its own: `address`, this machine's name as the others reach it, `folder`, for
    batch scripts and their output, on a file system that all see, and `cluster`, submitit's own kind.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        options = dict(settings.engine_options)
        self.address = options.pop("address", "") or socket.getfqdn()
        self.folder = Path(options.pop("folder", "") or settings.data / "slurm")
        self.cluster = options.pop("cluster", "slurm")
        self.options: dict[str, Any] = {k: int(v) if v.isdecimal() else v for k, v in options.items()}

    def open(self) -> None:
        """See that there is Slurm, and that submitit takes the options.

        Raises:
            RefusedToStart: there is none, or it does not.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._executor()
        except (RuntimeError, NameError, TypeError, ValueError) as error:
            raise RefusedToStart(f"Slurm cannot be used: {error}") from None

    def _executor(self) -> Any:
        executor = submitit.AutoExecutor(self.folder, cluster=self.cluster)
        executor.update_parameters(**{"timeout_min": 24 * 60, "name": "nbsight", **self.options})
        return executor

    def policy(self, fixed: tuple[ModelSpec, ...]) -> Policy:
        """An allocation is worth its wait in Slurm's queue only for a long queue of one's own."""
        settings = self.settings
        return Policy(workers=settings.workers, models=settings.most_models, fixed=fixed, idle=settings.idle)

    def nodes(self) -> list[Node]:
        """One, which stands for the cluster: Slurm does the placing."""
        return [Node("slurm")]

    def size(self, spec: ModelSpec) -> Size:
        """What an allocation has is in the options, the same for every model."""
        return Size()

    def worker(self, start: Start, heard: Heard, lost: Lost) -> Worker:
        """A job of Slurm's."""
        return SlurmWorker(
            start.model,
            start.node,
            start.grant,
            tier=self.settings.tier,
            heard=heard,
            lost=lost,
            executor=self._executor(),
            address=self.address,
        )
