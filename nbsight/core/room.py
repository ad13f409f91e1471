"""How much memory is free, and whether what a run is about to keep fits into it.

Nothing is asked while values are small: only large tensors, and caches that hold much, make anybody look.
"""

from __future__ import annotations

import os
import warnings
import weakref
from pathlib import Path
from typing import Any

import torch

from nbsight.core.measuring import is_plain
from nbsight.display.numbers import bytes_text
from nbsight.errors import MemoryNotice, NotEnoughMemoryError

__all__ = ["MANY", "CacheRoom", "bytes_of", "free_bytes", "note_large_save"]

LARGE = 1 << 26
"""Bytes that a cache may take before anybody looks at the memory: 64 MiB."""

MANY = 1 << 24
"""Elements of a saved value below which nobody looks."""

_CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device) -> int:
    """Bytes that are free on a device, for the CPU in this process's container.

    Args:
        device: A CPU, a GPU, or Apple's.
    """
    if device.type == "cuda":
        # What the allocator holds and does not use is free for us as well.
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    try:
        with open("/proc/meminfo") as file:
            known = dict(line.split(":", 1) for line in file)
        return min(int(known["MemAvailable"].split()[0]) * 1024, _left_in_container())
    except (OSError, KeyError, ValueError):  # not Linux
        pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 20
        return pages * 4096 // 2


def _left_in_container() -> int:
    """What the container's limit leaves; very much where there is none."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        with (_CGROUP / "memory.stat").open() as file:  # files that were read are let go when needed
            used -= next((int(line.split()[1]) for line in file if line.startswith("inactive_file")), 0)
        return 1 << 62 if limit == "max" else max(0, int(limit) - used)
    except (OSError, ValueError):
        return 1 << 62


def bytes_of(tensor: torch.Tensor) -> int:
    """The bytes of a tensor's elements, of a sparse one as if it were not."""
    return tensor.numel() * tensor.element_size()


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}, {tuple(tensor.shape)}"


# -- caches ----------------------------------------------------------------------------------------


class CacheRoom:
    """Watches how much a cache takes, and ends the run before it takes more than there is.

    Args:
        expected: How many values one forward will give it.
        device: Where it keeps them; None for where they are.
    """

    __slots__ = ("_count", "_device", "_expected", "_looked", "_taken")

    def __init__(self, expected: int, device: Any) -> None:
        self._expected = expected
        self._device = None if device is None else torch.device(device)
        self._taken = self._count = self._looked = 0

    def took(self, tensor: torch.Tensor) -> None:
        """Count a tensor that is about to be kept.

        Raises:
            NotEnoughMemoryError: as many of these as are to come do not fit.
        """
        self._taken += bytes_of(tensor)
        self._count += 1
        if self._taken - self._looked >= LARGE:
            self._look(tensor)

    def _look(self, tensor: torch.Tensor) -> None:
        self._looked = self._taken
        device = self._device or tensor.device
        if device.type == "meta" or not is_plain(tensor):
            return
        each = self._taken / self._count
        left = max(1, self._expected - self._count + 1)
        free = free_bytes(device)
        if left * each <= free:
            return
        raise NotEnoughMemoryError(
            f"this cache needs {left} × {bytes_text(each)} more on {device} (this one is "
            f"{_kind(tensor)}; {self._expected} values in all), and {bytes_text(free)} are free. Keep fewer "
            "modules (`tracer.cache(modules=[...])`), save only the positions that you want "
            "(`.output[0][:, -1].save()`), keep half the bytes (`dtype=torch.bfloat16`), or keep them "
            + ('elsewhere (`device="cpu"`).' if device.type != "cpu" else "for fewer prompts at a time.")
        )


# -- saved values ----------------------------------------------------------------------------------

#: For each tracer, the places of large values: path with `*` for the layer, and the layers so far.
_large: weakref.WeakKeyDictionary[Any, dict[str, list[int]]] = weakref.WeakKeyDictionary()


def note_large_save(tracer: Any, tensor: torch.Tensor, origin: Any) -> None:
    """Look whether a large value that was just saved leaves room for the rest of its kind.

    A second layer's value says that more layers may follow. Whether they do is not known, so this is a
    notice; it is an error where not even one more fits, since then the process would be ended without a word.

    Args:
        tracer: The trace in which it was saved.
        tensor: The value.
        origin: The envoy that was read last, what was read of it, and where; None if nothing was.

    Raises:
        NotEnoughMemoryError: not one more of these fits.
    """
    device = tensor.device
    if not is_plain(tensor):  # a scan's, which has no numbers
        return
    free = free_bytes(device)
    steps = [] if origin is None else origin[0]._path.split(".")
    number = next((at for at, step in enumerate(steps) if step.isdecimal()), None)
    if number is None:
        _refuse_if_full(tensor, free)
        return
    place = ".".join((*steps[:number], "*", *steps[number + 1 :]))
    seen = _large.setdefault(tracer, {}).setdefault(place, [])
    layer = int(steps[number])
    if layer in seen:
        return
    seen.append(layer)
    stride = seen[-1] - seen[-2] if len(seen) > 1 else 0
    layers = len(origin[0]._root._module.get_submodule(".".join(steps[:number])))
    left = (layers - 1 - layer) // stride if stride > 0 else 0
    if left:
        _refuse_if_full(tensor, free, left + len(seen))
    if len(seen) == 2 and left * bytes_of(tensor) > free:
        warnings.warn(
            f"{left + 2} × {bytes_text(bytes_of(tensor))} if every layer is saved like these two "
            f"({_kind(tensor)}), and {bytes_text(free)} are free on {device}. {_ways(device)}",
            MemoryNotice,
            stacklevel=3,
        )


def _refuse_if_full(tensor: torch.Tensor, free: int, count: int = 1) -> None:
    if free >= bytes_of(tensor):
        return
    raise NotEnoughMemoryError(
        f"{count} × {bytes_text(bytes_of(tensor))} ({_kind(tensor)}) are being saved, and {bytes_text(free)} "
        f"are free on {tensor.device}: not one more fits. {_ways(tensor.device)}"
    )


def _ways(device: torch.device) -> str:
    elsewhere = "move each (`value.cpu().save()`)" if device.type != "cpu" else "take fewer prompts at a time"
    return (
        "Save fewer layers, only some positions (`value[:, -1].save()`), half the bytes "
        f"(`value.bfloat16().save()`), or {elsewhere}."
    )
