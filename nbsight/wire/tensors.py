"""Tensors and arrays as one safetensors blob.

What a block computes may depend on how a tensor lies in memory, to the last bit, so strides travel
too. Tensors that share memory share it again after the journey, unless that would mean sending
much more than was asked for: two saved rows of a large activation do not drag the rest along.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save

from nbsight.errors import RemoteError
from nbsight.wire.far import FarBlobs, FarTensor, near
from nbsight.wire.messages import TensorSpec

__all__ = ["TensorReader", "TensorWriter", "UnfitTensor"]

Kind = Literal["tensor", "parameter", "array"]

#: Dtypes that every safetensors reader knows; the others go as bytes.
_PLAIN = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
}  # fmt: skip

#: Cuts fall on this many bytes, so a value keeps its alignment and kernels their choice of code.
_ALIGNMENT = 64


class UnfitTensor(ValueError):
    """A tensor whose numbers cannot be sent; the message says why and what to do."""


class TensorWriter:
    """Collects tensors; `finish` lays them out."""

    def __init__(self) -> None:
        self._values: list[tuple[torch.Tensor | np.ndarray[Any, Any], Kind, bool]] = []
        self._blobs: dict[str, torch.Tensor] = {}

    def add(self, value: torch.Tensor | np.ndarray[Any, Any], *, leaf: bool = True) -> int:
        """Take a tensor or array along; returns its number.

        Args:
            leaf: Whether to keep `requires_grad` of a leaf.

        Raises:
            UnfitTensor: it holds no numbers that could be sent.
        """
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject:
                raise UnfitTensor(
                    "an array of Python objects; send a list, or an array of numbers or strings"
                )
            self._values.append((value, "array", False))
        else:
            kind: Kind = "parameter" if isinstance(value, torch.nn.Parameter) else "tensor"
            grad = leaf and value.is_leaf and value.requires_grad
            self._values.append((_plain(value), kind, grad))
        return len(self._values) - 1

    def __len__(self) -> int:
        return len(self._values)

    def forget(self, count: int) -> None:
        """Leave out all but the first `count`."""
        del self._values[count:]

    def finish(self) -> tuple[list[TensorSpec], bytes]:
        """The description of every tensor, in order, and the blob."""
        specs: list[TensorSpec | None] = [None] * len(self._values)
        groups: dict[Any, list[int]] = {}
        for number, (value, _, _) in enumerate(self._values):
            if isinstance(value, np.ndarray):
                specs[number] = self._array(value)
            else:
                storage = (value.untyped_storage().data_ptr(), value.device) if value.numel() else number
                groups.setdefault(storage, []).append(number)
        for numbers in groups.values():
            for cluster in self._clusters(numbers):
                self._write(cluster, specs)
        return [spec for spec in specs if spec is not None], save(self._blobs)

    def _tensor(self, number: int) -> torch.Tensor:
        value = self._values[number][0]
        assert isinstance(value, torch.Tensor)
        return value

    def _clusters(self, numbers: list[int]) -> list[list[int]]:
        """The tensors of one storage, those together whose bytes overlap."""
        clusters: list[list[int]] = []
        end = -1
        for number in sorted(numbers, key=lambda number: _extent(self._tensor(number))):
            start, stop = _extent(self._tensor(number))
            if start < end:
                clusters[-1].append(number)
            else:
                clusters.append([number])
            end = max(end, stop)
        return clusters

    def _write(self, cluster: list[int], specs: list[TensorSpec | None]) -> None:
        tensors = [self._tensor(number) for number in cluster]
        first = tensors[0]
        alike = all(_geometry(tensor) == _geometry(first) for tensor in tensors)
        if alike and first.is_contiguous() and first.dtype in _PLAIN:
            name = self._put(first)
            for number in cluster:
                specs[number] = self._spec(number, name)
            return
        extents = [_extent(tensor) for tensor in tensors]
        start = min(extents)[0] // _ALIGNMENT * _ALIGNMENT
        stop = max(stop for _, stop in extents)
        wanted = sum(tensor.numel() * tensor.itemsize for tensor in tensors)
        if stop - start > 2 * wanted + _ALIGNMENT:
            for number in cluster:
                self._write_alone(number, specs)
            return
        whole = torch.empty(0, dtype=torch.uint8, device=first.device)
        name = self._put(whole.set_(first.untyped_storage(), start, (stop - start,), (1,)))
        for number, (begin, _) in zip(cluster, extents, strict=False):
            specs[number] = self._spec(number, name, self._tensor(number).stride(), begin - start)

    def _write_alone(self, number: int, specs: list[TensorSpec | None]) -> None:
        tensor = self._tensor(number).contiguous()
        if tensor.dtype in _PLAIN:
            specs[number] = self._spec(number, self._put(tensor))
        else:
            name = self._put(tensor.reshape(-1).view(torch.uint8))
            specs[number] = self._spec(number, name, tensor.stride())

    def _array(self, value: np.ndarray[Any, Any]) -> TensorSpec:
        strides = None
        flat = np.ascontiguousarray(value)
        if value.flags.f_contiguous and not value.flags.c_contiguous:
            flat = np.ascontiguousarray(value.T)
            strides = [step // value.itemsize for step in value.strides]
        raw = np.frombuffer(flat.tobytes(), dtype=np.uint8).copy()
        return TensorSpec(
            self._put(torch.from_numpy(raw)), value.dtype.str, list(value.shape), strides, kind="array"
        )

    def _put(self, tensor: torch.Tensor) -> str:
        name = str(len(self._blobs))
        self._blobs[name] = tensor.cpu().contiguous()
        return name

    def _spec(
        self, number: int, blob: str, strides: tuple[int, ...] | None = None, offset: int = 0
    ) -> TensorSpec:
        tensor, (_, kind, grad) = self._tensor(number), self._values[number]
        return TensorSpec(
            blob,
            str(tensor.dtype).removeprefix("torch."),
            list(tensor.shape),
            None if strides is None else list(strides),
            offset,
            str(tensor.device),
            kind,
            grad,
        )


def _plain(value: torch.Tensor) -> torch.Tensor:
    kind = type(value)
    if kind not in (torch.Tensor, torch.nn.Parameter):
        raise UnfitTensor(f"a {kind.__module__}.{kind.__qualname__}; send `value.as_subclass(torch.Tensor)`")
    if value.layout is not torch.strided or value.is_nested:
        raise UnfitTensor(f"a tensor of layout {value.layout}; send `value.to_dense()`")
    if value.is_meta:
        raise UnfitTensor("a tensor on the meta device, which has a shape and no numbers")
    if value.is_quantized:
        raise UnfitTensor("a quantized tensor; send `value.dequantize()`")
    return value.detach().resolve_conj().resolve_neg()


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    """The bytes of its storage that a tensor covers: first and one past the last."""
    start = tensor.storage_offset()
    stop = start
    if tensor.numel():
        stop += 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=False))
    return start * tensor.itemsize, stop * tensor.itemsize


def _geometry(tensor: torch.Tensor) -> Any:
    return tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset()


class TensorReader:
    """Gives the tensors of a message.

    Args:
        specs: How they lie in the blob.
        blob: The safetensors file, or what fetches its parts.
        place: The device for a tensor that was on the device of that name.

    Raises:
        RemoteError: the blob is no safetensors file.
    """

    def __init__(
        self,
        specs: list[TensorSpec],
        blob: bytes | FarBlobs,
        place: Callable[[str], torch.device] = torch.device,
    ) -> None:
        self._blobs = blob if isinstance(blob, FarBlobs) else near(blob)
        self._specs = specs
        self._place = place
        self._bases: dict[tuple[str, str], torch.Tensor] = {}

    def shape(self, number: Any) -> list[int]:
        """The shape that a tensor of the message is said to have; empty if there is none of that number."""
        is_there = type(number) is int and 0 <= number < len(self._specs)
        return self._specs[number].shape if is_there else []

    def get(self, number: Any, *, now: bool = True) -> torch.Tensor | np.ndarray[Any, Any]:
        """A tensor or array by its number.

        Args:
            now: Whether its numbers are wanted at once; if not, it may be a `FarTensor`.

        Raises:
            RemoteError: there is none, or its description does not fit the blob.
        """
        if type(number) is not int or not 0 <= number < len(self._specs):
            raise RemoteError(f"the message names tensor {number!r} and has {len(self._specs)}.")
        spec = self._specs[number]
        if any(size < 0 for size in [*spec.shape, *(spec.strides or ()), spec.offset]):
            raise RemoteError(f"tensor {number} of the message has a negative size.")
        if not now and self._is_far(spec):
            dtype, device = getattr(torch, spec.dtype), self._place(spec.device)
            return FarTensor(spec.shape, dtype, spec.strides, device, lambda: self._found(number, spec))
        return self._found(number, spec)

    def _is_far(self, spec: TensorSpec) -> bool:
        return (
            isinstance(self._blobs, FarBlobs)
            and self._blobs.is_far(spec.blob)
            and spec.kind == "tensor"
            and not spec.requires_grad
            and isinstance(getattr(torch, spec.dtype, None), torch.dtype)
        )

    def _found(self, number: int, spec: TensorSpec) -> Any:
        try:
            if spec.kind == "array":
                return _array(spec, self._base(spec))
            tensor = self._torch(spec)
        except (RuntimeError, ValueError, TypeError, OverflowError) as error:
            if isinstance(error, RemoteError):
                raise
            raise RemoteError(f"tensor {number} of the message is not well formed: {error}") from None
        if spec.kind == "parameter":
            return torch.nn.Parameter(tensor, requires_grad=spec.requires_grad)
        return tensor.requires_grad_() if spec.requires_grad else tensor

    def _base(self, spec: TensorSpec) -> torch.Tensor:
        key = (spec.blob, spec.device)
        if key not in self._bases:
            if spec.blob not in self._blobs:
                raise RemoteError(f"the message has no tensor data {spec.blob!r}.")
            base = self._blobs[spec.blob]
            # A copy, because torch's own memory is aligned, which some kernels' last bits depend on.
            base = base if isinstance(self._blobs, FarBlobs) else base.clone()
            self._bases[key] = base.to(self._place(spec.device))
        return self._bases[key]

    def _torch(self, spec: TensorSpec) -> torch.Tensor:
        base = self._base(spec)
        dtype = getattr(torch, spec.dtype, None)
        if not isinstance(dtype, torch.dtype):
            raise RemoteError(f"there is no dtype {spec.dtype!r} in this torch ({torch.__version__}).")
        if spec.strides is None:
            if base.dtype != dtype or list(base.shape) != spec.shape:
                raise RemoteError(f"{spec} does not fit {base.dtype} {tuple(base.shape)}.")
            return base.view(base.shape)
        if base.dtype != torch.uint8 or base.ndim != 1 or len(spec.strides) != len(spec.shape):
            raise RemoteError(f"{spec} does not fit {base.dtype} {tuple(base.shape)}.")
        length = 1 + sum((size - 1) * step for size, step in zip(spec.shape, spec.strides, strict=False))
        if 0 not in spec.shape and spec.offset + length * dtype.itemsize > base.numel():
            raise RemoteError(f"{spec} reaches beyond its {base.numel()} bytes.")
        if spec.offset % dtype.itemsize:
            raise RemoteError(f"{spec} does not start on an element.")
        whole = base[: base.numel() // dtype.itemsize * dtype.itemsize].view(dtype)
        return whole.as_strided(spec.shape, spec.strides, spec.offset // dtype.itemsize)


def _array(spec: TensorSpec, base: torch.Tensor) -> np.ndarray[Any, Any]:
    dtype = np.dtype(spec.dtype)
    if dtype.hasobject or base.dtype != torch.uint8:
        raise RemoteError(f"{spec} is no array of plain data.")
    values = base.cpu().numpy().copy().view(dtype) if base.numel() else np.empty(0, dtype)
    if spec.strides is None:
        return values.reshape(spec.shape)
    return values.reshape(spec.shape[::-1]).T
