"""The two messages, as records that are checked when they arrive.

A message is a JSON header and a safetensors blob. On a wire that has no parts of its own they are
framed as `b"nbsight1"`, the header's length as 8 bytes (little endian), the header, the blob. With
`b"nbsightz"` the header is deflated; what it becomes is limited by who reads it.
"""

from __future__ import annotations

import json
import zlib
from typing import Any, Literal, TypeVar

import msgspec

from nbsight.errors import RemoteError

__all__ = [
    "HEADER",
    "PROTOCOL",
    "BlockText",
    "Client",
    "EditText",
    "FunctionSpace",
    "JobHeader",
    "ModelRef",
    "Options",
    "ResultHeader",
    "TensorSpec",
    "frame",
    "header_size",
    "inflate",
    "pack",
    "unframe",
    "unpack",
]

#: Goes up when an older reader would misunderstand a message.
PROTOCOL = 1

_MAGIC = b"nbsight1"
_DEFLATED = b"nbsightz"

#: Bytes of a header, at most: text, names and small values; numbers travel in the blob.
HEADER = 64 * 2**20

#: A header of no more bytes goes as it is.
_SHORT = 256


class Client(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who wrote the message; for the sentence that explains a difference."""

    nbsight: str
    python: str
    torch: str
    transformers: str = ""


class ModelRef(msgspec.Struct, frozen=True, omit_defaults=True):
    """The model that a block was written for.

    Args:
        id: Its name or folder.
        tree: The fingerprint of its module tree.
        kind: The class of its envoy, "module:class".
        revision: The revision that was asked for.
        dtype: The dtype that was asked for; empty if none was.
        attention: The `attn_implementation` that was asked for.
        aliases: The user's other names for modules, by path.
    """

    id: str
    tree: str
    kind: str = ""
    revision: str = ""
    dtype: str = ""
    attention: str = ""
    aliases: dict[str, str] = {}


class TensorSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """How one tensor lies in the blob.

    Args:
        blob: The entry of the safetensors file.
        dtype: "float32" and so on; for numpy arrays numpy's own code, such as "<f4".
        shape: Its shape.
        strides: In elements; None when the entry is the tensor, of that dtype and shape.
        offset: In bytes, from the start of the entry; used with `strides`.
        device: Where it was.
        kind: A torch tensor, a parameter or a numpy array.
        requires_grad: Whether it is a leaf that collects gradients.
    """

    blob: str
    dtype: str
    shape: list[int]
    strides: list[int] | None = None
    offset: int = 0
    device: str = "cpu"
    kind: Literal["tensor", "parameter", "array"] = "tensor"
    requires_grad: bool = False


class BlockText(msgspec.Struct, frozen=True, omit_defaults=True):
    """A block as text.

    Args:
        source: Its lines as the user wrote them.
        filename: The user's file or cell.
        line: The line number of the first line of `source`.
        stores: The names it binds.
        target: The name after `as`.
        format: How to read `source`.
    """

    source: str
    filename: str
    line: int
    stores: list[str]
    target: str | None = None
    format: Literal["python"] = "python"


class EditText(msgspec.Struct, frozen=True, omit_defaults=True):
    """A kept edit of the model, which acts in every run of the job.

    Args:
        program: Its block.
        captures: What the names that the block reads mean.
        targets: The names after `as`.
        inplace: Whether it edits the model itself and not a light copy.
    """

    program: BlockText
    captures: dict[str, Any]
    targets: list[str]
    inplace: bool


class FunctionSpace(msgspec.Struct, frozen=True, omit_defaults=True):
    """The globals of functions that travel; `shared` says that the block itself lives there too."""

    names: dict[str, Any]
    shared: bool = False


class Options(msgspec.Struct, frozen=True, omit_defaults=True):
    """What holds for the whole job."""

    grad: bool | None = None
    finish: bool = False
    grad_enabled: bool = True


class JobHeader(msgspec.Struct, frozen=True, omit_defaults=True):
    """A block on its way to where it runs.

    Args:
        captures: What the names that the block reads mean.
        withheld: Names that may be read but could not travel, and why.
    """

    protocol: int
    client: Client
    model: ModelRef
    kind: Literal["trace", "session"]
    method: str
    program: BlockText
    args: list[Any]
    kwargs: dict[str, Any]
    captures: dict[str, Any]
    tensors: list[TensorSpec]
    spaces: list[FunctionSpace] = []
    withheld: dict[str, str] = {}
    options: Options = Options()
    edits: list[EditText] = []


class ResultHeader(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a block bound.

    Args:
        names: The names it bound.
        changes: New contents of captured containers and tensors, by their number in the job.
    """

    protocol: int
    names: dict[str, Any]
    tensors: list[TensorSpec]
    changes: dict[str, Any] = {}


Header = TypeVar("Header", JobHeader, ResultHeader)


def pack(header: JobHeader | ResultHeader) -> bytes:
    """The header as JSON."""
    # The standard library's writer, because strings may hold lone surrogates.
    return json.dumps(msgspec.to_builtins(header), separators=(",", ":"), allow_nan=False).encode()


def unpack(data: bytes, kind: type[Header]) -> Header:
    """Read and check a header.

    Raises:
        RemoteError: it is no such message, or one of another protocol.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RemoteError(f"the message cannot be read as JSON: {error}") from None
    protocol = content.get("protocol") if isinstance(content, dict) else None
    if protocol != PROTOCOL:
        raise RemoteError(
            f"the message speaks protocol {protocol!r} and this nbsight speaks {PROTOCOL}; install "
            "the same version of nbsight on both sides."
        )
    try:
        return msgspec.convert(content, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise RemoteError(f"the message is not well formed: {error}") from None


def frame(header: bytes, blob: bytes, *, deflate: bool = False) -> bytes:
    """Header and blob as one string of bytes.

    Args:
        deflate: Whether to make a long header shorter; numbers are not worth the time.
    """
    magic = _MAGIC
    if deflate and len(header) > _SHORT:
        magic, header = _DEFLATED, zlib.compress(header, 6)
    return b"".join((magic, len(header).to_bytes(8, "little"), header, blob))


def unframe(data: bytes) -> tuple[bytes, bytes]:
    """Header and blob of a framed message.

    Raises:
        RemoteError: the bytes are no framed message or end early.
    """
    start = len(_MAGIC) + 8
    size, is_deflated = header_size(data[:start])
    if len(data) < start + size:
        raise RemoteError(f"the message ends early: {start + size} bytes announced, {len(data)} came.")
    header = data[start : start + size]
    return inflate(header) if is_deflated else header, data[start + size :]


def header_size(start: bytes) -> tuple[int, bool]:
    """The bytes of a header and whether it is deflated, from the first 16 bytes of a message.

    Raises:
        RemoteError: they begin no message, or one whose header is too long.
    """
    magic = start[: len(_MAGIC)]
    if magic not in (_MAGIC, _DEFLATED) or len(start) < len(_MAGIC) + 8:
        raise RemoteError("these bytes are no nbsight message.")
    size = int.from_bytes(start[len(_MAGIC) : len(_MAGIC) + 8], "little")
    if size > HEADER:
        raise RemoteError(f"the message announces a header of {size:,} bytes; {HEADER:,} are the most.")
    return size, magic == _DEFLATED


def inflate(header: bytes) -> bytes:
    """A deflated header as it was.

    Raises:
        RemoteError: it is broken, or would become too long.
    """
    engine = zlib.decompressobj()
    try:
        whole = engine.decompress(header, HEADER)
    except zlib.error as error:
        raise RemoteError(f"the header of the message cannot be inflated: {error}") from None
    if not engine.eof or engine.unused_data:
        raise RemoteError(f"the header of the message is cut off, or inflates to more than {HEADER:,} bytes.")
    return whole
