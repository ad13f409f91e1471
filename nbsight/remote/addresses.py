"""Which server `remote=True` means, and with which key.

A server: what `connect` was given, else NBSIGHT_HOST, else one that `nbsight serve` runs for this
user on this computer, else NDIF where NDIF_API_KEY is set and nnsight installed. A key: what
`connect` was given, else NBSIGHT_API_KEY, else what `nbsight login` keeps, else what the server of
this computer left for its user; for NDIF it is NDIF_API_KEY.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from nbsight.compat import CONFIG
from nbsight.errors import RemoteError
from nbsight.remote.client import Client
from nbsight.wire.discovery import running, saved_keys

__all__ = ["connect", "find_client"]

_clients: dict[tuple[str, str | None], Client] = {}
_chosen: list[Client] = []


def connect(url: str | None = None, api_key: str | None = None) -> Client:
    """Choose the server that `remote=True` means from now on, and greet it.

    Args:
        url: Its address; by default the one that would be found without this.
        api_key: The key that it knows you by; better kept in NBSIGHT_API_KEY or by `nbsight login`
            than written into a notebook.

    Returns:
        The server: `.describe()`, `.jobs()`, `.model(name)`.

    Raises:
        RemoteError: nobody answers, or the key is not known there.
    """
    client = find_client(True) if url is None and api_key is None else _client(url or _address(), api_key)
    client.greet()
    _chosen[:] = [client]
    return client


def find_client(remote: Any) -> Client:
    """The server that `remote=` names.

    Raises:
        RemoteError: there is none.
    """
    if isinstance(remote, str):
        return _client(remote, None)
    if _chosen:
        return _chosen[0]
    return _client(_address(), None)


def _address() -> str:
    named = os.environ.get("NBSIGHT_HOST")
    if named:
        return named
    for server in running():
        return server.url
    if _ndif_key() and importlib.util.find_spec("nnsight") is not None:
        return "ndif"
    raise RemoteError(
        "remote=True needs a server, and none runs on this computer. Start one with `nbsight serve` in a "
        "terminal, or name one: NBSIGHT_HOST, nbsight.connect(url) or `remote=url`. Without a server, "
        '`remote="local"` shows whether the block would travel.'
    )


def _client(url: str, key: str | None) -> Client:
    ndif = _ndif(url, key)
    if ndif is not None:
        return ndif
    url = Client(url, None).url
    key = key or _key(url)
    if (url, key) not in _clients:
        _clients[url, key] = Client(url, key)
    return _clients[url, key]


def _ndif(url: str, key: str | None) -> Client | None:
    """NDIF, if that is what an address means."""
    if "ndif" not in url and url.rstrip("/") != os.environ.get("NDIF_HOST", "").rstrip("/"):
        return None
    from nbsight.remote.ndif.service import NdifClient, is_ndif, ndif_url

    if not is_ndif(url):
        return None
    found = NdifClient(CONFIG.API.HOST or ndif_url() if url == "ndif" else url, key or _ndif_key())
    return _clients.setdefault((found.url, key or _ndif_key()), found)


def _ndif_key() -> str | None:
    return os.environ.get("NDIF_API_KEY") or CONFIG.API.APIKEY or None


def _key(url: str) -> str | None:
    """The key for a server."""
    host = os.environ.get("NBSIGHT_HOST")
    # The key in the environment is for the server in the environment, if that names one.
    if os.environ.get("NBSIGHT_API_KEY") and (not host or Client(host, None).url == url):
        return os.environ["NBSIGHT_API_KEY"]
    kept = saved_keys().get(url)
    if kept:
        return kept
    return next((server.token for server in running() if server.url == url), None)
