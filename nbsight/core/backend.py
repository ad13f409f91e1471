"""Where a block runs when it does not run here: the seam between the core and `nbsight.remote`.

The core captures the block and hands a `Job` to a backend; the backend returns the names to bind.
The core knows no transport: backends are registered by name, or are passed as objects.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from nbsight.errors import RemoteError

if TYPE_CHECKING:
    from nbsight.core.capture import Block

__all__ = ["Backend", "Job", "register", "resolve"]


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
    """

    model: Any
    kind: str
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    block: Block
    values: dict[str, Any]
    target: str | None


class Backend(Protocol):
    """Runs a job somewhere and returns the names that it bound."""

    def run(self, job: Job) -> dict[str, Any]:
        """Run the job to its end."""
        ...


_factories: dict[str, Callable[[], Backend]] = {}


def register(name: str, factory: Callable[[], Backend]) -> None:
    """Make `remote="name"` mean this backend."""
    _factories[name] = factory


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
    raise RemoteError(
        f"remote={remote!r} is not known here; there is "
        + ", ".join(f'remote="{name}"' for name in sorted(_factories))
        + ". A server to send blocks to is not part of this version."
    )
