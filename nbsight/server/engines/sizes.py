"""What a model will take of a machine, from its checkpoint's headers, before anything is loaded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from nbsight.errors import ModelLoadError
from nbsight.models.headers import SAFETENSORS_DTYPES, headers_of
from nbsight.models.hub import find_source

__all__ = ["memory_of", "weights_of"]

#: Bytes of an element, by torch's names.
_BYTES = {"float64": 8, "double": 8, "float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}

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
    try:
        source = find_source(name, revision=revision)
    except ModelLoadError:
        return None  # the load will say so, on the job
    headers = headers_of(source, {} if revision is None else {"revision": revision})
    if headers is None:
        # Pickled files say nothing before they are loaded, but they are about as large as what they hold.
        files = Path(source.path).glob("*.bin") if source.is_local else ()
        return sum(file.stat().st_size for file in files) or None
    wide = _BYTES.get(str(dtype).removeprefix("torch."))
    return sum(
        math.prod(shape) * wide if wide and headers.kinds[key] in SAFETENSORS_DTYPES else headers.bytes[key]
        for key, shape in headers.shapes.items()
    )
