"""The jobs that were sent to NDIF, in a file of their sender's: NDIF answers for an id, and lists none."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from nbsight.wire.discovery import data_dir, write_private

__all__ = ["Record", "forget", "keep", "records"]

#: Jobs that are remembered.
_KEPT = 500


class Record(msgspec.Struct, frozen=True):
    """A job that was sent.

    Args:
        id: NDIF's name for it.
        url: The address it was sent to.
        model: The model's name.
        kind: "trace" or "session".
        label: The first line of its block.
        created: Seconds since the epoch.
        filename: The name under which its text travelled.
        home: The user's file of that name.
        names: The names that the block binds.
    """

    id: str
    url: str
    model: str
    kind: str
    label: str
    created: float = msgspec.field(default_factory=time.time)
    filename: str = ""
    home: str = ""
    names: list[str] = []


def records(url: str) -> list[Record]:
    """What was sent to an address, newest first."""
    return [record for record in _all() if record.url == url]


def keep(record: Record) -> None:
    """Remember a job."""
    write_private(_path(), msgspec.to_builtins([record, *_all()][:_KEPT]))


def forget(job: str) -> None:
    """Remember a job no longer."""
    write_private(_path(), msgspec.to_builtins([record for record in _all() if record.id != job]))


def _path() -> Path:
    return data_dir() / "ndif-jobs.json"


def _all() -> list[Record]:
    try:
        return msgspec.json.decode(_path().read_bytes(), type=list[Record])
    except (OSError, msgspec.DecodeError):  # none yet, or of another version
        return []
