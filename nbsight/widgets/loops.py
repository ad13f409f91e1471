"""Which of a kernel's loops gets what a page says."""

from __future__ import annotations

from typing import Any

__all__ = ["let_through"]


def let_through(comm: Any) -> None:
    """Let what a page says on a comm arrive while a cell runs.

    ipykernel 7.4 hands it to the loop that spoke last, which is busy with the very cell whose sweep is to be
    stopped; any other loop is free.
    """
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = lambda data, default: default
