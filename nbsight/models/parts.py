"""How a named value lies in the tensor at its native place.

Heads lie side by side in one dimension, queries, keys and values in one tensor, an attention function has
heads before positions. A `Part` shows the value with the axes that its name promises, and puts a value of
that form back among the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Columns", "Groups", "Heads", "Keys", "Part", "Swapped"]


class Part:
    """A way to see a tensor."""

    #: Whether what is shown shares the native tensor's memory, so that changes in place land.
    is_view = True
    #: Whether a value with more rows than the native tensor can take its place.
    is_all = False

    def take(self, native: torch.Tensor, rows: Any, steps: int = 0) -> torch.Tensor:
        """What the user sees.

        Args:
            native: The tensor at the place, a participant's rows of it.
            rows: Which part of the batch that is; None for all of it.
            steps: How many tokens a generation has added to the prompt.
        """
        raise NotImplementedError

    def put(self, native: torch.Tensor, value: torch.Tensor, rows: Any, steps: int = 0) -> torch.Tensor:
        """The native tensor with another value in it; the given one stays as it is."""
        raise NotImplementedError


@dataclass(frozen=True)
class Heads(Part):
    """(…, head · d_head) as (…, head, d_head).

    Args:
        count: The number of heads.
    """

    count: int
    is_all = True

    def take(self, native: torch.Tensor, rows: Any, steps: int = 0) -> torch.Tensor:
        return native.unflatten(-1, (self.count, -1))

    def put(self, native: torch.Tensor, value: torch.Tensor, rows: Any, steps: int = 0) -> torch.Tensor:
        return value.flatten(-2)


@dataclass(frozen=True)
class Columns(Part):
    """Some columns of a tensor in which several things lie one after the other.

    Args:
        start: The first column.
        size: How many there are.
        heads: The number of heads in them; None where there are none.
    """

    start: int
    size: int
    heads: int | None = None

    def take(self, native: torch.Tensor, rows: Any, steps: int = 0) -> torch.Tensor:
        part = native.narrow(-1, self.start, self.size)
        return part if self.heads is None else part.unflatten(-1, (self.heads, -1))

    def put(self, native: torch.Tensor, value: torch.Tensor, rows: Any, steps: int = 0) -> torch.Tensor:
        changed = native.clone()
        changed.narrow(-1, self.start, self.size).copy_(value if self.heads is None else value.flatten(-2))
        return changed


@dataclass(frozen=True)
class Groups(Part):
    """Queries, keys or values where each key head lies beside its own queries.

    Args:
        groups: The number of key heads.
        of: Heads in a group: its queries, its key and its value.
        first: The first head of a group that is meant.
        count: How many heads of a group are.
    """

    groups: int
    of: int
    first: int
    count: int

    @property
    def is_view(self) -> bool:  # type: ignore[override]
        return self.count == 1

    def _grouped(self, native: torch.Tensor) -> torch.Tensor:
        grouped = native.unflatten(-1, (self.groups, self.of, -1))
        return grouped.narrow(-2, self.first, self.count)

    def take(self, native: torch.Tensor, rows: Any, steps: int = 0) -> torch.Tensor:
        part = self._grouped(native)
        return part.squeeze(-2) if self.count == 1 else part.flatten(-3, -2)

    def put(self, native: torch.Tensor, value: torch.Tensor, rows: Any, steps: int = 0) -> torch.Tensor:
        changed = native.clone()
        self._grouped(changed).copy_(value.unflatten(-2, (self.groups, self.count)))
        return changed


@dataclass(frozen=True)
class Keys(Part):
    """Scores or a pattern: where there is a cache, the last axis has more positions than the prompt.

    What a prompt was padded with on the left is in the cache too; its own first token is its first key.

    Args:
        dim: The axis of the keys.
    """

    dim: int = 3

    def take(self, native: torch.Tensor, rows: Any, steps: int = 0) -> torch.Tensor:
        skipped = _padding(native, self.dim, rows, steps)
        return native.narrow(self.dim, skipped, native.size(self.dim) - skipped) if skipped else native

    def put(self, native: torch.Tensor, value: torch.Tensor, rows: Any, steps: int = 0) -> torch.Tensor:
        skipped = _padding(native, self.dim, rows, steps)
        if not skipped:
            return value
        return torch.cat([native.narrow(self.dim, 0, skipped), value], self.dim)


@dataclass(frozen=True)
class Swapped(Part):
    """What an attention function is given, (batch, head, position, d_head), as (batch, position, head, …).

    Args:
        has_past: Whether its positions may be those of a cache as well.
    """

    has_past: bool = False

    def take(self, native: torch.Tensor, rows: Any, steps: int = 0) -> torch.Tensor:
        part = Keys(2).take(native, rows, steps) if self.has_past else native
        return part.transpose(1, 2)

    def put(self, native: torch.Tensor, value: torch.Tensor, rows: Any, steps: int = 0) -> torch.Tensor:
        part = value.transpose(1, 2)
        return Keys(2).put(native, part, rows, steps) if self.has_past else part


def _padding(native: torch.Tensor, dim: int, rows: Any, steps: int) -> int:
    """The positions before a prompt's first token that are still among the keys of a later step.

    A cache that keeps a window has dropped some of them; one with room for later tokens is longer.
    """
    if (
        rows is None or not rows.left_pad or native.size(dim) == rows.length
    ):  # the first pass: cut off already
        return 0
    dropped = max(0, rows.padded + steps - native.size(dim))
    return int(max(0, rows.left_pad - dropped))
