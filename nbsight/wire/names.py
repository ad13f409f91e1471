"""Modules, functions and classes that travel by name.

A name is looked up at both ends, so both ends allow the same list: what computes with numbers,
and nothing that reaches files, processes or the network. A function counts as a module's own only
if it was defined under a package of the list; `torch.os.system` is not torch's.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import sys
from types import ModuleType
from typing import Any

from nbsight.errors import RemoteError

__all__ = ["FACTORIES", "MODULES", "module_at", "module_name", "object_at", "object_name"]

_PACKAGES = (
    "torch numpy nbsight einops math cmath itertools functools operator collections statistics "
    "random re json string textwrap time datetime copy dataclasses typing enum fractions decimal "
    "bisect heapq contextlib warnings"
)

#: Packages whose modules and functions may be named.
MODULES = frozenset(_PACKAGES.split())

#: Parts of those packages that load code, write files or talk to other machines.
_CLOSED = (
    "torch.hub", "torch.package", "torch.distributed", "torch.multiprocessing", "torch.utils.cpp_extension",
    "torch.serialization", "torch.jit", "torch.utils.data", "torch.utils.model_zoo", "torch.testing",
    "numpy.f2py", "numpy.testing", "numpy.distutils", "nbsight.remote", "nbsight.wire", "nbsight.server",
    "nbsight.notebook", "nbsight.widgets",
)  # fmt: skip

#: Where functions live whose own name does not say so (`torch.softmax.__module__` is None).
_HOMES = (
    "torch", "torch.nn.functional", "torch.linalg", "torch.fft", "torch.special", "torch.nn.init",
    "torch:Tensor", "numpy", "numpy.linalg", "numpy.fft", "math",
)  # fmt: skip

#: What a defaultdict may make its values with.
FACTORIES = (list, dict, set, tuple, int, float, str)

_PURE = (
    "abs all any ascii bin bool bytearray bytes callable chr complex dict divmod enumerate filter float "
    "format frozenset getattr hasattr hash hex id int isinstance issubclass iter len list map max min next "
    "object oct ord pow print range repr reversed round set slice sorted str sum super tuple type zip"
)
_BUILTINS = frozenset(_PURE.split())


def _is_closed(name: str) -> bool:
    return any(name == closed or name.startswith(closed + ".") for closed in _CLOSED)


def _is_open(name: str) -> bool:
    if _is_closed(name):
        return False
    parts = name.split(".")
    return parts[0] in MODULES and not any(part.startswith("_") for part in parts)


def module_name(module: ModuleType) -> str | None:
    """The name under which a module travels, if it does."""
    name = module.__name__
    return name if _is_open(name) and sys.modules.get(name) is module else None


def module_at(name: Any) -> ModuleType:
    """The module of that name.

    Raises:
        RemoteError: it may not be named, or is not installed here.
    """
    if not isinstance(name, str) or not _is_open(name):
        raise RemoteError(
            f"a block may not bring the module {name!r}; it may bring {', '.join(sorted(MODULES))}."
        )
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise RemoteError(f"the block uses the module {name!r}, which is not here: {error}") from None


def object_name(value: Any) -> str | None:
    """The name "module:attribute" under which a function or class travels, if it does."""
    if getattr(builtins, getattr(value, "__name__", None) or "?", builtins) is value:
        return f"builtins:{value.__name__}" if value.__name__ in _BUILTINS else None
    own, path = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if isinstance(own, str) and isinstance(path, str) and _is_open(own):
        module = sys.modules.get(own)
        if module is not None and _look_up(module, path) is value:
            return f"{own}:{path}"
    known, name = _names().get(id(value), (None, None))
    return name if known is value else None


@functools.cache
def _names() -> dict[int, tuple[Any, str]]:
    """Functions that do not know their own names, and those, by identity."""
    found: dict[int, tuple[Any, str]] = {}
    for home in _HOMES:
        module, _, inner = home.partition(":")
        place = getattr(importlib.import_module(module), inner) if inner else importlib.import_module(module)
        for name in dir(place) if inner else vars(place):
            value = getattr(place, name)
            if not name.startswith("_") and callable(value) and not isinstance(value, ModuleType):
                path = f"{inner}.{name}" if inner else name
                found.setdefault(id(value), (value, f"{module}:{path}"))
    return found


def object_at(name: Any) -> Any:
    """The function or class of that name.

    Raises:
        RemoteError: it may not be named, or there is none.
    """
    home, _, path = name.partition(":") if isinstance(name, str) else ("", "", "")
    if home == "builtins" and path in _BUILTINS:
        return getattr(builtins, path)
    value = _look_up(module_at(home), path)
    owner = getattr(value, "__module__", None)
    foreign = isinstance(owner, str) and (
        _is_closed(owner) or owner.split(".")[0].lstrip("_") not in MODULES | {"builtins"}
    )
    if value is None or isinstance(value, ModuleType) or foreign or not callable(value):
        raise RemoteError(f"a block may not bring {name!r}.")
    return value


def _look_up(value: Any, path: str) -> Any:
    for part in path.split("."):
        if part.startswith("_") or isinstance(getattr(value, part, None), ModuleType):
            return None
        value = getattr(value, part, None)
    return value
