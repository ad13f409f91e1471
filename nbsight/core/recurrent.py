"""Rows where they are not in the first dimension: the state of recurrent layers.

An nn.LSTM with `batch_first=True` takes and returns `(batch, position, d)` and a state
`(layer, batch, d)`. So an invoke's rows are in the second dimension of all but the first of the
things that it takes, and of all but the first that it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from nbsight.core.batching import Rows, splice
from nbsight.errors import InputError

__all__ = ["check_batch_first", "narrow_at", "splice_at"]


def narrow_at(module: Any, kind: str, rows: Rows, value: Any) -> Any:
    """What `rows` are of a module's output or inputs: views of its tensors."""
    if not isinstance(module, nn.RNNBase):
        return rows.narrow(value)
    leaves, rebuild = _leaves(kind, value)
    if leaves is None:
        return rows.narrow(value)
    return rebuild([_in(rows, place).narrow(leaf) for place, leaf in enumerate(leaves)])


def splice_at(module: Any, kind: str, value: Any, parts: list[tuple[Rows, Any]]) -> Any:
    """Put invokes' values back into their rows, out of place.

    Raises:
        EditError: a value does not have the shape of its rows.
    """
    if not isinstance(module, nn.RNNBase):
        return splice(value, parts)
    leaves, rebuild = _leaves(kind, value)
    others = [(rows, _leaves(kind, part)[0]) for rows, part in parts]
    if leaves is None or any(other is None or len(other) != len(leaves) for _, other in others):
        return splice(value, parts)
    return rebuild(
        [
            splice(leaf, [(_in(rows, place), other[place]) for rows, other in others if other is not None])
            for place, leaf in enumerate(leaves)
        ]
    )


def _in(rows: Rows, place: int) -> Rows:
    return rows if place == 0 else replace(rows, dim=1)


def _leaves(kind: str, value: Any) -> tuple[list[Any] | None, Callable[[list[Any]], Any]]:
    """The sequence and the states, and what puts such a list together again."""
    if kind == "output":
        is_pair = isinstance(value, (tuple, list)) and len(value) == 2
        return (list(value) if is_pair else None), tuple
    args, kwargs = value
    if "input" in kwargs:  # the order of keywords is the caller's
        kwargs = {"input": kwargs["input"], **kwargs}

    def rebuild(leaves: list[Any]) -> Any:
        return tuple(leaves[: len(args)]), dict(zip(kwargs, leaves[len(args) :], strict=True))

    return [*args, *kwargs.values()], rebuild


def check_batch_first(modules: Iterable[nn.Module], name: Callable[[nn.Module], str]) -> None:
    """Refuse to join inputs along the first dimension for a model that has its batch in the second.

    Args:
        modules: All modules of the model.
        name: The path of a module, for the message.

    Raises:
        InputError: a module is built with `batch_first=False`.
    """
    for module in modules:
        if module.__dict__.get("batch_first") is False:
            raise InputError(
                "the invokes of one trace are joined along the first dimension, and "
                f"`{name(module)}` ({type(module).__name__}, batch_first=False) has its batch in the "
                "second. Build it with batch_first=True, or use a trace for each input."
            )
