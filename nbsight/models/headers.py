"""The headers of a checkpoint's files: names, shapes and dtypes of its tensors, without the tensors.

No torch here: a server looks at checkpoints that it does not load.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import get_safetensors_metadata

from nbsight.models.hub import Source

__all__ = ["SAFETENSORS_DTYPES", "Headers", "header_of", "headers_of"]

SAFETENSORS_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
}
"""torch's names of the dtypes, by the format's, that become another one when a model is loaded in it."""


@dataclass(frozen=True)
class Headers:
    """What the headers of safetensors files say.

    Args:
        files: Their names.
        shapes: Shape of each tensor.
        kinds: The dtype of each tensor as the format writes it.
        bytes: Bytes of each tensor.
    """

    files: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    kinds: dict[str, str]
    bytes: dict[str, int]

    @property
    def dtype(self) -> str | None:
        """torch's name of the first dtype with a point, which transformers takes; None without any."""
        return next((SAFETENSORS_DTYPES[k] for k in self.kinds.values() if k in SAFETENSORS_DTYPES), None)


def headers_of(source: Source, common: dict[str, Any]) -> Headers | None:
    """Read the headers of a checkpoint's files, a few kilobytes each; None where there are no such files.

    Args:
        source: Where the model is.
        common: Options such as `revision` and `token`.
    """
    try:
        if source.is_local:
            folder = Path(source.path) / common.get("subfolder", "")
            found = {file.name: header_of(file) for file in sorted(folder.glob("model*.safetensors"))}
        elif source.cached_only:
            return None
        else:
            own = {name: common[name] for name in ("revision", "token") if name in common}
            told = get_safetensors_metadata(source.path, **own)
            found = {
                name: {
                    key: (info.dtype, tuple(info.shape), info.data_offsets[1] - info.data_offsets[0])
                    for key, info in file.tensors.items()
                }
                for name, file in told.files_metadata.items()
            }
    except Exception:  # the hub's errors depend on the release of its library; the configuration is enough
        return None
    every = {key: value for file in found.values() for key, value in file.items()}
    if not every:
        return None
    return Headers(
        tuple(found),
        {key: value[1] for key, value in every.items()},
        {key: value[0] for key, value in every.items()},
        {key: value[2] for key, value in every.items()},
    )


def header_of(file: Path) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """The header of one file: eight bytes of length, then JSON."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header = json.loads(opened.read(length))
    return {
        name: (info["dtype"], tuple(info["shape"]), info["data_offsets"][1] - info["data_offsets"][0])
        for name, info in header.items()
        if name != "__metadata__"
    }
