"""Where a model keeps its blocks: found by structure, not by a list of architectures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from nbsight.models.limits import config_numbers

__all__ = ["find_blocks"]

LAYER_COUNTS = frozenset(
    {
        "decoder_layers",
        "decoder_num_hidden_layers",
        "encoder_layers",
        "encoder_num_hidden_layers",
        "n_layer",
        "n_layers",
        "num_decoder_layers",
        "num_encoder_layers",
        "num_hidden_layers",
        "num_layers",
    }
)


def find_blocks(module: nn.Module, config: Any) -> tuple[str, ...]:
    """Return the paths of the lists that hold a model's decoder or encoder blocks.

    A list counts if it has as many entries as the configuration says that there are layers, if its entries
    are of one kind and have submodules, and if no such list is above it.

    Args:
        module: The model.
        config: Its configuration; nested ones are read too.

    Returns:
        Paths such as `transformer.h`, in the order of `named_modules()`; more than one for an encoder and a
        decoder, none where nothing is found.
    """
    counts = {value for name, value in config_numbers(config) if name in LAYER_COUNTS}
    return tuple(_lists(module, "", counts))


def _lists(module: nn.Module, path: str, counts: set[int]) -> Iterator[str]:
    for name, child in module.named_children():
        place = f"{path}.{name}" if path else name
        if isinstance(child, nn.ModuleList) and len(child) in counts and _are_blocks(child):
            yield place
        else:
            yield from _lists(child, place, counts)


def _are_blocks(entries: nn.ModuleList) -> bool:
    if any(next(entry.children(), None) is None for entry in entries):
        return False  # a list of single operations, such as one norm or adapter for each layer
    kinds = {type(entry) for entry in entries}
    if len(kinds) == 1:
        return True
    # hybrids: JambaAttentionDecoderLayer and JambaMambaDecoderLayer
    return len({_last_words(kind.__name__) for kind in kinds}) == 1


def _last_words(name: str) -> str:
    """`MambaDecoderLayer` -> `Layer`: the last capitalised word of a class's name."""
    start = max((i for i, letter in enumerate(name) if letter.isupper()), default=0)
    return name[start:]
