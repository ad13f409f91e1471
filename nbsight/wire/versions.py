"""Which release of a package is installed here."""

from __future__ import annotations

from functools import cache
from importlib import metadata

__all__ = ["version_of"]


@cache
def version_of(package: str) -> str:
    """The version of a package; empty where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
