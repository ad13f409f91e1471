"""Machines, what is free on them, and where a model fits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from nbsight.server.scheduling.turns import Model

__all__ = ["Grant", "Node", "Size", "best_node"]

#: The parts of one GPU that a small model is given: halves of halves, so that what is freed fits again.
_PARTS = (1.0, 0.5, 0.25, 0.125)


@dataclass(frozen=True)
class Size:
    """What a model takes.

    Args:
        memory: Bytes, of a GPU's memory or, on a machine without, of the machine's.
        on_cpu: Whether it is to be held in the machine's memory although there are GPUs.
    """

    memory: int = 0
    on_cpu: bool = False


@dataclass(frozen=True)
class Grant:
    """What a worker has of a machine: parts of GPUs by their number, or bytes of memory."""

    gpus: tuple[tuple[int, float], ...] = ()
    memory: int = 0

    @property
    def share(self) -> float:
        """GPUs, in all."""
        return sum(part for _, part in self.gpus)

    @property
    def cost(self) -> float:
        """What it counts for in its owner's use: GPUs; one without any counts as one."""
        return self.share or 1.0


@dataclass
class Node:
    """A machine.

    Args:
        id: Its name, to the engine.
        memory: Its free bytes.
        gpus: What is free of each of its GPUs, from 0 to 1.
        gpu_memory: Bytes of each.
        held: When it last held each model: those are read from its own disk or page cache again.
    """

    id: str
    memory: float = math.inf
    gpus: list[float] = field(default_factory=list)
    gpu_memory: int = 0
    held: dict[Model, float] = field(default_factory=dict)

    def fit(self, size: Size, extra: Iterable[Grant] = ()) -> Grant | None:
        """What a worker would be given here; None if it does not fit.

        Args:
            size: What its model takes.
            extra: What would be free besides, if those who have it ended.
        """
        free, memory = list(self.gpus), self.memory
        for grant in extra:
            memory += grant.memory
            for number, part in grant.gpus:
                free[number] += part
        if not free or size.on_cpu:
            return Grant(memory=size.memory) if size.memory <= memory else None
        share = size.memory / max(self.gpu_memory, 1)
        if share > 1:
            whole = [number for number, part in enumerate(free) if part >= 1.0]
            wanted = math.ceil(share)
            return Grant(tuple((number, 1.0) for number in whole[:wanted])) if len(whole) >= wanted else None
        part = min(part for part in _PARTS if part >= share)
        fitting = [(left, number) for number, left in enumerate(free) if left >= part]
        return Grant(((min(fitting)[1], part),)) if fitting else None

    def take(self, grant: Grant) -> None:
        """Let a worker have it."""
        self.memory -= grant.memory
        for number, part in grant.gpus:
            self.gpus[number] -= part

    def give_back(self, grant: Grant) -> None:
        """A worker has ended."""
        self.memory += grant.memory
        for number, part in grant.gpus:
            self.gpus[number] += part


def best_node(nodes: Iterable[Node], model: Model, size: Size) -> tuple[Node, Grant] | None:
    """The machine for one more worker: one that held the model before, then the one left fullest."""
    best: tuple[tuple[bool, float, float], Node, Grant] | None = None
    for node in nodes:
        grant = node.fit(size)
        if grant is None:
            continue
        key = (model not in node.held, sum(node.gpus) - grant.share, node.memory - grant.memory)
        if best is None or key < best[0]:
            best = key, node, grant
    return None if best is None else best[1:]
