"""What modules take and return, as JSON with numbers in shared memory; never pickle.

A tensor is `{"n": [first byte, dtype, shape, order]}`: its bytes lie from there, densely, its axes in
that order of strides. Of a tensor that the other side has sent, `{"k": i}` says that it is as it was, and
`{"w": i, "n": ...}` that it was changed in place. What neither side can send, such as a cache, stays
with the worker and is called by a number: `{"h": i}`.

`Reader` is written for what a stranger writes: every number is checked against what is there.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.utils import ModelOutput

from nbsight.errors import RemoteError
from nbsight.server.sandbox.memory import Region
from nbsight.server.sandbox.messages import WireError

__all__ = ["Absent", "Handle", "Reader", "Writer", "arguments", "flat", "record_class"]

DTYPES = {
    name: getattr(torch, name)
    for name in (
        *("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"),
        *("complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "uint16", "uint32", "uint64"),
    )
    if hasattr(torch, name)
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

_DEPTH, _NODES, _AXES = 50, 200_000, 20


class Handle:
    """Something that stays where the model is; it can be handed back and nothing else."""

    __slots__ = ("kind", "number")

    def __init__(self, number: int, kind: str) -> None:
        self.number, self.kind = number, kind

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"this {self.kind} stays where the model runs: in the tier `sandbox` a block has tensors and "
            f"plain data, and can hand a {self.kind} on, but has no `.{name}` of it."
        )


class Absent(torch.nn.Parameter):
    """In the place of a weight: its shape and dtype, and no numbers."""

    @property
    def device(self) -> torch.device:
        """Where blocks compute."""
        return torch.device("cpu")

    def __repr__(self, **_: Any) -> str:
        return f"a weight that stays with the model, shape {tuple(self.shape)}"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _ASKABLE:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        raise RemoteError(
            "the block reads a weight, and in the tier `sandbox` weights stay with the model. Apply the "
            "module that has it, as in `model.lm_head(hidden)`, or use a server of the tier `local`."
        )


_ASKABLE = frozenset(
    (
        "__get__",
        "size",
        "dim",
        "numel",
        "stride",
        "element_size",
        "is_floating_point",
        "is_complex",
        "__hash__",
    )
)


def flat(region: Region) -> torch.Tensor:
    """A region's bytes as a tensor; of one that is only to be read, never write to it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it can be read only
        return torch.frombuffer(region.view, dtype=torch.uint8)


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a dense tensor on the CPU, as a flat view."""
    return tensor.reshape(-1).view(torch.uint8) if tensor.numel() else torch.empty(0, dtype=torch.uint8)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors of one dtype and shape hold the same bits; NaN equals itself."""
    if a.element_size() in (4, 8) and not a.is_complex() and a.is_contiguous() and b.is_contiguous():
        kind = torch.int32 if a.element_size() == 4 else torch.int64
        return torch.equal(a.view(kind), b.view(kind))
    return torch.equal(bytes_of(a.contiguous()), bytes_of(b.contiguous()))


