"""What an expression in a function will call, as far as that is known before the function runs."""

from __future__ import annotations

import ast
import builtins
from typing import Any

from nbsight.core.source_peel import Peeled

__all__ = ["resolve"]


def resolve(callee: ast.expr, peeled: Peeled) -> tuple[Any] | None:
    """What `callee` means in a function, as a tuple of one; None when that shows only in a run.

    Args:
        callee: A name and attributes of it; anything else is left to the run.
        peeled: The function, and the object that it is a method of.
    """
    attributes: list[str] = []
    while isinstance(callee, ast.Attribute):
        attributes.insert(0, callee.attr)
        callee = callee.value
    if not isinstance(callee, ast.Name):
        return None
    found = _name(callee.id, peeled)
    for attribute in attributes:
        if not found:
            return None
        try:
            found = (getattr(found[0], attribute),)
        except Exception:  # a property may raise what it likes: then the run has to show
            return None
    return found


def _name(name: str, peeled: Peeled) -> tuple[Any] | None:
    function, code = peeled.function, peeled.function.__code__
    if code.co_argcount and name == code.co_varnames[0] and peeled.instance is not None:
        return (peeled.instance,)
    if name in code.co_varnames or name in code.co_cellvars:
        return None
    if name in code.co_freevars:
        try:
            return ((function.__closure__ or ())[code.co_freevars.index(name)].cell_contents,)
        except ValueError:  # an empty cell
            return None
    if name in function.__globals__:
        return (function.__globals__[name],)
    return (getattr(builtins, name),) if hasattr(builtins, name) else None
