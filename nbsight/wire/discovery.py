"""Where a server on this computer says that it is there: one small file, for its user alone to read.

`nbsight serve` writes `nbsight-<pid>.json` beside Jupyter's own runtime files; `remote=True` looks
there when nothing else names a server. Keys that `nbsight login` was given are kept here too.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

__all__ = ["Running", "announce", "data_dir", "forget", "running", "save_key", "saved_keys", "write_private"]


class Running(msgspec.Struct, frozen=True):
    """A server of this user on this computer."""

    url: str
    token: str
    pid: int
    started: float
    tier: str = "local"
    models: list[str] = []


def data_dir() -> Path:
    """Where nbsight keeps what outlives a process; `NBSIGHT_DATA_DIR` moves it."""
    given = os.environ.get("NBSIGHT_DATA_DIR")
    if given:
        return Path(given)
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA", Path.home())) / "nbsight"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "nbsight"
    return Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share")) / "nbsight"


def _runtime_dir() -> Path:
    given = os.environ.get("NBSIGHT_DATA_DIR") or os.environ.get("JUPYTER_RUNTIME_DIR")
    if given:
        return Path(given)
    if sys.platform in ("win32", "darwin"):
        return data_dir() / "runtime"
    return data_dir().parent / "jupyter" / "runtime"


def announce(server: Running) -> Path:
    """Write a server's file; returns its path."""
    path = _runtime_dir() / f"nbsight-{server.pid}.json"
    write_private(path, msgspec.to_builtins(server))
    return path


def forget(path: Path) -> None:
    """Take a server's file away."""
    with contextlib.suppress(OSError):
        path.unlink()


def running() -> list[Running]:
    """The servers of this user that are alive, newest first; files of dead ones are removed."""
    found = []
    for path in _runtime_dir().glob("nbsight-*.json"):
        try:
            server = msgspec.json.decode(path.read_bytes(), type=Running)
        except (OSError, msgspec.DecodeError):  # being written, or not ours
            continue
        if _is_alive(server.pid):
            found.append(server)
        else:
            forget(path)
    return sorted(found, key=lambda server: -server.started)


def _is_alive(pid: int) -> bool:
    if sys.platform == "win32":
        return True  # a signal would end it; a dead one shows when it is asked
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def saved_keys() -> dict[str, str]:
    """The keys that `nbsight login` was given, by the server's address."""
    try:
        keys = json.loads((data_dir() / "keys.json").read_text())
    except (OSError, ValueError):
        return {}
    return keys if isinstance(keys, dict) else {}


def save_key(url: str, key: str | None) -> Path:
    """Keep a key for a server, or forget it (None)."""
    keys = {**saved_keys(), url: key}
    path = data_dir() / "keys.json"
    write_private(path, {url: key for url, key in keys.items() if key})
    return path


def write_private(path: Path, content: Any) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(content, file)
    os.replace(partial, path)
