"""Random numbers of the model's own, for `model.generate(..., seed=0)`.

torch has one generator a device, for everybody. While the model runs its state is the model's, which
began at the seed; whenever the block runs it is the user's, as if the model drew nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import torch

from nbsight.errors import InputError

__all__ = ["Numbers"]

# Two threads may generate at once: each has the generators to itself until its block runs again.
_lock = threading.RLock()


class Numbers:
    """The states of torch's generators on one side of a run; entered when that side runs.

    Args:
        seed: As for `torch.manual_seed`.
        devices: The devices of the model; the cpu's generator is always among them.

    Raises:
        InputError: the seed is no integer that torch takes.
    """

    def __init__(self, seed: int, devices: Iterable[torch.device]) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**64:
            raise InputError(f"`seed` is an integer as torch.manual_seed takes it, and was {seed!r}.")
        self._generators = _generators(devices)
        self._mine: list[torch.Tensor] | None = None
        self._theirs: list[torch.Tensor] = []
        self._seed = seed

    def __enter__(self) -> None:
        _lock.acquire()
        self._theirs = [generator.get_state() for generator in self._generators]
        if self._mine is None:
            for generator in self._generators:
                generator.manual_seed(self._seed)
            return
        for generator, state in zip(self._generators, self._mine, strict=True):
            generator.set_state(state)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._mine = [generator.get_state() for generator in self._generators]
            for generator, state in zip(self._generators, self._theirs, strict=True):
                generator.set_state(state)
        finally:
            _lock.release()


def _generators(devices: Iterable[torch.device]) -> list[Any]:
    """The default generators of the cpu and of these devices."""
    found = [torch.default_generator]
    for device in sorted({(device.type, device.index or 0) for device in devices}):
        kind, index = device
        if kind == "mps":
            found.append(torch.mps._get_default_mps_generator())
        elif kind not in ("cpu", "meta"):  # cuda, and what is made like it
            module = torch.get_device_module(kind)
            module.init()
            found.append(module.default_generators[index])
    return found