class Writer:
    """Writes values into a region.

    Args:
        memory: Where numbers go (`flat`).
        take: Gives the first byte of a free part of so many bytes.
        known: The tensors that the other side has sent, as they are here, and as they came.
        handle: What to write for something that cannot travel; refuses where nothing can stay.
    """

    def __init__(
        self,
        memory: torch.Tensor,
        take: Callable[[int], int],
        handle: Callable[[Any], Any],
        known: Sequence[tuple[torch.Tensor, torch.Tensor, int]] = (),
    ) -> None:
        self._memory, self._take, self._handle = memory, take, handle
        self._known = {
            id(now): (index, now, came, version) for index, (now, came, version) in enumerate(known)
        }
        #: The tensors that were written, in order.
        self.tensors: list[torch.Tensor] = []
        #: The classes of the outputs that were written, by the names that were written for them.
        self.records: dict[str, type] = {}

    def write(self, value: Any) -> Any:
        """The value as JSON."""
        if value is None or type(value) in (bool, str):
            return value
        kind = type(value)
        if kind is int:
            return value if -(2**63) <= value < 2**63 else {"i": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"f": repr(value)}
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if kind in (list, tuple):
            return {"l" if kind is list else "t": [self.write(item) for item in value]}
        if kind is dict and all(type(key) in (str, int) for key in value):
            return {"d": [[key, self.write(item)] for key, item in value.items()]}
        if isinstance(value, ModelOutput):
            name = f"{kind.__module__}:{kind.__qualname__}"
            self.records[name] = kind
            return {"m": name, "f": [[key, self.write(item)] for key, item in value.items()]}
        return self._small(value)

    def _small(self, value: Any) -> Any:
        if isinstance(value, torch.dtype) and value in _NAMES:
            return {"y": _NAMES[value]}
        if isinstance(value, torch.device):
            return {"v": 1}
        if isinstance(value, torch.Size):
            return {"z": list(value)}
        if isinstance(value, slice):
            return {"s": [self.write(part) for part in (value.start, value.stop, value.step)]}
        if isinstance(value, Handle):
            return {"h": value.number}
        return self._handle(value)

    def _tensor(self, value: torch.Tensor) -> Any:
        known = self._known.get(id(value))
        if known is None:
            return {"n": self._numbers(value)}
        index, now, came, version = known
        alike = now.shape == came.shape and now.dtype == came.dtype
        if alike and now._version == version and same_bits(now, came):  # numpy writes and counts nothing
            return {"k": index}
        return {"w": index, "n": self._numbers(value)} if alike else {"n": self._numbers(value)}

    def _numbers(self, value: torch.Tensor) -> list[Any]:
        if (
            isinstance(value, Absent)
            or value.is_meta
            or value.layout is not torch.strided
            or value.is_quantized
        ):
            return self._handle(value)
        plain = value.detach().as_subclass(torch.Tensor).resolve_conj().resolve_neg()
        if plain.dtype not in _NAMES:
            return self._handle(value)
        self.tensors.append(value)
        order = sorted(range(plain.ndim), key=lambda axis: -plain.stride(axis))
        dense = plain.permute(order)
        if not dense.is_contiguous():  # holes between its numbers do not travel
            order, dense = list(range(plain.ndim)), plain.contiguous()
        size = dense.numel() * dense.element_size()
        first = self._take(size)
        if size:
            self._memory[first : first + size].copy_(bytes_of(dense))
        return [first, _NAMES[plain.dtype], list(plain.shape), order]


