"""What a model can take: positions, ids, arguments, and the sizes that its values have."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from nbsight.errors import InputError

__all__ = ["Limits", "config_numbers", "has_learned_positions", "read_limits", "text_config"]

RELATIVE = ("bloom", "longt5", "mt5", "t5", "umt5")
"""Model types whose positions are relative: a number in the configuration limits nothing."""

POSITION_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "max_target_positions")


@dataclass(frozen=True)
class Limits:
    """What one model can take.

    Args:
        positions: The longest prompt; None where nothing limits it.
        vocabulary: Rows of the embedding; None if unknown.
        arguments: Names that the forward takes.
        takes_more: Whether the forward takes other names too.
        sizes: Sizes that the dimensions of the model's values can have, positions aside.
    """

    positions: int | None
    vocabulary: int | None
    arguments: frozenset[str]
    takes_more: bool
    sizes: frozenset[int]
    #: The ids that were found to be good last, and their count of changes: loops give the same again.
    checked: list[tuple[Any, int]] = field(default_factory=list, compare=False, repr=False)

    def takes(self, name: str) -> bool:
        """Whether the forward names this argument."""
        return name in self.arguments

    def check_length(self, length: int) -> None:
        """Raise InputError if a prompt of that length is too long."""
        if self.positions is not None and length > self.positions:
            raise InputError(
                f"the prompt has {length} tokens, and this model takes at most {self.positions}. Shorten it, "
                f"or cut it off: `model.trace(prompt, truncation=True, max_length={self.positions})`."
            )

    def check_ids(self, ids: torch.Tensor) -> None:
        """Raise InputError if there are ids outside the vocabulary."""
        for known, version in self.checked:
            if known() is ids and version == ids._version:
                return
        if self.vocabulary is None or ids.device.type == "meta" or not ids.numel():
            return
        low, high = (int(bound) for bound in torch.aminmax(ids))
        if low < 0 or high >= self.vocabulary:
            raise InputError(
                f"the token id {low if low < 0 else high} is outside the vocabulary of this model, which has "
                f"{self.vocabulary} ids, 0 to {self.vocabulary - 1}. Ids of another model's tokenizer?"
            )
        if not ids.is_inference():
            self.checked[:] = [(weakref.ref(ids), ids._version)]


def read_limits(module: nn.Module, config: Any) -> Limits:
    """Read a model's limits from its modules and its configuration."""
    # The class's own forward: accelerate puts another on the instance.
    parameters = inspect.signature(type(module).forward).parameters.values()
    return Limits(
        positions=_positions(config),
        vocabulary=_vocabulary(module, config),
        arguments=frozenset(p.name for p in parameters),
        takes_more=any(p.kind is p.VAR_KEYWORD for p in parameters),
        sizes=_sizes(module, config),
    )


def has_learned_positions(module: nn.Module, limits: Limits) -> bool:
    """Whether positions are rows of a table, so that there are none beyond its end."""
    return any(
        isinstance(table, nn.Embedding)
        and ("pos" in name or name.endswith("wpe"))
        and limits.positions is not None
        and table.num_embeddings <= limits.positions + 2  # OPT's table begins with two rows of its own
        for name, table in module.named_modules()
    )


def text_config(config: Any) -> Any:
    """The part of a configuration that is about the language model."""
    return getattr(config, "get_text_config", lambda: config)()


def config_numbers(config: Any) -> Iterator[tuple[str, int]]:
    """The integers in a configuration and in those nested in it, with their names."""
    pending = [config.to_dict() if hasattr(config, "to_dict") else {}]
    while pending:
        for name, value in pending.pop().items():
            if isinstance(value, dict):
                pending.append(value)
            elif isinstance(value, int) and not isinstance(value, bool):
                yield name, value


def _positions(config: Any) -> int | None:
    text = text_config(config)
    if getattr(text, "model_type", None) in RELATIVE:
        return None
    for name in POSITION_NAMES:
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _vocabulary(module: nn.Module, config: Any) -> int | None:
    try:
        table = module.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        table = None
    if isinstance(table, nn.Embedding):
        return table.num_embeddings
    return getattr(config, "vocab_size", None)


def _sizes(module: nn.Module, config: Any) -> frozenset[int]:
    found = {size for tensor in module.parameters() for size in tensor.shape}
    found |= {value for _, value in config_numbers(config)}
    text = text_config(config)
    width = getattr(text, "hidden_size", None)
    heads = getattr(text, "num_attention_heads", None)
    if isinstance(width, int) and isinstance(heads, int) and heads:
        found.add(width // heads)
        groups = getattr(text, "num_key_value_heads", None)
        if isinstance(groups, int) and groups:
            found.add(heads // groups)
    # rotary embeddings work on halves, fused projections are split
    return frozenset(found | {size // part for size in found for part in (2, 3)})
