"""Lines of JSON over a socket between the server and one of its workers; the worker's end."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["LINE", "Channel"]

#: Bytes of a line, at most.
LINE = 2**20


class Channel:
    """The worker's end of the line to the server. Any thread may send."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._lock = threading.Lock()

    def send(self, say: str, **more: Any) -> None:
        """Tell the server something."""
        line = json.dumps({"say": say, **more}, separators=(",", ":")).encode() + b"\n"
        if len(line) > LINE:  # only an error's text can be so long
            line = json.dumps({"say": say, "too_long": len(line)}).encode() + b"\n"
        with self._lock:
            self._socket.sendall(line)

    def lines(self) -> Iterator[dict[str, Any]]:
        """What the server says, until it ends."""
        with self._socket.makefile("rb") as file:
            for line in file:
                yield json.loads(line)
