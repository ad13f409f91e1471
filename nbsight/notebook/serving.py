"""`%nbsight serve`: a server for this notebook, in a process of its own, for as long as the kernel lives."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib.util
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nbsight.errors import InputError, RemoteError

__all__ = ["serve", "stop"]

#: Seconds in which a server says its address; it loads models after that.
_PATIENCE = 60.0

_PR_SET_PDEATHSIG = 1

_servers: list[Server] = []


class Server:
    """A server that this kernel started.

    Args:
        models: The models it loads at once; without any, the shipped one.
        log: The file that its output goes to.
    """

    def __init__(self, models: list[str], log: Path) -> None:
        self.log = log
        command = [sys.executable, "-m", "nbsight.server", "serve", *models, "--port", "0"]
        with log.open("w") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # so that the stop button of a cell does not stop it
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        self.line = self._first_line()

    def _first_line(self) -> str:
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            said = self.log.read_text()
            for line in said.splitlines():
                if " at http" in line:
                    return line
            if self.process.poll() is not None:
                raise RemoteError(f"the server did not start; it said:\n{said[-2000:]}")
            time.sleep(0.05)
        self.stop()
        raise RemoteError(f"the server has not said its address for {_PATIENCE:.0f} seconds; see {self.log}.")

    @property
    def is_running(self) -> bool:
        """Whether it is there."""
        return self.process.poll() is None

    def stop(self) -> None:
        """End it; what it was running is run again by the next one."""
        if self.is_running:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        with contextlib.suppress(OSError):
            self.log.unlink()


def serve(models: list[str]) -> str:
    """Start a server that `remote=True` finds, and that ends with this kernel.

    Args:
        models: Names or folders; without any, the shipped model.

    Returns:
        What it says of itself.

    Raises:
        RemoteError: it does not start.
        InputError: the parts that a server needs are not installed, or it runs already.
    """
    running = [server for server in _servers if server.is_running]
    if running:
        raise InputError(
            f"this kernel's server runs already: {running[0].line}. `%nbsight serve stop` ends it."
        )
    if any(importlib.util.find_spec(name) is None for name in ("click", "starlette", "uvicorn")):
        raise InputError('a server needs more than is installed: `pip install "nbsight[serve]"`.')
    folder = Path(tempfile.mkdtemp(prefix="nbsight-"))
    server = Server(models, folder / "server.log")
    if not _servers:
        atexit.register(stop)
    _servers[:] = [server]
    return f"{server.line}\nIt ends with this kernel, or by `%nbsight serve stop`."


def stop() -> bool:
    """End this kernel's server; whether there was one."""
    running = [server for server in _servers if server.is_running]
    for server in running:
        server.stop()
        with contextlib.suppress(OSError):
            server.log.parent.rmdir()
    return bool(running)


def _die_with_parent() -> None:
    """On Linux a kernel that is killed takes its server along."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
