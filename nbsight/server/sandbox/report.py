"""Whether this machine can keep what the tier promises, mechanism by mechanism, by trying each."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

from nbsight.server.sandbox import filters, kernel, walls
from nbsight.server.sandbox.memory import make_region
from nbsight.server.sandbox.syscalls import ARCHITECTURES

__all__ = ["Mechanism", "missing", "report"]

_SECONDS = 20


class Mechanism(NamedTuple):
    """One of the things that the tier stands on.

    Args:
        name: What it is.
        ok: Whether it works here.
        why: What was tried and what came of it.
    """

    name: str
    ok: bool
    why: str


def report() -> list[Mechanism]:
    """Each mechanism of the tier `sandbox`, tried on this machine; takes a tenth of a second."""
    return [_tried(name, probe) for name, probe in _PROBES.items()]


def missing() -> list[Mechanism]:
    """Those that do not work here; with an empty list the tier can be kept."""
    return [mechanism for mechanism in report() if not mechanism.ok]


def _tried(name: str, probe: Callable[[], str]) -> Mechanism:
    try:
        return Mechanism(name, True, probe())
    except Exception as error:  # whatever goes wrong, the mechanism is not there
        return Mechanism(name, False, str(error) or type(error).__name__)


def _system() -> str:
    if not sys.platform.startswith("linux"):
        raise OSError(f"it needs Linux, and this is {sys.platform}")
    if platform.machine() not in ARCHITECTURES:
        raise OSError(f"filters are known for {', '.join(ARCHITECTURES)}, not for {platform.machine()}")
    return f"Linux {platform.release()} on {platform.machine()}"


def _bubblewrap() -> str:
    """Whether its walls stand: the process inside counts processes from 1 and sees no network."""
    script = "echo $$; cat /proc/net/dev"
    done = subprocess.run(
        walls.command(["/bin/sh", "-c", script]),
        capture_output=True,
        text=True,
        env={},
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise OSError(f"bubblewrap cannot make its walls: {done.stderr.strip()[:300]}")
    lines = done.stdout.splitlines()
    devices = [line.split(":")[0].strip() for line in lines if ":" in line]
    if int(lines[0]) > 3 or set(devices) - {"lo"}:
        raise OSError(f"bubblewrap left a way out: process {lines[0]}, network devices {devices}")
    return "bubblewrap starts a process with namespaces of its own and no network but its own loopback"


def _landlock() -> str:
    version = kernel.landlock_version()
    if not version:
        raise OSError(
            "the kernel has no Landlock (Linux 5.13, and `landlock` in the lsm= of its command line)"
        )
    status = _in_child(lambda: kernel.only_read(["/usr"]), lambda: os.listdir("/proc"))
    if status != 0:
        raise OSError("a process under Landlock still reads /proc")
    return f"version {version}; files outside of the given folders cannot be read"


def _seccomp() -> str:
    def lock() -> None:
        kernel.set_no_new_privileges()
        kernel.install_filter(filters.narrow_filter())

    if _in_child(lock, lambda: os.kill(os.getppid(), 0)) != 0 or _in_child(lock, os.fork) != 0:
        raise OSError("a process under the filter still sends signals or forks")
    return "a process under the filter can neither fork nor send signals"


def _shared_memory() -> str:
    region = make_region(2**16, writable=False)
    try:
        return "sealed memory can be shared"
    finally:
        region.close()


def _in_child(lock: Callable[[], None], attempt: Callable[[], object]) -> int:
    """0 if the attempt is refused in a process that was locked before, 1 if not, others if it cannot be."""
    process = os.fork()
    if process == 0:
        signal.alarm(_SECONDS)
        status = 2
        try:
            lock()
            status = 1
            attempt()
        except PermissionError:
            status = 0 if status == 1 else 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _turn_into_nobody() -> None:
    os.setgroups([])
    os.setgid(walls.NOBODY)
    os.setuid(walls.NOBODY)


def _identity() -> str:
    if os.geteuid() != 0:
        return (
            f"the server runs as user {os.geteuid()}, and the process inside in a user namespace of its own"
        )
    if _in_child(lambda: None, _turn_into_nobody) != 1:
        raise OSError("the server runs as root and cannot turn into nobody")
    return "the server runs as root; the process inside turns into nobody"


_PROBES: dict[str, Callable[[], str]] = {
    "system": _system,
    "bubblewrap": _bubblewrap,
    "landlock": _landlock,
    "seccomp": _seccomp,
    "shared memory": _shared_memory,
    "user": _identity,
}
