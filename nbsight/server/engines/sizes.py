"""What a model will take of a machine, from its checkpoint, before anything is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from nbsight.models import demo

__all__ = ["memory_of", "weights_of"]

#: Bytes of an element, by the names of safetensors and by torch's.
_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "BOOL": 1}
_DTYPES = {"float64": 8, "double": 8, "float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}

#: What comes to the weights: a fifth for values of a forward, and a process with torch (and CUDA).
_FACTOR, _PROCESS = 1.2, 2**30


def memory_of(weights: int) -> int:
    """Bytes that a worker is given for weights of so many bytes."""
    return int(weights * _FACTOR) + _PROCESS


def weights_of(name: str, dtype: Any = None, revision: str | None = None) -> int | None:
    """Bytes of a model's weights as they will be loaded; None where its checkpoint does not say.

    Args:
        name: Its name on the hub, or its folder.
        dtype: What they are loaded as; None and "auto" leave them as they are stored.
        revision: Of the hub's.
    """
    folder = Path(name)
    if name == demo.NAME:
        folder = demo.folder()
    elif not folder.is_dir():
        return _of_hub(name, dtype, revision)
    return _of_folder(folder, dtype)


def _of_folder(folder: Path, dtype: Any) -> int | None:
    files = sorted(folder.glob("*.safetensors"))
    if not files:  # pickled checkpoints say nothing before they are loaded
        return sum(path.stat().st_size for path in folder.glob("*.bin")) or None
    try:
        return sum(_bytes(kind, count, dtype) for path in files for kind, count in _tensors(path))
    except (OSError, SafetensorError):
        return None  # the load will say what is wrong with it


def _tensors(path: Path) -> Iterable[tuple[str, int]]:
    """The dtype and the number of elements of each tensor; only the header is read."""
    with safe_open(path, "np") as file:
        for name in file.keys():  # noqa: SIM118  # it is no dict
            part = file.get_slice(name)
            count = 1
            for length in part.get_shape():
                count *= length
            yield part.get_dtype(), count


def _of_hub(name: str, dtype: Any, revision: str | None) -> int | None:
    from huggingface_hub import get_safetensors_metadata, snapshot_download

    try:
        return _of_folder(Path(snapshot_download(name, revision=revision, local_files_only=True)), dtype)
    except Exception:  # it is not in this machine's cache, or not a name at all: ask the hub
        pass
    try:
        counts = get_safetensors_metadata(name, revision=revision).parameter_count
    except Exception:  # offline, gated, no such model: the load will say so, in its words
        return None
    return sum(_bytes(kind, count, dtype) for kind, count in counts.items())


def _bytes(stored: str, count: int, dtype: Any) -> int:
    wide = _BYTES.get(stored) or int("".join(re.findall(r"\d+", stored)[:1]) or 32) / 8
    wanted = _DTYPES.get(str(dtype).removeprefix("torch."))
    is_number = stored.startswith(("F", "BF"))
    return int(count * (wanted if wanted and is_number else wide))
