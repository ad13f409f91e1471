"""What a view draws, as a JSON header and one buffer of bytes (js/src/shared/payload.ts reads it)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["PROTOCOL", "Payload", "encode", "texts_of"]

PROTOCOL = 1  # raised when a page of an older version could not read what is sent
DTYPES = ("uint8", "uint16", "uint32", "int32", "float32")
ALIGNMENT = 4


@dataclass(frozen=True)
class Payload:
    """The header tells a view everything but the numbers, which are in `data`."""

    header: dict[str, Any]
    data: bytes


def texts_of(known: Mapping[str, Any]) -> dict[str, str]:
    """What is known of a result's origin, as a view shows it."""
    return {name: str(value) for name, value in known.items() if value is not None}


def encode(view: str, fields: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Payload:
    """Pack named arrays one behind the other, little-endian, each at a multiple of four bytes.

    Args:
        view: Name of the view that is to draw this.
        fields: What else the view needs; values that JSON knows.
        arrays: Arrays of a type that a browser has (`DTYPES`).

    Raises:
        TypeError: An array has another type.
    """
    places: dict[str, Any] = {}
    chunks: list[bytes] = []
    offset = 0
    for name, array in arrays.items():
        if array.dtype.name not in DTYPES:
            raise TypeError(f"{name} is {array.dtype.name}; a page can read {', '.join(DTYPES)}: convert it.")
        chunk = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
        places[name] = {"dtype": array.dtype.name, "shape": list(array.shape), "offset": offset}
        padding = -len(chunk) % ALIGNMENT
        chunks.append(chunk + b"\0" * padding)
        offset += len(chunk) + padding
    return Payload({"protocol": PROTOCOL, "view": view, **fields, "arrays": places}, b"".join(chunks))
