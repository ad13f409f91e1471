"""When a trace records gradients.

Recording a graph costs half as much time again and keeps every activation alive. So a trace
records one only when the code around it speaks of gradients: one of the names below occurs in the
function or cell that opens the block, or in a function that it calls by name, or `grad=True` is
given.
"""

from __future__ import annotations

import weakref
from types import CodeType, FunctionType
from typing import Any

__all__ = ["speaks_of_gradients"]

_WORDS = frozenset({"backward", "grad", "autograd", "requires_grad_", "enable_grad", "retain_grad"})

# By identity: equal code objects can stand in different cells, and hashing one is slow.
_known: dict[int, tuple[weakref.ref[CodeType], bool]] = {}


def speaks_of_gradients(code: CodeType, names: dict[str, Any]) -> bool:
    """Whether a piece of code, or a function that it defines or calls by name, mentions gradients.

    Args:
        code: The code around a trace.
        names: Its globals, where the functions that it calls are found.
    """
    if _mentions(code):
        return True
    for name in code.co_names:
        value = names.get(name)
        if type(value) is FunctionType and _mentions(value.__code__):
            return True
    return False


def _mentions(code: CodeType) -> bool:
    entry = _known.get(id(code))
    if entry is not None and entry[0]() is code:
        return entry[1]
    answer = not _WORDS.isdisjoint(code.co_names) or any(
        _mentions(constant) for constant in code.co_consts if isinstance(constant, CodeType)
    )
    key = id(code)
    _known[key] = (weakref.ref(code, lambda _: _known.pop(key, None)), answer)
    return answer
