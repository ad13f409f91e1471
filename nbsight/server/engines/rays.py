"""Workers on a Ray cluster: an agent each, as an actor on the machine that the scheduler chose.

Ray starts, reaches and ends agents. Jobs stay in the server's own store: a Ray that fails costs a
worker, and its job is run again. Nothing that a user wrote is given to Ray.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import subprocess
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from nbsight.server.engines.agent import Agent, Message
from nbsight.server.engines.base import Engine, Heard, Lost, ModelSpec, Worker
from nbsight.server.engines.distant import DistantWorker, worker_environment
from nbsight.server.engines.sizes import memory_of, weights_of
from nbsight.server.scheduling.places import Node, Size
from nbsight.server.scheduling.scheduler import Policy, Start
from nbsight.server.settings import RefusedToStart, Settings

try:
    # Before Ray is imported: it reads these then. Nobody is told what is done here.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DISABLE_IMPORT_WARNING", "1")
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError as _missing:
    raise RefusedToStart('`--engine ray` needs Ray: pip install "nbsight[ray]"') from _missing

__all__ = ["RayEngine"]

#: Messages that come in one answer, at most; with a part of a result among them, it is the last.
_MANY = 100

#: Bytes of a GPU of which nobody can say how many it has.
_GPU = 16 * 10**9


class _Actor:
    """The agent as an actor: what the worker says waits here until it is asked for."""

    def __init__(self, environment: dict[str, str | None]) -> None:
        self._agent = Agent(environment)
        # A few parts of a result at most, whatever its size: the reader sets the pace.
        self._queue: queue.Queue[Message | None] = queue.Queue(_MANY)
        threading.Thread(target=self._fill, daemon=True).start()

    def _fill(self) -> None:
        for item in self._agent.messages():
            self._queue.put(item)
        self._queue.put(None)

    def take(self, message: dict[str, Any], content: bytes) -> None:
        """Something from the server."""
        self._agent.take(message, content)

    def give(self) -> tuple[list[Message], bool]:
        """What there is to say, once there is something; and whether there may be more."""
        found: list[Message] = []
        item = self._queue.get()
        while item is not None:
            found.append(item)
            if item[1] or len(found) >= _MANY or self._queue.empty():
                return found, True
            item = self._queue.get()
        return found, False

    def end(self) -> None:
        """End the worker."""
        self._agent.end()


@dataclass(eq=False)
class RayWorker(DistantWorker):
    """A worker on a machine of the cluster."""

    _actor: Any = None

    async def _open(self) -> None:
        grant = self.grant
        options = {
            "num_cpus": 0,  # machines are full when their memory or their GPUs are
            "num_gpus": grant.share,
            "memory": grant.memory,
            "max_restarts": 0,  # the server starts another one, perhaps elsewhere
            "max_concurrency": 3,  # one that listens, one that speaks, one that ends
            "scheduling_strategy": NodeAffinitySchedulingStrategy(self.node.id, soft=False),
        }
        self._actor = ray.remote(_Actor).options(**options).remote(worker_environment())

    async def _deliver(self, message: dict[str, Any], content: bytes) -> None:
        try:
            await self._actor.take.remote(message, content)
        except RayError as error:
            raise OSError(str(error)) from None

    async def _arriving(self) -> AsyncIterator[Message]:
        is_there = True
        while is_there:
            try:
                messages, is_there = await self._actor.give.remote()
            except RayError:
                return
            for item in messages:
                yield item

    def _close(self) -> None:
        if self._actor is not None and ray.is_initialized():
            self._actor.end.remote()
            # Ray ends the actor's process once nobody knows the actor, after the call above; one that does
            # not answer is ended all the same.
            actor, self._actor = self._actor, None
            with contextlib.suppress(RuntimeError):  # the loop has ended: so will the cluster's part of us
                asyncio.get_running_loop().call_later(3.0, _kill, actor)


def _kill(actor: Any) -> None:
    with contextlib.suppress(RayError, ValueError):
        ray.kill(actor)


class RayEngine(Engine):
    """The machines of a Ray cluster: the one that `address` names, else one of this machine's own."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        unknown = set(settings.engine_options) - {"address", "worth"}
        if unknown:
            raise RefusedToStart(
                f"the Ray engine has no option {', '.join(sorted(unknown))}; it has `address` (of a cluster, "
                "or `auto`) and `worth` (another worker is started when a queue takes longer than so many "
                "loads of the model)."
            )
        self._gpu_memory: dict[str, int] = {}

    def open(self) -> None:
        """Join the cluster, or start one.

        Raises:
            RefusedToStart: there is none under that address.
        """
        address = self.settings.engine_options.get("address", "local")
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
        own: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
        try:
            ray.init(address=address, namespace="nbsight", **quiet, **own)
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            raise RefusedToStart(f"the Ray cluster at {address!r} cannot be joined: {error}") from None

    def close(self) -> None:
        """Leave the cluster."""
        ray.shutdown()

    def policy(self, fixed: tuple[ModelSpec, ...]) -> Policy:
        """Another worker is started where it is worth its load, and ends when idle; room limits the rest."""
        settings = self.settings
        return Policy(
            workers=settings.workers,
            fixed=fixed,
            worth=self._number("worth", 1.0),
            idle=settings.idle,
            patience=settings.patience,
        )

    def _number(self, name: str, usual: float) -> float:
        text = self.settings.engine_options.get(name, "")
        try:
            return float(text) if text else usual
        except ValueError:
            raise RefusedToStart(f"`--engine-option {name}={text}`: that is no number.") from None

    def nodes(self) -> list[Node]:
        """The machines that live."""
        return [self._node(found) for found in ray.nodes() if found["Alive"]]

    def _node(self, found: dict[str, Any]) -> Node:
        id_, resources = found["NodeID"], found["Resources"]
        gpus = int(resources.get("GPU", 0))
        if gpus and id_ not in self._gpu_memory:
            self._gpu_memory[id_] = _ask_gpus(id_)
        return Node(id_, int(resources.get("memory", 0)), [1.0] * gpus, self._gpu_memory.get(id_, 0))

    def size(self, spec: ModelSpec) -> Size:
        """From the checkpoint's headers; a model whose checkpoint does not say takes a GPU."""
        options = dict(spec.options)
        weights = weights_of(spec.id, options.get("dtype"), options.get("revision"))
        least = min(self._gpu_memory.values(), default=_GPU)
        return Size(least if weights is None else memory_of(weights), options.get("device_map") == "cpu")

    def worker(self, start: Start, heard: Heard, lost: Lost) -> Worker:
        """An actor."""
        return RayWorker(
            start.model, start.node, start.grant, tier=self.settings.tier, heard=heard, lost=lost
        )


def _gpu_bytes() -> int:
    """The memory of this machine's smallest GPU."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.split()
    return min(int(line) for line in lines) * 2**20


def _ask_gpus(node: str) -> int:
    """The memory of a machine's GPUs, from the machine itself."""
    where = NodeAffinitySchedulingStrategy(node, soft=False)
    ask = ray.remote(_gpu_bytes).options(num_cpus=0, scheduling_strategy=where)
    try:
        return int(ray.get(ask.remote(), timeout=30))
    except (RayError, OSError, ValueError, subprocess.SubprocessError):  # GPUs of another maker
        return _GPU
