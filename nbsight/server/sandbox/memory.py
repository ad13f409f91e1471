"""Memory that two processes share: numbers go through it, words about them through a socket.

A region is sealed, so its size never changes: a runner cannot pull memory away from under the worker.
The one for the runner to read cannot be written to by it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from bisect import insort

__all__ = ["ALIGNMENT", "NoRoom", "Region", "Space", "make_region", "open_region"]

#: Values begin on these bytes, as torch's own do.
ALIGNMENT = 64

# The values of F_ADD_SEALS and of its seals; Python knows them from 3.8 on, on Linux alone.
_ADD_SEALS, _SEAL, _SHRINK, _GROW, _FUTURE_WRITE = 1033, 1, 2, 4, 0x10


class NoRoom(MemoryError):
    """A value is too large for the region, or for what is left of it."""


class Region:
    """One mapping.

    Args:
        descriptor: Of the memory file.
        memory: The mapping.
    """

    def __init__(self, descriptor: int, memory: mmap.mmap) -> None:
        self.descriptor = descriptor
        self.memory = memory
        self.view = memoryview(memory)
        self.size = len(memory)

    def close(self) -> None:
        """Unmap it, unless somebody still looks at it."""
        os.close(self.descriptor)
        try:
            self.view.release()
            self.memory.close()
        except BufferError:  # a view is left; it goes with the last of them
            pass


def make_region(size: int, *, writable: bool) -> Region:
    """A new one, zeros; it takes memory as it is written to.

    Args:
        size: Bytes.
        writable: Whether the other process may write to it; else only this one does.
    """
    descriptor = os.memfd_create("nbsight", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    memory = mmap.mmap(descriptor, size)
    seals = _SHRINK | _GROW | (0 if writable else _FUTURE_WRITE)
    fcntl.fcntl(descriptor, _ADD_SEALS, seals)
    fcntl.fcntl(descriptor, _ADD_SEALS, _SEAL)
    return Region(descriptor, memory)


def open_region(descriptor: int, *, writable: bool) -> Region:
    """The other process's end."""
    size = os.fstat(descriptor).st_size
    access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
    return Region(descriptor, mmap.mmap(descriptor, size, access=access))


class Space:
    """Which parts of a region are taken.

    Args:
        size: Bytes of the region.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._taken: list[tuple[int, int]] = []

    def take(self, size: int) -> int:
        """The first byte of a free part.

        Raises:
            NoRoom: none is large enough.
        """
        place = 0
        for begin, end in self._taken:
            if begin - place >= size:
                break
            place = -(-end // ALIGNMENT) * ALIGNMENT
        if place + size > self.size:
            raise NoRoom(
                f"{size:,} bytes do not fit into the {self.size:,} that a block and its model share."
            )
        insort(self._taken, (place, place + max(size, 1)))
        return place

    def free(self, places: list[int]) -> None:
        """Give parts back."""
        gone = set(places)
        self._taken = [part for part in self._taken if part[0] not in gone]
