"""The zygote and its runners, seen from the worker: started, looked over before they are trusted, killed."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch

from nbsight.errors import NbsightError
from nbsight.server.sandbox import filters, walls
from nbsight.server.sandbox.host import Host
from nbsight.server.sandbox.memory import Region, make_region
from nbsight.server.sandbox.runner import Limits
from nbsight.server.sandbox.zygote import Setup
from nbsight.wire.jobs import fingerprint

__all__ = ["Jail", "JailError", "Runner"]

_START = 180.0
_FORK = 30.0

#: Bytes of each of the two memories: what a block and its model can show each other at a time.
SHARED = 2**30

_SCRIPT = (
    "import sys; sys.path[:0] = {path!r}; sys.dont_write_bytecode = True; "
    "from nbsight.server.sandbox.zygote import main; main({descriptor})"
)


class JailError(NbsightError):
    """The walls could not be put up, or do not stand as they should."""


class Jail:
    """A zygote for one model.

    Args:
        root: The model, with its weights.
        kind: The class of the envoy that blocks see, "module:class".

    Raises:
        JailError: it does not start, or makes another model.
    """

    def __init__(self, root: Any, kind: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="nbsight-sandbox-")
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._setup = _describe(root, kind, Path(self._folder.name))
        self._tree = fingerprint(root._module)
        self._start()

    def _start(self) -> None:
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = os.memfd_create("filter")
        os.write(program, filters.wide_filter())
        os.lseek(program, 0, os.SEEK_SET)
        script = _SCRIPT.format(path=walls.search_path(), descriptor=theirs.fileno())
        inside = [sys.executable, "-I", "-c", script]
        try:
            self._process = subprocess.Popen(
                walls.command(inside, folders=[self._setup.folder], filter_at=program),
                pass_fds=[theirs.fileno(), program],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={},  # bubblewrap's own environment can be read from inside
            )
        finally:
            theirs.close()
            os.close(program)
        self._line.settimeout(_START)
        self._line.send(msgspec.json.encode(self._setup))
        with contextlib.suppress(OSError):
            tree = self._line.recv(4096).decode()
            if tree == self._tree:
                self._line.settimeout(_FORK)
                return
            if tree:
                self.close()
                raise JailError("the model without weights is not made like the one with them")
        why = self._last_words()
        self.close()
        raise JailError(f"the sandbox does not start: {why or 'it says nothing'}")

    def _last_words(self) -> str:
        if self._process is None or self._process.stderr is None:
            return ""
        self._process.kill()
        return self._process.stderr.read().decode(errors="replace").strip()[-1000:]

    def runner(self, limits: Limits) -> Runner:
        """A fresh process, locked.

        Raises:
            JailError: it is not there, or not locked.
        """
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._line is not None
        regions = make_region(SHARED, writable=False), make_region(SHARED, writable=True)
        ours, theirs = socket.socketpair()
        try:
            given = [theirs.fileno(), regions[0].descriptor, regions[1].descriptor]
            socket.send_fds(self._line, [msgspec.json.encode(limits)], given)
            _, handles, _, _ = socket.recv_fds(self._line, 64, 1)
            if not handles:
                raise JailError(f"the sandbox has ended: {self._last_words()}")
        except OSError as error:
            self._last_words()
            raise JailError(f"the sandbox does not answer: {error}") from None
        finally:
            theirs.close()
        return Runner(ours, regions, handles[0])

    def close(self) -> None:
        """End it, and with it all that it has forked."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            if self._process.stderr is not None:
                self._process.stderr.close()
        if self._line is not None:
            self._line.close()
        self._folder.cleanup()


class Runner:
    """One runner; `with` it, and it is killed at the end.

    Args:
        line: Over which it speaks.
        regions: What it reads, and what it writes.
        handle: The descriptor of its process.
    """

    def __init__(self, line: socket.socket, regions: tuple[Region, Region], handle: int) -> None:
        self.line, self.regions, self.handle = line, regions, handle

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.handle, signal.SIGKILL)
        os.close(self.handle)
        self.line.close()
        for region in self.regions:
            region.close()

    def run(
        self,
        root: Any,
        job: tuple[bytes, bytes],
        say: Callable[..., None],
        most: int,
        allowed: Callable[[Any, Any], None],
    ) -> tuple[bytes, bytes]:
        """Have it run a job; returns header and blob of the result.

        Raises:
            BlockFailed: the block did.
            WireError: the runner does not keep to the rules.
            LineEnded: it is gone.
        """
        ours, theirs = self.regions
        host = Host(root._module, self.line.fileno(), ours, theirs, job, say, most, allowed)
        self._look_over()
        return host.serve()

    def _look_over(self) -> None:
        """See from outside that it is locked, before it gets a job.

        Raises:
            JailError: it is not.
        """
        if not select.select([self.line], [], [], _FORK)[0]:
            raise JailError("the runner does not answer")
        status = _status(self.handle)
        wanted = {"Seccomp": "2", "NoNewPrivs": "1", "CapEff": "0" * 16, "CapPrm": "0" * 16}
        wrong = {name: status.get(name) for name, value in wanted.items() if status.get(name) != value}
        if int(status.get("Seccomp_filters", "2")) < 2 or wrong:
            raise JailError(f"the runner is not locked: {wrong or status.get('Seccomp_filters')}")


def _status(handle: int) -> dict[str, str]:
    lines = Path(f"/proc/self/fdinfo/{handle}").read_text().splitlines()
    process = next(line.split()[1] for line in lines if line.startswith("Pid:"))
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        raise JailError("the runner has ended before its job began") from None
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def _describe(root: Any, kind: str, folder: Path) -> Setup:
    """Write what makes the model, without its weights, where the zygote can read it."""
    module = root._module
    config: Any = getattr(module, "config", None)
    if not hasattr(config, "save_pretrained"):
        raise JailError(
            "the tier `sandbox` serves models of transformers, which can be made from a configuration"
        )
    config.save_pretrained(folder)
    settings = getattr(module, "generation_config", None)
    if settings is not None:
        with contextlib.suppress(ValueError):  # settings that contradict each other are not saved
            settings.save_pretrained(folder)
    if root.tokenizer is not None:
        root.tokenizer.save_pretrained(folder)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    dtype = next((str(part.dtype).removeprefix("torch.") for part in module.parameters()), "")
    attention = str(getattr(config, "_attn_implementation", None) or "")
    user = walls.NOBODY if os.geteuid() == 0 else 0
    folders = [*walls.readable_folders(), str(folder)]
    return Setup(str(folder), kind, dtype, attention, user, folders)


def limits_of(memory: int, seconds: float) -> Limits:
    """What one job may use."""
    threads = torch.get_num_threads()
    return Limits(memory, int(seconds * threads) + 5 if seconds else 0, threads)
