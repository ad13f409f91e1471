"""A job of the tier `sandbox`, from the worker that holds the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nbsight.errors import RemoteError
from nbsight.server.programs.surface import check_options
from nbsight.server.sandbox.jail import Jail, limits_of
from nbsight.server.sandbox.messages import LineEnded, WireError

__all__ = ["answer_sandboxed"]


def answer_sandboxed(
    jail: Jail,
    root: Any,
    job: tuple[bytes, bytes],
    say: Callable[..., None],
    *,
    most: int,
    memory: int,
    seconds: float,
) -> tuple[bytes, bytes]:
    """Run a job in a fresh process behind walls, on the model here, and return the encoded result.

    Args:
        jail: The walls, made for this model.
        root: The model's root envoy.
        job: Header and blob.
        say: Takes what the block prints.
        most: Bytes of the result, at most.
        memory: Bytes that the process may take; 0 sets no limit.
        seconds: That it may compute; 0 sets no limit. The server ends jobs by the clock besides.

    Raises:
        BlockFailed: the block did, with what is told of it.
        RemoteError: its process ended, or did not keep to the rules.
    """
    with jail.runner(limits_of(memory, seconds)) as runner:
        try:
            return runner.run(root, job, say, most, check_options)
        except LineEnded:
            raise RemoteError(
                "the process in which the block ran has ended: it took more memory, computing time or "
                "threads than a job may, or a library that it called has crashed."
            ) from None
        except WireError as error:
            raise RemoteError(
                f"the process in which the block ran was ended; it did not keep to the rules: {error}."
            ) from None
