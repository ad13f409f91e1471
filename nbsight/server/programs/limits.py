"""How much a program may take, and what says that it asked for more."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import Any

import torch

from nbsight.errors import RemoteError

__all__ = [
    "BITS",
    "ITEMS",
    "LETTERS",
    "SOURCE",
    "OverBudget",
    "check_bits",
    "check_items",
    "check_letters",
    "check_numel",
    "check_objects",
    "check_parts",
    "check_place",
    "check_text",
    "places",
]

#: Bits of an integer, items of a list or characters of a text, elements of a tensor.
BITS = 2**16
ITEMS = 10_000_000
NUMEL = 2**28

#: Elements that become Python objects, each of some thirty bytes.
OBJECTS = 2_000_000

#: Characters or ids that a tokenizer is given, and characters of a container's text.
LETTERS = 1_000_000

#: Characters of a program.
SOURCE = 500_000

#: Digits of a number that is read from a text.
DIGITS = 4000

#: Where tensors may be: the CPU and where the model is. A worker holds one model.
places: set[torch.device] = {torch.device("cpu")}


class OverBudget(RemoteError):
    """A program asked for more than a program may take."""

    code = "over_budget"


def check_items(count: float) -> None:
    """Refuse a list or text of so many items."""
    _check(count, ITEMS, "a list or text of {} items")


def check_numel(count: float) -> None:
    """Refuse a tensor of so many elements."""
    _check(count, NUMEL, "a tensor of {} elements")


def check_objects(count: float) -> None:
    """Refuse to make so many Python objects of a tensor."""
    _check(count, OBJECTS, "{} Python objects")


def check_bits(count: float) -> None:
    """Refuse an integer of so many bits."""
    _check(count, BITS, "an integer of {} bits")


def _check(count: float, most: int, what: str) -> None:
    if count > most:
        shown = f"{count:.1e}" if count > 10**12 else f"{int(count):,}"
        raise OverBudget(f"this would make {what.format(shown)}, and {most:,} are the most here.")


_CONTAINERS = (list, tuple, set, frozenset, collections.deque)


def check_parts(values: Iterable[Any], most: int = ITEMS, *, compared: bool = True) -> None:
    """Refuse containers that have too many parts when what is in them twice is counted twice.

    A list of a list of a list of itself is small, and takes for ever to print, compare or hash. Python does
    those without a pause in which it could be stopped.

    Args:
        values: The containers.
        most: Parts that they may have.
        compared: Whether tensors among them may be compared with one another, and so be broadcast.
    """
    left, largest, shapes = most, [0, 0], set()
    stack = list(values)
    while stack:
        value = stack.pop()
        if isinstance(value, _CONTAINERS):
            left -= len(value)
            if left >= 0:
                stack.extend(value)
        elif isinstance(value, dict):
            left -= 2 * len(value)
            if left >= 0:
                stack.extend(value)
                stack.extend(value.values())
        elif isinstance(value, torch.Tensor):
            shapes.add(value.shape)
            largest = sorted([*largest, value.numel()])[1:]
        if left < 0:
            raise OverBudget(
                f"gone through, these values have more than {most:,} parts, which are the most here."
            )
    if compared and len(shapes) > 1:
        check_numel(float(largest[0]) * largest[1])


def check_text(length: int) -> None:
    """Refuse a container's text of so many characters."""
    _check(length, LETTERS, "a text of {} characters out of a container")


def check_letters(values: Iterable[Any]) -> None:
    """Refuse texts and ids that are more than a tokenizer is given here."""
    left = LETTERS
    stack = list(values)
    while stack:
        value = stack.pop()
        if isinstance(value, (str, bytes)):
            left -= len(value)
        elif isinstance(value, torch.Tensor):
            left -= value.numel()
        elif isinstance(value, (*_CONTAINERS, dict)):
            left -= len(value)
            if left >= 0:
                stack.extend(value.values() if isinstance(value, dict) else value)
        if left < 0:
            raise OverBudget(
                f"a tokenizer takes texts and ids of {LETTERS:,} characters or ids at most here."
            )


def check_place(value: Any, own: torch.device | None = None) -> None:
    """Refuse a device that is neither the CPU, the model's, nor that of the tensor itself."""
    device = torch.device(value)
    if _numbered(device) not in {_numbered(place) for place in (*places, own or torch.device("cpu"))}:
        there = ", ".join(sorted(map(str, places)))
        raise OverBudget(f"tensors are on {there} here, not on {str(value)!r}.")


def _numbered(device: torch.device) -> tuple[str, int]:
    return device.type, device.index or 0
