"""Starts a server: claims its folder and its port, says where it is, serves until it is told to end."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import uvicorn

from nbsight.server.access import digest_of, new_key, user_name
from nbsight.server.app import make_app
from nbsight.server.connections import Patient, more_files
from nbsight.server.engines import make_engine
from nbsight.server.logs import set_up_logs
from nbsight.server.settings import RefusedToStart, Settings, is_loopback
from nbsight.server.store import Store
from nbsight.wire.discovery import Running, announce, forget

__all__ = ["listener_of", "serve"]


def serve(
    settings: Settings, say: Callable[[str], None] = print, logs: Literal["text", "json"] = "text"
) -> None:
    """Serve until interrupted.

    Args:
        settings: What to serve. Without keys, one is made and told to this user's own programs.
        say: Takes the lines that a person wants to read.
        logs: How it writes about itself: lines, or an object of JSON a line.

    Raises:
        RefusedToStart: the settings promise what cannot be kept, or the folder or the port is taken.
    """
    settings.check()
    if sys.platform == "win32":
        raise RefusedToStart(
            "the server runs on Linux and macOS; on Windows use WSL. Blocks can be sent from there."
        )
    token = None
    if not settings.keys:
        if not is_loopback(settings.host) or settings.is_public:
            raise RefusedToStart(
                "a server for others needs their keys: `--api-keys FILE` with `owner key` lines."
            )
        token = _own_key(settings.data)
        settings = replace(settings, keys={digest_of(token): user_name()})
    engine = make_engine(settings)
    store = _store(settings.data)
    listener = listener_of(settings)
    engine.open()
    port = listener.getsockname()[1]
    url = f"http://{'localhost' if settings.host == '::1' else settings.host}:{port}"
    file: Path | None = None
    if token is not None:
        file = announce(Running(url, token, os.getpid(), time.time(), settings.tier, list(settings.models)))
    say(f"nbsight serves {', '.join(settings.models)} at {url} (tier {settings.tier})")
    if settings.public_url:
        say(f"a proxy is to pass {settings.public_url} on to it")
    if token is not None:
        say("notebooks of this user find it: model.trace(prompt, remote=True)")
    set_up_logs(logs)
    Patient.most = more_files()
    config = uvicorn.Config(
        make_app(settings, store, engine),
        http=Patient,
        ws="none",
        log_config=None,
        access_log=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=2,
        server_header=False,
    )
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn has ended in good order and passes it on
        say("ended")
    finally:
        listener.close()
        engine.close()
        if file is not None:
            forget(file)


def _own_key(folder: Path) -> str:
    """This user's own key: the same when the server is started anew, so that who waits for a job goes on."""
    path = folder / "key"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if path.exists() and path.stat().st_mode & 0o077 == 0 and path.stat().st_uid == os.getuid():
            return path.read_text(encoding="ascii").strip()
        key = new_key()
        path.unlink(missing_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(key)
    except (OSError, ValueError) as error:
        raise RefusedToStart(f"the folder {folder} cannot be used: {error}") from None
    return key


def _store(folder: Path) -> Store:
    try:
        return Store(folder)
    except BlockingIOError as error:
        raise RefusedToStart(
            f"{error}; stop it, or give this one a folder of its own: `--data FOLDER`."
        ) from None
    except OSError as error:
        raise RefusedToStart(f"the folder {folder} cannot be used: {error}") from None


def listener_of(settings: Settings) -> socket.socket:
    """The socket that a server with these settings listens on.

    Raises:
        RefusedToStart: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # With the protocol named, asyncio sees TCP and sends small packets at once.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise RefusedToStart(
            f"{settings.host}:{settings.port} cannot be listened on: {error.strerror}; give another `--port`."
        ) from None
    listener.listen(512)
    listener.set_inheritable(False)
    return listener
