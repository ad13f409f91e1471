"""Does an operation on the user's own line: tracebacks, warnings and receipts then name that line.

The core looks at who called, and a traceback shows it. So each operation is done by one of these
few functions, in a copy whose code says that it stands in the user's file, on the user's line.
"""

from __future__ import annotations

import builtins
import functools
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

__all__ = ["at_line"]

_SPACE = {"__builtins__": builtins, "__name__": "nbsight_block"}

_TEMPLATES: dict[str, CodeType] = {
    name: function.__code__
    for name, function in {
        "get": lambda value, name: getattr(value, name),
        "set": lambda value, name, new: setattr(value, name, new),
        "item": lambda value, key: value[key],
        "set_item": lambda value, key, new: value.__setitem__(key, new),
        "del_item": lambda value, key: value.__delitem__(key),
        "call": lambda function, args, kwargs: function(*args, **kwargs),
        "next": lambda iterator, end: next(iterator, end),
        "enter": lambda manager: manager.__enter__(),
        "leave": lambda manager, kind, error, trace: manager.__exit__(kind, error, trace),
    }.items()
}


@functools.lru_cache(maxsize=8192)
def at_line(operation: str, filename: str, line: int, name: str) -> Callable[..., Any]:
    """An operation as code on a line of the user's.

    Args:
        operation: A key of the templates: "get", "call", ...
        filename: The user's file, as its text is registered.
        line: The line.
        name: The function that the line stands in.
    """
    code = _TEMPLATES[operation].replace(co_filename=filename, co_firstlineno=max(line, 1), co_name=name)
    return FunctionType(code, _SPACE)
