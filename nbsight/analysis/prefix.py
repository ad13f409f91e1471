"""Keys and values of a prompt's beginning, computed once and used by every row.

Rows that are changed from position p onward are the same before p, and in a causal model what stands before
p does not see what comes after. So they need not be computed again: attention at p and later reads the
keys and values of the one plain run.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache

__all__ = ["Kept", "KeysAndValues", "Prefix"]

#: By layer the keys and the values, each (1, head, position, d_head).
Kept = dict[int, tuple[torch.Tensor, torch.Tensor]]


class KeysAndValues(DynamicCache):
    """Passes what it is given through and keeps that of the first row."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Kept = {}

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep a layer's keys and values."""
        self.kept[layer_idx] = key_states[:1].clone(), value_states[:1].clone()
        return key_states, value_states


class Prefix(DynamicCache):
    """The same first keys and values for every row, however many rows there are at a layer.

    Args:
        kept: Keys and values of the plain run.
        length: How many positions the rows share.
    """

    def __init__(self, kept: Kept, length: int) -> None:
        super().__init__()
        self._kept, self._length = kept, length

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A layer's keys and values with those of the prefix before them; nothing is stored."""
        keys, values = (
            torch.cat([old[:, :, : self._length].expand(len(new), -1, -1, -1), new], dim=-2)
            for old, new in zip(self._kept[layer_idx], (key_states, value_states), strict=True)
        )
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """How many positions come before those that are computed."""
        return self._length

    def get_mask_sizes(self, query: Any, layer_idx: int = 0) -> tuple[int, int]:
        """How many keys a layer has, and the position of the first.

        Args:
            query: The number of queries; before transformers 5 their positions.
            layer_idx: Ignored: it is the same everywhere.
        """
        return self._length + (query if isinstance(query, int) else len(query)), 0
