"""The events of a job as server-sent events, from any one of them on."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from nbsight.server.dispatch import Dispatcher
from nbsight.wire.api import FINAL

__all__ = ["INLINE", "stream_events"]

#: A result of no more bytes comes with the news that it is there.
INLINE = 256 * 1024

#: Seconds without news after which a line is sent, so that nobody on the way takes the stream for dead.
_QUIET = 15.0

#: Seconds between two looks at a waiting job's place.
_PLACES = 1.0


async def stream_events(
    dispatcher: Dispatcher, job: str, after: int, closing: asyncio.Event
) -> AsyncIterator[bytes]:
    """The events of a job that come after one of them, until it has ended.

    Each waits until the one before is on its way, so a slow reader holds up nobody and nothing piles up.
    """
    store = dispatcher.store
    news = dispatcher.listen(job)
    quiet, place = 0.0, 0
    yield _event("job", {"id": job})
    try:
        while True:
            news.clear()
            for event in store.events(job, after):
                after, quiet = event.seq, 0.0
                yield b"id: %d\nevent: %s\ndata: %s\n\n" % (
                    event.seq,
                    event.kind.encode(),
                    _with_result(dispatcher, job, event.kind, event.data),
                )
            row = store.get(job)
            if row is None or (row.state in FINAL and not store.events(job, after)) or closing.is_set():
                return
            now = dispatcher.place(job) if row.state == "QUEUED" else 0
            if now and now != place:
                place = now
                yield _event("place", {"place": place, "eta": dispatcher.eta(place)})
            pause = _PLACES if now else _QUIET
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(news.wait(), pause)
                continue
            quiet += pause
            if quiet >= _QUIET:
                quiet = 0.0
                yield b": still here\n\n"
    finally:
        dispatcher.unlisten(job, news)


def _event(kind: str, data: dict[str, Any]) -> bytes:
    """One that is not written down, so it has no number."""
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), msgspec.json.encode(data))


def _with_result(dispatcher: Dispatcher, job: str, kind: str, data: str) -> bytes:
    if kind != "status" or '"COMPLETED"' not in data:
        return data.encode()
    path = dispatcher.store.result(job)
    try:
        if path.stat().st_size > INLINE:
            return data.encode()
        content = path.read_bytes()
    except OSError:  # it has expired
        return data.encode()
    fields = msgspec.json.decode(data)
    return msgspec.json.encode({**fields, "result": base64.b64encode(content).decode()})
