"""Connections that do not wait for ever: a request's head has to come in time, and they are counted.

Nobody is known before the head of a request is here, so these limits hold for strangers too. How long the
body may take is looked at where it is received.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["HEAD_SECONDS", "Patient", "more_files"]

#: Seconds in which the head of a request has to come.
HEAD_SECONDS = 20.0

#: Open files that are kept for everything but connections: the store, results, workers.
_SPARE = 128


def more_files() -> int:
    """Ask for as many open files as this user may have; returns how many connections that leaves room for."""
    try:
        import resource
    except ImportError:  # Windows, where no server runs
        return 512
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return max(soft - _SPARE, 64) if soft != resource.RLIM_INFINITY else 65_536


class Patient(H11Protocol):
    """uvicorn's own, which gives up a connection whose next request does not come."""

    #: How many connections there may be; who comes when there are as many is not let in.
    most = 65_536
    seconds = HEAD_SECONDS
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Let it in, unless there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.abort()
        else:
            self._arm()

    def data_received(self, data: bytes) -> None:
        """Take what came; once the head of a request is whole, its time is over."""
        waits = self.cycle is None or self.cycle.response_complete
        if waits and self._timer is None:  # the first bytes of the next request on this connection
            self._arm()
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._disarm()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended."""
        self._disarm()
        super().connection_lost(exc)

    def _arm(self) -> None:
        self._timer = self.loop.call_later(self.seconds, self._give_up)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()
