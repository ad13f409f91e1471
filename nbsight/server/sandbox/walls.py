"""The command that puts a Python behind walls, and what it may see there."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["NOBODY", "command", "environment", "package_folders", "readable_folders", "search_path"]

#: Who the process is inside, where the server itself runs as root.
NOBODY = 65534

#: What a block needs beside Python's own; whatever they import lies beside them.
_PACKAGES = (
    *("torch", "numpy", "greenlet", "msgspec", "safetensors", "transformers", "tokenizers", "einops"),
    *("typing_extensions", "huggingface_hub"),
)

#: Of the system: its libraries, and nothing of /etc but where they are.
_SYSTEM = (
    "/usr",
    "/lib",
    "/lib64",
    "/bin",
    "/etc/ld.so.cache",
    "/etc/alternatives",
    "/sys/devices/system/cpu",
)

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ATEN_CPU_CAPABILITY")


def package_folders() -> list[str]:
    """The folders that hold the packages of a block, in the order in which Python looks."""
    found: dict[str, None] = {}
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            package = bool(spec.submodule_search_locations)
            found[str(Path(spec.origin).parents[1 if package else 0])] = None
    return sorted(found, key=lambda folder: sys.path.index(folder) if folder in sys.path else len(sys.path))


def _own() -> Path:
    return Path(__file__).resolve().parents[2]


def search_path() -> list[str]:
    """Where Python looks for modules inside, before its own library."""
    return [str(_own().parent), *package_folders()]


def readable_folders() -> list[str]:
    """Python, its packages and nbsight: what can be read inside, before and after the second lock."""
    python = [sys.base_prefix, sys.prefix, sys.exec_prefix]
    found = [*python, *package_folders(), str(_own()), *(part for part in _SYSTEM if os.path.isdir(part))]
    return [folder for folder in dict.fromkeys(found) if folder != "/"]


def environment() -> dict[str, str]:
    """The whole environment inside."""
    threads = {name: os.environ[name] for name in _THREADS if os.environ.get(name, "").isalnum()}
    return {
        "PATH": "/usr/bin",
        "HOME": "/nonexistent",
        "LANG": "C.UTF-8",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
        **threads,
    }


def command(
    arguments: Iterable[str], *, folders: Iterable[str] = (), filter_at: int | None = None
) -> list[str]:
    """What to run.

    Args:
        arguments: The program inside and its arguments.
        folders: More folders to be read inside.
        filter_at: The descriptor from which bubblewrap reads the first filter.

    Raises:
        FileNotFoundError: there is no bubblewrap.
    """
    program = shutil.which("bwrap")
    if program is None:
        raise FileNotFoundError("bubblewrap (`bwrap`) is not installed")
    spaces = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    rights = ["--cap-drop", "ALL"]
    if os.geteuid() == 0:  # inside it turns into nobody, for which it needs these two once
        rights += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        spaces += ["--unshare-user", "--disable-userns"]
    walls = [program, *spaces, *rights, "--die-with-parent", "--new-session", "--clearenv"]
    for name, value in environment().items():
        walls += ["--setenv", name, value]
    places = [
        place for place in dict.fromkeys([*_SYSTEM, *readable_folders(), *folders]) if os.path.exists(place)
    ]
    above = dict.fromkeys(str(part) for place in places for part in reversed(Path(place).parents[:-1]))
    walls += ["--perms", "1777", "--tmpfs", "/tmp"]  # torch looks for one when it begins; blocks cannot write
    for folder in above:
        if folder not in (*places, "/tmp"):  # whoever it is inside, it has to get through
            walls += ["--perms", "0755", "--dir", folder]
    for place in places:
        if os.path.islink(place):
            walls += ["--symlink", os.readlink(place), place]
        elif not any(str(part) in places for part in Path(place).parents):
            walls += ["--ro-bind", place, place]
    walls += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/"]
    if filter_at is not None:
        walls += ["--seccomp", str(filter_at)]
    return [*walls, "--", *arguments]
