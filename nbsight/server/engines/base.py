"""What every engine is: machines, and workers on them that are started, listened to and ended."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbsight.server.scheduling.places import Node, Size
from nbsight.server.scheduling.scheduler import Policy, Seat, Start
from nbsight.server.settings import Settings

__all__ = ["Engine", "ModelSpec", "Worker"]

Heard = Callable[["Worker", dict[str, Any]], None]
Lost = Callable[["Worker"], None]


@dataclass(frozen=True)
class ModelSpec:
    """What a worker is to hold."""

    id: str
    kind: str = "nbsight.models.language_model:LanguageModel"
    options: tuple[tuple[str, Any], ...] = ()


def _nobody(*_: Any) -> None:
    """Nobody listens yet."""


@dataclass(eq=False)
class Worker(Seat, ABC):
    """A worker, as the server sees it. All of it happens on the server's loop.

    Args:
        tier: What its jobs may do.
        heard: Called with what it says.
        lost: Called once, when it is gone.
    """

    tier: str = "local"
    heard: Heard = _nobody
    lost: Lost = _nobody
    #: The job that it runs, and when that must have ended.
    job: str | None = None
    deadline: float = 0.0
    #: Why the job was told to stop, and when.
    stop: str | None = None
    stopped: float = 0.0
    #: When it was last heard of.
    beat: float = field(default_factory=time.monotonic)

    @property
    def spec(self) -> ModelSpec:
        """The model that it holds."""
        assert isinstance(self.model, ModelSpec)
        return self.model

    @abstractmethod
    async def start(self) -> None:
        """Start it, begin to listen, and have it load its model."""

    @abstractmethod
    def send(self, do: str, **more: Any) -> None:
        """Tell it something."""

    @abstractmethod
    def run(self, job: str, request: Path, result: Path, **limits: Any) -> None:
        """Have it run a job: the request is read from one file, the result will be the other."""

    @abstractmethod
    def kill(self) -> None:
        """End it now."""

    def ask_to_stop(self, why: str) -> None:
        """Ask the job to end; whoever asks first says why."""
        if self.stop is None and self.job is not None:
            self.stop, self.stopped = why, time.monotonic()
            self.send("stop", job=self.job)

    def _load(self) -> None:
        self.send("load", model=self.spec.id, kind=self.spec.kind, options=self._options(), tier=self.tier)

    def _options(self) -> dict[str, Any]:
        """What the model is opened with: on GPUs of a machine of its own, spread over those it was given."""
        options = dict(self.spec.options)
        return {"device_map": "auto", **options} if self.grant.gpus else options

    def _take(self, message: dict[str, Any]) -> None:
        """What it says; a sign of life alone is nobody's business."""
        self.beat = time.monotonic()
        if message["say"] != "beat":
            self.heard(self, message)


class Engine(ABC):
    """Where workers run.

    Args:
        settings: What the server was told.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def open(self) -> None:  # noqa: B027  # an engine that needs no opening is whole without one
        """Reach what it runs on, before the server says that it is there.

        Raises:
            RefusedToStart: it cannot be reached.
        """

    def close(self) -> None:  # noqa: B027
        """Let go of it; the workers have been ended."""

    @abstractmethod
    def policy(self, fixed: tuple[ModelSpec, ...]) -> Policy:
        """How the scheduler is to weigh here."""

    @abstractmethod
    def nodes(self) -> list[Node]:
        """The machines that are there now, empty; it may take a moment and is asked for in a thread."""

    @abstractmethod
    def size(self, spec: ModelSpec) -> Size:
        """What a model will take; it may take a moment and is asked for in a thread."""

    @abstractmethod
    def worker(self, start: Start, heard: Heard, lost: Lost) -> Worker:
        """A worker that is yet to be started."""
