"""How far a job has come, counted in forwards of the model: `token 7 of 20`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from nbsight.wire.messages import JobHeader

__all__ = ["counted_passes"]

#: Seconds between two words on it.
_PAUSE = 0.2


@contextmanager
def counted_passes(module: nn.Module, head: JobHeader, say: Callable[..., None]) -> Iterator[None]:
    """Tell of forwards while a job makes several: a generation or a session.

    Args:
        module: The model.
        head: The job.
        say: Takes the news.
    """
    if head.kind == "trace" and head.method != "generate":
        yield
        return
    count, told = 0, time.monotonic()
    asked = head.kwargs.get("max_new_tokens")
    total = asked if head.kind == "trace" and type(asked) is int else None
    what = "token" if head.kind == "trace" else "forward"

    def begun(*_: Any) -> None:
        nonlocal count, told
        count += 1
        now = time.monotonic()
        if now - told >= _PAUSE:
            told = now
            of = "" if total is None else f" of {total}"
            say("progress", text=f"{what} {count}{of}", done=count, total=total)

    handle = module.register_forward_pre_hook(begun)
    try:
        yield
    finally:
        handle.remove()
