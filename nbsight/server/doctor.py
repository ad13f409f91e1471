"""`nbsight serve --doctor`: whether a server with these options would start and keep what it promises.

Nothing is changed and no model is loaded. Each line is tried, not looked up: the port is bound, the folder
is written to.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from nbsight.display.numbers import bytes_text as sized
from nbsight.server.connections import more_files
from nbsight.server.engines.sizes import memory_of, weights_of
from nbsight.server.settings import Settings, is_loopback
from nbsight.wire.versions import version_of

__all__ = ["Finding", "examine", "table"]

Verdict = Literal["ok", "warn", "fail"]

#: Bytes of the disk under which a warning is due.
_DISK = 5 * 2**30


class Finding(NamedTuple):
    """One line of the table.

    Args:
        name: What was looked at.
        verdict: "fail" means that the server would not start, or not keep what it promises.
        what: What was found, and what to do.
    """

    name: str
    verdict: Verdict
    what: str


Look = Callable[[Settings], Iterator[tuple[Verdict, str]]]


def examine(settings: Settings) -> list[Finding]:
    """Everything that a server with these settings stands on, tried on this machine."""
    return [finding for name, look in _LOOKS.items() for finding in _looked(name, look, settings)]


def _looked(
    name: str, look: Callable[[Settings], Iterator[tuple[Verdict, str]]], settings: Settings
) -> list[Finding]:
    try:
        return [Finding(name, verdict, what) for verdict, what in look(settings)]
    except Exception as error:  # a check that breaks has found something
        return [Finding(name, "fail", str(error) or type(error).__name__)]


def table(findings: list[Finding]) -> str:
    """The findings in columns, and a sentence."""
    width = max(len(finding.name) for finding in findings)
    lines = [f"{finding.verdict:<5} {finding.name:<{width}}  {finding.what}" for finding in findings]
    wrong = sum(finding.verdict == "fail" for finding in findings)
    doubtful = sum(finding.verdict == "warn" for finding in findings)
    end = f"{wrong} would keep the server from working" if wrong else "the server can start"
    return "\n".join([*lines, "", f"{end}; {doubtful} to look at."])


def _versions(settings: Settings) -> Iterator[tuple[Verdict, str]]:
    names = ("nbsight", "torch", "transformers", "starlette", "uvicorn", "msgspec", "safetensors")
    found = {name: version_of(name) for name in names}
    gone = [name for name, version in found.items() if not version and name != "nbsight"]  # run from its text
    text = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    yield "ok", f"Python {platform.python_version()}, {text}"
    if gone:
        yield "fail", f"{', '.join(gone)} cannot be found: `pip install nbsight[serve]`"


def _tier(settings: Settings) -> Iterator[tuple[Verdict, str]]:
    settings.check()  # raises, and says why
    yield "ok", f"{settings.tier}, on {settings.host}"
    if settings.tier == "sandbox":
        from nbsight.server.sandbox import report  # here, because it looks for what only Linux has

        for mechanism in report():
            yield "ok" if mechanism.ok else "fail", f"{mechanism.name}: {mechanism.why}"
    if settings.tier == "program" and not settings.limits.memory:
        yield "warn", "no limit of memory: a job may take all that the machine has (`--memory`)"
    if os.name == "posix" and os.geteuid() == 0 and not is_loopback(settings.host):
        yield "warn", "it would run as root; give it a user that owns nothing else"


def _port(settings: Settings) -> Iterator[tuple[Verdict, str]]:
    from nbsight.server.serving import listener_of  # here, because serving imports the application

    listener = listener_of(settings)  # raises, and says why
    port = listener.getsockname()[1]
    listener.close()
    yield "ok", f"{settings.host}:{port} is free"


def _keys(settings: Settings) -> Iterator[tuple[Verdict, str]]:
    owners = sorted(set(settings.keys.values()))
    if owners:
        yield "ok", f"{len(settings.keys)} keys of {len(owners)} owners"
    elif is_loopback(settings.host):
        yield "ok", "one is made for this user, in a file that nobody else reads"
    else:
        yield "fail", "a server for others needs their keys: `--api-keys FILE` with `owner key` lines"


def _folder(settings: Settings) -> Iterator[tuple[Verdict, str]]:
    there = settings.data
    while not there.exists():
        there = there.parent
    with tempfile.NamedTemporaryFile(dir=there):
        pass
    free = shutil.disk_usage(there).free
    full = free < settings.limits.request + 2**28
    verdict: Verdict = "fail" if free < 2**28 else "warn" if full or free < _DISK else "ok"
    yield verdict, f"{settings.data}: {sized(free)} free; a job may bring {sized(settings.limits.request)}"
    mode = settings.data.stat().st_mode & 0o077 if settings.data.exists() else 0
    if mode:
        yield "warn", f"others can look into it: `chmod 700 {settings.data}`"


def _files(settings: Settings) -> Iterator[tuple[Verdict, str]]:
    most = more_files()
    yield "ok" if most >= 512 else "warn", f"{most:,} connections at a time (`ulimit -n` sets that)"


def _models(settings: Settings) -> Iterator[tuple[Verdict, str]]:
    total, whole = 0, True
    for name in settings.models:
        size = weights_of(name, settings.options.get("dtype"))
        if size is None:
            whole = False
            yield "warn", f"{name}: its checkpoint does not say how large it is, or is not here yet"
        else:
            total += memory_of(size) * settings.workers
            yield "ok", f"{name}: {sized(size)} of weights, about {sized(memory_of(size))} a worker"
    there = _memory()
    fits = not there or total < there
    text = f"{sized(total)} for {settings.workers} worker(s) a model; {sized(there)} are free"
    yield "ok" if fits and whole else "warn", text if there else f"{sized(total)} are needed"


def _memory() -> int:
    """Bytes that processes can still have; 0 where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), 0)


def _devices(settings: Settings) -> Iterator[tuple[Verdict, str]]:
    import torch

    wanted = str(settings.options.get("device_map") or "")
    count = torch.cuda.device_count()
    for number in range(count):
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        yield "ok", f"cuda:{number} {name}, {sized(free)} of {sized(total)} free"
    if not count:
        is_asked = wanted.startswith(("cuda", "auto"))
        yield "warn" if is_asked else "ok", f"no GPU; {torch.get_num_threads()} threads of the CPU"


def _engine(settings: Settings) -> Iterator[tuple[Verdict, str]]:
    module = {"ray": "ray", "slurm": "submitit"}.get(settings.engine)
    if module is not None and importlib.util.find_spec(module) is None:
        yield (
            "fail",
            f"{settings.engine}: {module} is not installed: `pip install nbsight[{settings.engine}]`",
        )
    else:
        yield "ok", f"{settings.engine}, {settings.workers} worker(s) a model"


_LOOKS: dict[str, Look] = {
    "versions": _versions,
    "tier": _tier,
    "port": _port,
    "keys": _keys,
    "folder": _folder,
    "connections": _files,
    "models": _models,
    "devices": _devices,
    "engine": _engine,
}
