"""Who is asking: a bearer token on every route, and no page of another site."""

from __future__ import annotations

import getpass
import hashlib
import secrets
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from nbsight.server.settings import RefusedToStart, is_loopback

__all__ = ["digest_of", "new_key", "owner_of", "read_keys", "user_name", "wrong_origin"]

#: Characters of a key, at least: one that can be guessed is none.
_SHORTEST = 16


def digest_of(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def new_key() -> str:
    """A key that nobody guesses."""
    return f"nbs-{secrets.token_urlsafe(24)}"


def user_name() -> str:
    """The user this server runs as."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for its user
        return "user"


def read_keys(path: Path) -> dict[str, str]:
    """Owners by the digest of their keys, from a file of `owner key` or `owner sha256:<digest>` lines.

    Raises:
        RefusedToStart: the file cannot be read, or a line of it cannot be used.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise RefusedToStart(f"the file of keys cannot be read: {error}") from None
    keys: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        parts = line.split("#")[0].split()
        if not parts:
            continue
        place = f"line {number} of {path}"
        if len(parts) != 2:
            raise RefusedToStart(f"{place} is not `owner key`.")
        owner, key = parts
        if key.startswith("sha256:"):
            digest = key.removeprefix("sha256:").lower()
            if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
                raise RefusedToStart(f"{place} holds no SHA-256 digest.")
        elif len(key) < _SHORTEST:
            raise RefusedToStart(
                f"the key in {place} has {len(key)} characters; it takes {_SHORTEST}. `nbsight new-key` "
                "makes one."
            )
        else:
            digest = digest_of(key)
        if keys.setdefault(digest, owner) != owner:
            raise RefusedToStart(f"{place} gives a key to {owner} that {keys[digest]} has already.")
    if not keys:
        raise RefusedToStart(f"{path} holds no key; `nbsight new-key OWNER` prints a line for it.")
    return keys


def owner_of(authorization: str | None, keys: Mapping[str, str]) -> str | None:
    """Whose key a request carries, if it is a known one.

    Only digests are compared, so the time that takes says nothing about a key.
    """
    scheme, _, key = (authorization or "").partition(" ")
    return keys.get(digest_of(key.strip())) if scheme.lower() == "bearer" and key else None


def wrong_origin(headers: Mapping[str, str], host: str, public: str = "") -> str | None:
    """Why a request is not answered: a page of another site sent it, or a name points here by a trick.

    Args:
        headers: The request's.
        host: The address that the server listens on.
        public: The address under which a proxy lets others reach it.
    """
    named = headers.get("host", "")
    name = named.rsplit(":", 1)[0] if named.count(":") <= 1 else named.partition("]")[0].lstrip("[")
    if is_loopback(host) and not is_loopback(name) and (not public or named != urlsplit(public).netloc):
        return f"this server answers on {host} only, and was asked as {named!r}."
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] not in (named, urlsplit(public).netloc or named):
        return f"a page of {origin!r} may not use this server."
    return None