class Reader:
    """Reads values that the other side wrote, and believes nothing.

    Args:
        memory: Where numbers lie (`flat`).
        most: Bytes that all tensors of this message may take together.
        handles: What `{"h": i}` means; called with the number and what else was said.
        records: The classes of outputs that may be named.
        place: Puts a tensor where it is needed.
        known: The tensors that this side has sent.
        overwrite: Writes new numbers into one of those.
        keep_views: Whether to fill `views`.
        dress: What to make of each tensor.
    """

    def __init__(
        self,
        memory: torch.Tensor,
        most: int,
        handles: Callable[[int, str], Any],
        records: Callable[[str], Any],
        place: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor,
        known: Sequence[torch.Tensor] = (),
        overwrite: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
        keep_views: bool = False,
        dress: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self._memory, self._left = memory, most
        self._handles, self._records, self._place = handles, records, place
        self._known, self._overwrite = known, overwrite
        self._nodes = _NODES
        #: If asked for: each tensor, as it was read and as it lies in the region.
        self.views: list[tuple[torch.Tensor, torch.Tensor, int]] = []
        self._keeps_views, self._dress = keep_views, dress

    def read(self, code: Any, depth: int = 0) -> Any:
        """The value of a code.

        Raises:
            WireError: it is not well formed, or speaks of what is not there.
        """
        if code is None or type(code) in (bool, int, float, str):
            return code
        self._nodes -= 1
        if depth > _DEPTH or self._nodes < 0:
            raise WireError(f"a value nested more than {_DEPTH} deep or of more than {_NODES:,} parts")
        if type(code) is not dict or not code:
            raise WireError("a value without a mark")
        rule = _RULES.get(next(iter(code)))
        if rule is None:
            raise WireError("a value with an unknown mark")
        try:
            return rule(self, code, depth + 1)
        except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise WireError(f"a value that is not well formed: {type(error).__name__}") from None

    def _items(self, codes: Any, depth: int) -> list[Any]:
        if type(codes) is not list:
            raise WireError("no list where there must be one")
        return [self.read(code, depth) for code in codes]

    def _pairs(self, codes: Any, depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for pair in codes if type(codes) is list else [None]:
            if type(pair) is not list or len(pair) != 2 or type(pair[0]) not in (str, int):
                raise WireError("a dictionary that is none")
            found[pair[0]] = self.read(pair[1], depth)
        return found

    def _numbers(self, code: Any) -> torch.Tensor:
        first, name, shape, order = code
        dtype = DTYPES[name]
        sizes = [*shape, first]
        if len(shape) > _AXES or any(type(size) is not int or not 0 <= size < 2**48 for size in sizes):
            raise WireError("a tensor of no shape")
        if sorted(order) != list(range(len(shape))) or any(type(axis) is not int for axis in order):
            raise WireError("a tensor whose axes have no order")
        count = math.prod(shape)
        size = count * dtype.itemsize
        self._left -= size
        if self._left < 0:
            raise WireError("tensors of more bytes than a message may bring")
        if first % dtype.itemsize or first + size > len(self._memory):
            raise WireError("a tensor that lies outside of the memory that is shared")
        dense = [shape[axis] for axis in order]
        back = [order.index(axis) for axis in range(len(order))]
        if not count:
            return torch.empty(dense, dtype=dtype).permute(back)
        raw = self._memory[first : first + size]
        view = raw.view(dtype).view(dense).permute(back)
        copied = raw.clone().view(dtype).view(dense).permute(back)
        if dtype == torch.bool:  # any other byte would be a truth that torch does not know
            copied = copied.view(torch.uint8) != 0
        if self._dress is not None:
            copied = self._dress(copied)
        if self._keeps_views:
            self.views.append((copied, view, copied._version))
        return copied

    def _tensor(self, code: dict[str, Any]) -> torch.Tensor:
        return self._place(self._numbers(code["n"]))

    def _sent(self, index: Any) -> torch.Tensor:
        if type(index) is not int or not 0 <= index < len(self._known):
            raise WireError("a tensor that was not sent")
        return self._known[index]

    def _written(self, code: dict[str, Any]) -> torch.Tensor:
        there, new = self._sent(code["w"]), self._numbers(code["n"])
        if self._overwrite is None or there.shape != new.shape or there.dtype != new.dtype:
            raise WireError("a change in place that does not fit")
        return self._overwrite(there, new)


def _record(self: Reader, code: dict[str, Any], depth: int) -> Any:
    made = self._records(code["m"])
    fields = self._pairs(code["f"], depth)
    if any(type(name) is not str for name in fields):
        raise WireError("an output with a field that has no name")
    return made(**fields)


def _dtype(self: Reader, code: dict[str, Any], depth: int) -> torch.dtype:
    return DTYPES[code["y"]]


_RULES: dict[str, Callable[[Reader, dict[str, Any], int], Any]] = {
    "n": lambda self, code, depth: self._tensor(code),
    "k": lambda self, code, depth: self._sent(code["k"]),
    "w": lambda self, code, depth: self._written(code),
    "l": lambda self, code, depth: self._items(code["l"], depth),
    "t": lambda self, code, depth: tuple(self._items(code["t"], depth)),
    "d": lambda self, code, depth: self._pairs(code["d"], depth),
    "i": lambda self, code, depth: int(code["i"][:2000], 16),
    "f": lambda self, code, depth: float(code["f"]),
    "m": _record,
    "y": _dtype,
    "v": lambda self, code, depth: self._place(torch.empty(0)).device,
    "z": lambda self, code, depth: torch.Size(code["z"]),
    "s": lambda self, code, depth: slice(*self._items(code["s"], depth)),
    "h": lambda self, code, depth: self._handles(code["h"], str(code.get("c", ""))[:100]),
}


def record_class(name: str) -> Any:
    """The class of an output by its name, for the side that believes the other."""
    module, _, path = name.partition(":")
    found = getattr(importlib.import_module(module), path)
    if not issubclass(found, ModelOutput):
        raise WireError(name)
    return found


def arguments(value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments and keyword arguments, after a look at whether they are that.

    Raises:
        WireError: they are not.
    """
    if type(value) is not tuple or [type(part) for part in value] != [tuple, dict]:
        raise WireError("arguments that are none")
    if any(type(name) is not str for name in value[1]):
        raise WireError("arguments with a name that is none")
    return value
