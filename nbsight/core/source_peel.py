"""From what is called to the function whose text the user means, and back.

A forward may stand under decorators, a bound method, a `functools.partial` or a library's own
`forward` on the instance (accelerate). `peel` finds the function beneath them, and its `rebuild`
puts another function there with the same wrappings around it. The wrappings themselves are copied,
never changed.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import CellType, FunctionType, MethodType
from typing import Any

from torch import nn

from nbsight.core.source_rewrite import listing_of
from nbsight.errors import SourceNotAvailable

__all__ = ["Peeled", "peel"]


@dataclass(frozen=True, eq=False)
class Peeled:
    """A function, and what puts another one in its place.

    Args:
        function: The function beneath the wrappings.
        rebuild: From another function to what is called in the stead of the whole.
        instance: The object whose method it is, if it is one.
    """

    function: FunctionType
    rebuild: Callable[[Callable[..., Any]], Callable[..., Any]]
    instance: Any = None


def peel(called: Any) -> Peeled:
    """The Python function beneath what is called.

    Raises:
        SourceNotAvailable: there is none.
    """
    if hasattr(called, "_torchdynamo_orig_callable"):
        raise SourceNotAvailable(
            f"{_name(called)} is compiled by torch.compile, so its lines do not run one by one. "
            "Compile the module that calls it instead: a trace runs that uncompiled."
        )
    if isinstance(called, MethodType):
        instance, beneath = called.__self__, peel(called.__func__)
        return Peeled(beneath.function, lambda new: MethodType(beneath.rebuild(new), instance), instance)
    if isinstance(called, FunctionType):
        return _peel_function(called)
    if isinstance(called, functools.partial):
        return _peel_partial(called)
    if isinstance(called, type):
        raise SourceNotAvailable(
            f"{_name(called)} is a class: calling it makes an object. Write `.output` for the object."
        )
    apply = getattr(type(called), "__call__", None)  # noqa: B004 - the function itself is needed
    if isinstance(apply, FunctionType) and not isinstance(called, nn.Module):
        return peel(MethodType(apply, called))
    raise SourceNotAvailable(
        f"{_name(called)} is not written in Python, so nothing inside it can be reached. "
        "What goes in and comes out can: write `.input` or `.output`."
    )


def _peel_function(called: FunctionType) -> Peeled:
    """Peel a decorator, if the function is what one made.

    A wrapper that calls several functions, or hands the decorated one to a look-up that chooses
    what runs, is not a decoration: it is shown as it is, and its calls can be looked into.
    """
    wrapped = getattr(called, "__wrapped__", None)
    cells = called.__closure__ or ()
    if wrapped is None or not any(_holds(cell, wrapped) for cell in cells):
        return Peeled(called, lambda new: new)
    if [value for value in _calls_of(called) if value is not wrapped]:
        return Peeled(called, lambda new: new)
    beneath = peel(wrapped)

    def rebuild(new: Callable[..., Any]) -> Callable[..., Any]:
        inner = CellType(beneath.rebuild(new))
        return _copy(called, tuple(inner if _holds(cell, wrapped) else cell for cell in cells))

    return Peeled(beneath.function, rebuild, beneath.instance)


def _calls_of(wrapper: FunctionType) -> list[Any]:
    """The functions from around a wrapper's definition that it calls, or hands on to be called."""
    names = dict(zip(wrapper.__code__.co_freevars, wrapper.__closure__ or (), strict=True))
    called = {
        operation.callee.id
        for operation in listing_of(wrapper).operations
        if isinstance(operation.callee, ast.Name)
    }
    found = [_content(names[name]) for name in names if name in called]
    return [value for value in found if isinstance(value, FunctionType)] or [None]


def _peel_partial(called: Any) -> Peeled:
    function, args, keywords = called.func, called.args, called.keywords
    wrapped = getattr(called, "__wrapped__", None)
    if wrapped is None:
        beneath = peel(function)
    else:
        beneath = _peel_by_calls(function, wrapped)
    return Peeled(
        beneath.function,
        lambda new: functools.partial(beneath.rebuild(new), *args, **keywords),
        beneath.instance,
    )


def _peel_by_calls(wrapper: Any, wrapped: Any) -> Peeled:
    """Peel a wrapper that finds what it wraps on the module, as accelerate's does."""
    if not isinstance(wrapper, FunctionType):
        raise SourceNotAvailable(
            f"{_name(wrapped)} stands under {_name(wrapper)}, which is not written in Python."
        )
    beneath, listing = peel(wrapped), listing_of(wrapper)

    def rebuild(new: Callable[..., Any]) -> Callable[..., Any]:
        inner = beneath.rebuild(new)

        def call(number: int, target: Any, /, *args: Any, **kwargs: Any) -> Any:
            # A bound method is another object each time.
            is_it = target is wrapped or (type(target) is MethodType and target == wrapped)
            return (inner if is_it else target)(*args, **kwargs)

        return listing.with_doors(wrapper, call, lambda number, value: value)

    return Peeled(beneath.function, rebuild, beneath.instance)


def _holds(cell: CellType, value: Any) -> bool:
    return _content(cell) is value


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # an empty cell
        return None


def _copy(function: FunctionType, closure: tuple[CellType, ...]) -> FunctionType:
    new = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, closure
    )
    new.__kwdefaults__ = function.__kwdefaults__
    new.__dict__.update(function.__dict__)
    return new


def _name(called: Any) -> str:
    name = getattr(called, "__qualname__", None) or getattr(called, "__name__", None)
    return f"`{name}`" if name else f"an object of type {type(called).__name__}"
