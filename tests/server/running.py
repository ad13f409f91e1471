"""Real servers, for tests: started, killed, started again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from nbsight.remote.client import Client, Unreachable

KEYS = {"ada": "key-of-ada-0123456789", "bob": "key-of-bob-0123456789"}


class RunningServer:
    """A server in a process of its own, for two owners."""

    #: What the server is started by, such as `unshare`.
    prefix: tuple[str, ...] = ()

    def __init__(self, folder: Path, *options: str, models: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.options = options
        self.models = models
        self.port = 0
        self.process: subprocess.Popen[str] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "keys").write_text("".join(f"{owner} {key}\n" for owner, key in KEYS.items()))

    def start(self) -> RunningServer:
        command = [
            *self.prefix,
            sys.executable,
            "-m",
            "nbsight.server",
            "serve",
            *self.models,
            "--port",
            str(self.port),
        ]
        command += [
            "--data",
            str(self.folder / "data"),
            "--api-keys",
            str(self.folder / "keys"),
            *self.options,
        ]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert " at http://" in line, line
        self.url = line.split(" at ")[1].split()[0]
        self.port = int(self.url.rpartition(":")[2])  # it comes back to the same one
        return self

    def client(self, owner: str = "ada") -> Client:
        return Client(self.url, KEYS[owner])

    def wait_ready(self, seconds: float = 120) -> None:
        """Until the model is loaded."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with contextlib.suppress(Unreachable):
                if any(model.state == "ready" for model in self.client().info(fresh=True).models):
                    return
            time.sleep(0.1)
        raise TimeoutError("the server's model does not become ready")

    def kill(self) -> None:
        """As a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def workers(self) -> list[int]:
        """The numbers of its worker processes."""
        assert self.process is not None
        found = subprocess.run(
            ["ps", "-o", "pid=,args=", "--ppid", str(self.process.pid)], capture_output=True, text=True
        ).stdout
        return [int(line.split()[0]) for line in found.splitlines() if "nbsight.server.worker" in line]

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def server(folder: Path, *options: str, models: tuple[str, ...] = ()) -> Iterator[RunningServer]:
    """A server for the time of the block."""
    running = RunningServer(folder, *options, models=models).start()
    try:
        running.wait_ready()
        yield running
    finally:
        running.stop()
