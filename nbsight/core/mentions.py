"""What the code around a block speaks of, as far as it changes how a run is made.

Some things cost much and are wanted by few: a graph for gradients, a cache of keys and values. They
are made when the code asks for them, and what it asks for can be seen from the names in it: in the
function or cell that opens the block, in the functions it defines, and in those it calls by name.
"""

from __future__ import annotations

from types import CodeType, FunctionType
from typing import Any

from nbsight.core.by_identity import ByIdentity

__all__ = ["GRADIENTS", "KEYS_AND_VALUES", "topics"]

GRADIENTS = 1
"""Names such as `backward` or `requires_grad_` occur."""

KEYS_AND_VALUES = 2
"""A name or a text with "past" or "cache" in it occurs, or one that asks for a bare tuple."""

_GRADIENTS = frozenset({"backward", "grad", "autograd", "requires_grad_", "enable_grad", "retain_grad"})
_PIECES = ("past", "cache", "return_dict", "to_tuple")

_known: ByIdentity[int] = ByIdentity()


def topics(code: CodeType, names: dict[str, Any]) -> int:
    """The topics that a piece of code, or a function that it defines or calls by name, speaks of.

    Args:
        code: The code around a trace.
        names: Its globals, where the functions that it calls are found.

    Returns:
        The sum of the topics.
    """
    found = _known.get(code)
    if found is None:
        found = _look(code)
    for name in code.co_names:
        value = names.get(name)
        if type(value) is FunctionType:
            called = _known.get(value.__code__)
            found |= _look(value.__code__) if called is None else called
    return found


def _look(code: CodeType) -> int:
    found = 0 if _GRADIENTS.isdisjoint(code.co_names) else GRADIENTS
    words = [*code.co_names]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _look(constant)
        elif isinstance(constant, str):
            words.append(constant)
        elif isinstance(constant, tuple):  # the names of keyword arguments
            words += [word for word in constant if isinstance(word, str)]
    if any(piece in word for word in words for piece in _PIECES):
        found |= KEYS_AND_VALUES
    return _known.put(code, found)
