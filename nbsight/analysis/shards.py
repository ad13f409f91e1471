"""Shards on disk: safetensors files and one index, each whole or not there at all.

A file is written beside its place, flushed, and moved there; the index names a shard only once that is
done. So whatever kills a process, the folder holds finished shards and an index that knows them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from nbsight.errors import InputError, StorageError

__all__ = ["FORMAT", "INDEX", "file_hash", "read_index", "write_index", "write_shard"]

FORMAT = 1
INDEX = "index.json"
_PART = ".part"


def write_shard(folder: Path, number: int, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Write one shard and return what the index says of it: file, hash and bytes.

    Raises:
        StorageError: the disk is full or refuses; what was there before is as it was.
    """
    path = folder / f"shard-{number:05d}.safetensors"
    part = path.with_name(path.name + _PART)
    try:
        save_file(dict(tensors), part)
        digest = file_hash(part)
        _settle(part, path)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        size = sum(value.numel() * value.element_size() for value in tensors.values())
        raise _refused(path, size, error) from error
    return {"file": path.name, "sha256": digest, "bytes": path.stat().st_size}


def write_index(folder: Path, index: Mapping[str, Any]) -> None:
    """Put a new index in the place of the old one.

    Raises:
        StorageError: as for a shard.
    """
    path = folder / INDEX
    part = path.with_name(path.name + _PART)
    text = json.dumps(index, indent=1, ensure_ascii=False)
    try:
        part.write_text(text, encoding="utf-8")
        _settle(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise _refused(path, len(text), error) from error


def read_index(folder: Path) -> dict[str, Any] | None:
    """The index of a folder; None if it has none.

    Raises:
        StorageError: there is one that cannot be read.
        InputError: it is of another format.
    """
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {error}.") from None
    if not isinstance(index, dict) or index.get("kind") != "activations":
        raise InputError(f"{path} is no index of collected activations; give a folder of its own.")
    if index.get("format") != FORMAT:
        raise InputError(
            f"{path} has format {index.get('format')!r}; this version of nbsight reads {FORMAT}."
        )
    return index


def file_hash(path: Path) -> str:
    """The SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _settle(part: Path, path: Path) -> None:
    """Flush a file that is written and move it to its place."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, path)


def _refused(path: Path, size: int, error: Exception) -> StorageError:
    reason = getattr(error, "strerror", None) or str(error)
    return StorageError(
        f"{path.name} ({size / 1e6:.1f} MB) could not be written to {path.parent}: {reason}. "
        "What was finished before it is kept. Make room, or write to another disk; the same "
        "call then goes on from there."
    )
