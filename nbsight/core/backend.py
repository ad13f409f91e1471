"""Where a block runs when it does not run here: the seam between the core and `nbsight.remote`.

The core captures the block and hands a `Job` to a backend; the backend returns the names to bind.
The core knows no transport: backends are registered by name, or are passed as objects.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from nbsight.errors import RemoteError

if TYPE_CHECKING:
    from nbsight.core.capture import Block

__all__ = [
    "Backend",
    "Job",
    "in_job",
    "in_rehearsal",
    "register",
    "register_servers",
    "rehearsing",
    "resolve",
    "running_job",
]


@dataclass(frozen=True)
class Job:
    """A captured block on its way to where it runs.

    Args:
        model: The root envoy that the block was written for.
        kind: "trace" or "session".
        method: The traced method, "forward" or "generate".
        args: Positional arguments of the trace.
        kwargs: Keyword arguments of the trace.
        block: The captured body.
        values: What the names that the body reads mean in the user's frame.
        target: The name after `as`, or None.
        grad: Whether the trace records gradients.
        finish: Whether the trace was asked to run to its end.
        lines: The lines of the file that the block stands in.
        globals: The globals that the block binds its names in; None if it stands in a function.
    """

    model: Any
    kind: str
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    block: Block
    values: dict[str, Any]
    target: str | None
    grad: bool | None = None
    finish: bool = False
    lines: list[str] | None = None
    globals: dict[str, Any] | None = None


class Backend(Protocol):
    """Runs a job somewhere and returns the names that it bound."""

    def run(self, job: Job) -> dict[str, Any]:
        """Run the job to its end."""
        ...


_factories: dict[str, Callable[[], Backend]] = {}


def register(name: str, factory: Callable[[], Backend]) -> None:
    """Make `remote="name"` mean this backend."""
    _factories[name] = factory


_servers: list[Callable[[Any], Backend]] = []


def register_servers(factory: Callable[[Any], Backend]) -> None:
    """Make `remote=True` and `remote="http://..."` mean what this makes of them."""
    _servers[:] = [factory]


_inside: ContextVar[bool] = ContextVar("nbsight_inside_job", default=False)


@contextmanager
def running_job() -> Iterator[None]:
    """Say that what runs in this context is a job already."""
    token = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(token)


_rehearsal: ContextVar[bool] = ContextVar("nbsight_rehearsal", default=False)


@contextmanager
def rehearsing() -> Iterator[None]:
    """Say that traces in this context are scans, whatever they are written as."""
    token = _rehearsal.set(True)
    try:
        yield
    finally:
        _rehearsal.reset(token)


def in_rehearsal() -> bool:
    """Whether this code only tries a job that will run elsewhere."""
    return _rehearsal.get()


def in_job() -> bool:
    """Whether this code runs as part of a job; then `remote=` on a trace means "here"."""
    return _inside.get()


def resolve(remote: Any) -> Backend:
    """The backend that a `remote=` argument names.

    Raises:
        RemoteError: there is no such backend.
    """
    if hasattr(remote, "run"):
        return remote
    # Found by name, as a plugin is: the core must not import what stands above it.
    importlib.import_module("nbsight.remote")
    if isinstance(remote, str) and remote in _factories:
        return _factories[remote]()
    is_address = isinstance(remote, str) and remote.startswith(("http://", "https://"))
    if _servers and (remote is True or is_address):
        return _servers[0](remote)
    raise RemoteError(
        f"remote={remote!r} is not known here; there is "
        + ", ".join(f'remote="{name}"' for name in sorted(_factories))
        + ', a server by its address (remote="http://..."), and remote=True for the one of `nbsight serve` '
        "or NBSIGHT_HOST."
    )
