"""Tensors whose numbers are still where they were computed.

A `FarTensor` is a tensor with a shape, a dtype and a size in bytes; whatever needs its numbers fetches them,
once, and works on the plain tensor from then on. `FarBlobs` fetches parts of a safetensors file over
anything that can read a range of bytes.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from nbsight.errors import RemoteError

__all__ = ["FAR", "FarBlobs", "FarTensor", "ReadRange", "near"]

#: Tensors of no more bytes come at once.
FAR = 2**20

#: Small tensors come in one piece if no more bytes than this lie between them.
_GAP = 2**16

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class ReadRange(Protocol):
    """Reads bytes of a file that is elsewhere."""

    def __call__(self, start: int, into: memoryview, *, tells: bool = False) -> None:
        """Fill `into` with the bytes from `start` on; `tells` shows how far it has come."""
        ...


class FarTensor(torch.Tensor):
    """A tensor that is fetched when its numbers are needed.

    Attributes:
        bytes: Of its numbers.
        is_here: Whether they have been fetched.
    """

    _load: Callable[[], torch.Tensor]
    _here: torch.Tensor | None
    _lock: threading.RLock

    @staticmethod
    def __new__(
        cls,
        shape: Any,
        dtype: torch.dtype,
        strides: Any,
        device: torch.device,
        load: Callable[[], torch.Tensor],
    ) -> FarTensor:
        """One that `load` fetches."""
        made = torch.Tensor._make_wrapper_subclass(cls, shape, strides=strides, dtype=dtype, device=device)
        made._load, made._here, made._lock = load, None, threading.RLock()
        return made

    @property
    def bytes(self) -> int:
        """The size of its numbers."""
        return self.numel() * self.element_size()

    @property
    def is_here(self) -> bool:
        """Whether its numbers have been fetched."""
        return self._here is not None

    def fetch(self) -> torch.Tensor:
        """The plain tensor; fetched the first time.

        Raises:
            RemoteError: it cannot be fetched, or not any more.
        """
        with self._lock:
            if self._here is None:
                self._here = self._load()
                self._load = self.fetch  # what it holds is not needed any more
            return self._here

    def shown(self, show: Callable[[torch.Tensor], torch.Tensor]) -> FarTensor:
        """The same numbers as another kind of tensor, once they are here."""
        strides = self.stride()
        return FarTensor(self.shape, self.dtype, strides, self.device, lambda: show(self.fetch()))

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer what the shape can answer; fetch for everything else."""
        if func in _KNOWN and args[0]._here is None:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        return func(*_fetched(args), **_fetched(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What comes to torch's core by another way."""
        return func(*_fetched(args), **_fetched(kwargs or {}))

    # What a block's output answers in its own way must reach that, and not torch.

    def __getitem__(self, key: Any) -> Any:
        return self.fetch()[_fetched(key)]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.fetch()[_fetched(key)] = _fetched(value)

    def __iter__(self) -> Any:
        return iter(self.fetch())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # protocols ask for these
            raise AttributeError(name)
        return getattr(self.fetch(), name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.fetch().__reduce_ex__(protocol)

    def __repr__(self, **options: Any) -> str:
        if self._here is not None:
            return repr(self._here)
        kind = str(self.dtype).removeprefix("torch.")
        return f"<{kind} {tuple(self.shape)}, {self.bytes:,} bytes, fetched when it is used>"


_KNOWN = {
    *(
        getattr(torch.Tensor, name).__get__
        for name in ("shape", "dtype", "device", "ndim", "layout", "requires_grad", "is_cuda", "is_meta")
    ),
    *(getattr(torch.Tensor, name).__get__ for name in ("is_sparse", "is_nested", "is_quantized", "is_leaf")),
    *(getattr(torch.Tensor, name).__get__ for name in ("itemsize", "nbytes")),
    *(torch.Tensor.size, torch.Tensor.dim, torch.Tensor.numel, torch.Tensor.stride, torch.Tensor.__len__),
    *(
        torch.Tensor.element_size,
        torch.Tensor.is_floating_point,
        torch.Tensor.is_complex,
        torch.Tensor.nelement,
    ),
    *(torch.numel, torch.is_floating_point, torch.is_complex),
}


def _fetched(value: Any) -> Any:
    """With plain tensors in the place of far ones."""
    if isinstance(value, FarTensor):
        return value.fetch()
    if type(value) in (tuple, list):
        return type(value)(_fetched(item) for item in value)
    if type(value) is dict:
        return {key: _fetched(item) for key, item in value.items()}
    return value


class FarBlobs:
    """The parts of a safetensors file that is elsewhere.

    Args:
        start: Where it begins.
        total: Where it ends.
        read: Reads bytes of what it lies in.

    Raises:
        RemoteError: it is no such file.
    """

    def __init__(self, start: int, total: int, read: ReadRange) -> None:
        self._read = read
        size = int.from_bytes(self._bytes(start, 8), "little") if total - start >= 8 else total
        if start + 8 + size > total or size > 2**27:
            raise RemoteError("the tensors of the message cannot be read: their list does not fit.")
        try:
            entries = json.loads(self._bytes(start + 8, size))
            entries.pop("__metadata__", None)
            self._entries = {
                name: (
                    _DTYPES[entry["dtype"]],
                    [int(n) for n in entry["shape"]],
                    *map(int, entry["data_offsets"]),
                )
                for name, entry in entries.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RemoteError(f"the tensors of the message cannot be read: {error!r}") from None
        self._base = start + 8 + size
        for dtype, shape, begin, end in self._entries.values():
            length = dtype.itemsize
            for count in shape:
                length *= count
            if begin < 0 or end - begin != length or self._base + end > total:
                raise RemoteError("the tensors of the message cannot be read: one does not fit its place.")
        self._known: dict[str, torch.Tensor] = {}
        self._fetch_small()

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._known:
            dtype, shape, begin, end = self._entries[name]
            flat = torch.empty(end - begin, dtype=torch.uint8)
            if end > begin:
                self._read(self._base + begin, memoryview(flat.numpy()), tells=True)
            self._known[name] = flat.view(dtype).view(shape)
        return self._known[name]

    def is_far(self, name: str) -> bool:
        """Whether a part has not been fetched."""
        return name in self._entries and name not in self._known

    def _fetch_small(self) -> None:
        """Fetch all that is small, neighbours together."""
        small = sorted(
            (begin, end, name) for name, (_, _, begin, end) in self._entries.items() if end - begin <= FAR
        )
        groups: list[list[tuple[int, int, str]]] = []
        for item in small:
            if groups and item[0] - groups[-1][-1][1] <= _GAP:
                groups[-1].append(item)
            else:
                groups.append([item])
        for group in groups:
            first, last = group[0][0], max(end for _, end, _ in group)
            content = self._bytes(self._base + first, last - first)
            for begin, end, name in group:
                dtype, shape, _, _ = self._entries[name]
                flat = torch.empty(end - begin, dtype=torch.uint8)
                memoryview(flat.numpy())[:] = content[begin - first : end - first]
                self._known[name] = flat.view(dtype).view(shape)

    def _bytes(self, start: int, count: int) -> bytearray:
        content = bytearray(count)
        if count:
            self._read(start, memoryview(content))
        return content


def near(blob: bytes) -> dict[str, torch.Tensor]:
    """The parts of a safetensors file that is here.

    Raises:
        RemoteError: it is no such file.
    """
    try:
        return load(blob)
    except (SafetensorError, ValueError, KeyError) as error:
        raise RemoteError(f"the tensors of the message cannot be read: {error}") from None
