"""How many bytes weights take that are quantised while they are loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

__all__ = ["Quantised", "quantised_by"]

BLOCK = 64
"""Weights for which bitsandbytes keeps one scale, of 4 bits each."""


@dataclass(frozen=True)
class Quantised:
    """What bitsandbytes will do to the linear layers.

    Args:
        bits: 4 or 8.
        is_double: Whether the scales of 4-bit weights are quantised as well.
        skipped: Modules that stay as they are.
    """

    bits: int
    is_double: bool
    skipped: tuple[str, ...]

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.bits} bits (bitsandbytes)"

    def takes(self, tree: nn.Module, path: str, name: str) -> bool:
        """Whether a tensor of the model will be quantised."""
        module = tree.get_submodule(path)
        is_linear = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        if name != "weight" or not is_linear:
            return False
        try:
            head = tree.get_output_embeddings()
        except (AttributeError, NotImplementedError):
            head = None
        names = path.split(".")
        return module is not head and not any(skip in names or skip == path for skip in self.skipped)

    def bytes_of(self, tensor: torch.Tensor) -> int:
        """The bytes of a weight, its scales included."""
        count = tensor.numel()
        if self.bits == 8:  # a scale in float32 for each row
            return count + 4 * tensor.shape[0]
        scales = -(-count // BLOCK)
        return -(-count // 2) + (scales + 4 * -(-scales // 256) if self.is_double else 4 * scales)


def quantised_by(loader: Any) -> Quantised | None:
    """What a loader's options, or the checkpoint, say of quantising by bitsandbytes; None where nothing.

    Args:
        loader: A `Loader`.
    """
    options = loader.options
    said = options.get("quantization_config") or getattr(loader.config, "quantization_config", None)
    if said is None and (options.get("load_in_4bit") or options.get("load_in_8bit")):
        said = options
    values = said if isinstance(said, dict) else vars(said) if said is not None else {}
    in_4bit = bool(values.get("load_in_4bit") or values.get("_load_in_4bit"))
    in_8bit = bool(values.get("load_in_8bit") or values.get("_load_in_8bit"))
    if not in_4bit and not in_8bit:
        return None
    return Quantised(
        4 if in_4bit else 8,
        bool(values.get("bnb_4bit_use_double_quant")),
        tuple(values.get("llm_int8_skip_modules") or ()),
    )
