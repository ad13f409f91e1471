"""The parts of the residual stream: what embeddings, attention, heads and MLPs add, read in one run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from nbsight.analysis.unembedding import TOLERANCE
from nbsight.errors import InputError, PathError, UnknownArchitectureError
from nbsight.models.fetching import parameter_of
from nbsight.models.language_model import LanguageModel
from nbsight.results.component_lens import ONCE
from nbsight.results.tokens import TokenBatch

__all__ = ["Values", "chosen_heads", "chosen_positions", "has_part", "stream_values", "values_by_head"]

#: By name and layer.
Values = dict[tuple[str, int], torch.Tensor]


def has_part(std: Any, name: str, layer: int | None) -> bool:
    """Whether a model has a value under a standard name.

    Args:
        std: The model's standard names.
        name: Such as `mlp_out`.
        layer: Index of a block; None for what is in none.
    """
    try:
        std.place(name, layer)
    except PathError:
        return False
    return True


def chosen_positions(model: LanguageModel, prompt: Any, positions: Any) -> list[int]:
    """Positions of one prompt, each once.

    Args:
        model: Whose tokens they are.
        prompt: One prompt, whatever `model.trace` takes.
        positions: Numbers, slices, strings of the text, or a list of these.
    """
    tokens = model.tokens(prompt)
    one = tokens[0] if isinstance(tokens, TokenBatch) else tokens
    return list(dict.fromkeys(one.positions(positions)))


def chosen_heads(model: LanguageModel, heads: bool | Sequence[int]) -> list[int]:
    """Numbers of heads: all for True, none for False, or those of a list.

    Raises:
        InputError: there is no such head.
    """
    if heads is False:
        return []
    count = int(model.std.n_heads)
    chosen = list(range(count)) if heads is True else list(dict.fromkeys(heads))
    for head in chosen:
        if not 0 <= head < count:
            raise InputError(f"the model has {count} heads, 0 to {count - 1}; there is no {head}.")
    return chosen


def stream_values(
    model: LanguageModel, ids: torch.Tensor, names: Sequence[str], where: list[int]
) -> tuple[Values, torch.Tensor]:
    """The components at some positions, (position, d_model), by name and layer; and the last stream.

    Args:
        model: A language model whose standard names are known.
        ids: One prompt, (1, position).
        names: Standard names of the stream and of what is written to it, and `z`.
        where: Positions.
    """
    std, values = model.std, Values()
    order = (*ONCE, "resid_pre", "z", "attn_out", "resid_mid", "mlp_out", "resid_post")
    last = std.n_layers - 1
    with model.trace(ids, grad=False, use_cache=False):
        for name in (name for name in ONCE if name in names):
            values[name, 0] = std.get(name)[0, where].clone()
        for layer in range(std.n_layers):
            for name in order[2:]:
                if name in names or (layer, name) == (last, "resid_post"):
                    # Copies, because the model may write into the stream in place.
                    values[name, layer] = std.get(name, layer)[0, where].clone()
    return values, values["resid_post", last]


def values_by_head(
    model: LanguageModel, layer: int, z: torch.Tensor, attn_out: torch.Tensor, heads: Sequence[int]
) -> Values:
    """What each head adds to the stream, (position, d_model); checked to add up to the whole.

    Args:
        model: The model.
        layer: Index of the block.
        z: What its heads found, (position, head, d_head).
        attn_out: What its attention added, (position, d_model).
        heads: Which of them are wanted.

    Raises:
        UnknownArchitectureError: they do not add up, as where a norm follows attention.
    """
    mix: nn.Module = model._model.get_submodule(model.std.place("z", layer).path)
    factor = model.std.place("attn_out", layer).factor
    bias = parameter_of(mix, "bias", model._model)
    found, total = Values(), torch.zeros_like(attn_out)
    for head in range(z.shape[1]):
        alone = torch.zeros_like(z)
        alone[:, head] = z[:, head]
        added = mix(alone.flatten(1)[None])[0]
        added = (added if bias is None else added - bias) * factor
        total += added
        if head in heads:
            found[f"head_{head}", layer] = added
    total = total if bias is None else total + bias * factor
    error = float((total - attn_out).float().norm() / attn_out.float().norm().clamp_min(1e-12))
    if error > TOLERANCE.get(attn_out.dtype, 1e-4):
        raise UnknownArchitectureError(
            f"the heads of layer {layer} do not add up to what attention adds (they are {error:.0%} off): in "
            f"{type(model._module).__name__} something, such as a norm, stands between the output matrix and "
            "the stream, so a head has no part of its own. Read `attn_out`, or patch `z` by head."
        )
    return found
