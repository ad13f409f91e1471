"""A worker's other half where the server is not: on its machine, between it and whatever reaches it.

The worker itself is the same as everywhere. What it reads and writes as files travels in parts here,
so that neither a large request nor a large result is ever whole in memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbsight.server.channel import LINE
from nbsight.server.engines.local import start_worker

__all__ = ["PART", "Agent", "Message"]

#: A line of JSON, and the bytes that go with it.
Message = tuple[dict[str, Any], bytes]

#: Bytes of a file that travel at a time.
PART = 4 * 2**20


class Agent:
    """One worker, and the files of its jobs.

    Args:
        environment: What the worker's environment has besides; None takes a name out.
    """

    def __init__(self, environment: dict[str, str | None]) -> None:
        names = {**os.environ, **environment}
        self.folder = Path(tempfile.mkdtemp(prefix="nbsight-worker-"))
        self._process, self._line = start_worker({k: v for k, v in names.items() if v is not None})
        self._said: queue.Queue[bytes | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def pid(self) -> int:
        """The worker's number on its machine."""
        return self._process.pid

    def take(self, message: dict[str, Any], content: bytes = b"") -> None:
        """What the server says: a part of a request, or something for the worker."""
        if message["do"] == "part":
            with (self.folder / "request").open("ab") as file:
                file.write(content)
            return
        if message["do"] == "run":
            message = {**message, "request": str(self.folder / "request"), "result": str(self._result)}
        with contextlib.suppress(OSError):  # it is gone, and `messages` ends
            self._line.sendall(json.dumps(message).encode() + b"\n")

    @property
    def _result(self) -> Path:
        return self.folder / "result"

    def messages(self) -> Iterator[Message]:
        """What the worker says, until it is gone; before it says that a job is done, its result."""
        while (line := self._said.get()) is not None:
            message = json.loads(line)
            if message["say"] in ("done", "failed", "stopped"):
                (self.folder / "request").unlink(missing_ok=True)
            if message["say"] == "done":
                with self._result.open("rb") as file:
                    while content := file.read(PART):
                        yield {"say": "part", "job": message["job"]}, content
                self._result.unlink()
            yield message, b""

    def _listen(self) -> None:
        with contextlib.suppress(OSError), self._line.makefile("rb", buffering=LINE) as file:
            for line in file:
                self._said.put(line)
        self._said.put(None)

    def end(self) -> None:
        """End the worker and forget its files."""
        self._process.kill()
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        shutil.rmtree(self.folder, ignore_errors=True)
