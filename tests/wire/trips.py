"""A value's way through the codec and back, as bytes."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from nbsight.wire.decode import Decoder
from nbsight.wire.encode import Encoder
from nbsight.wire.messages import FunctionSpace, TensorSpec
from nbsight.wire.tensors import TensorReader


def trip(value: Any, root: Any, shared: Any = None) -> Any:
    """What arrives when `value` is sent."""
    encoder = Encoder(root, shared)
    code = encoder.encode(value, "value")
    specs, blob = encoder.tensors.finish()
    text = json.dumps(msgspec.to_builtins([code, specs, encoder.spaces]), allow_nan=False)
    code, specs, spaces = json.loads(text)
    decoder = Decoder(
        root,
        TensorReader(msgspec.convert(specs, list[TensorSpec]), bytes(blob)),
        msgspec.convert(spaces, list[FunctionSpace]),
        codes=[code],
    )
    return decoder.decode(code)
