"""The states of the random generators that a model may draw from."""

from __future__ import annotations

from typing import Any

import torch

from nbsight.core.quiet import quietly

__all__ = ["restore", "states"]


def states() -> list[bytes]:
    """The states as they are now; two answers are equal when nothing was drawn in between."""
    with quietly():
        return [generator.get_state().numpy().tobytes() for generator in _generators()]


def restore(before: list[bytes]) -> None:
    """Set the generators back to states that were taken before."""
    with quietly():
        for generator, state in zip(_generators(), before, strict=False):
            generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))


def _generators() -> list[Any]:
    generators: list[Any] = [torch.default_generator]
    if torch.cuda.is_initialized():
        generators += torch.cuda.default_generators
    if torch.backends.mps.is_available():
        generators.append(torch.mps._get_default_mps_generator())
    return generators
