"""The logit lens of components: what the stream, attention, MLPs and heads each point at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from nbsight.analysis.lens import one_row, token_ids, token_words
from nbsight.analysis.readout import Readout, read_layers
from nbsight.analysis.unembedding import unembedding_of
from nbsight.errors import InputError, PathError, UnknownArchitectureError
from nbsight.models.language_model import LanguageModel
from nbsight.models.provenance import provenance
from nbsight.models.tokens import str_tokens
from nbsight.results.component_lens import ONCE, ComponentLens
from nbsight.results.lens import Lens, LensCell
from nbsight.results.tokens import TokenBatch

__all__ = ["COMPONENTS", "component_lens", "lens_of_component"]

#: In the order in which a model computes them; the first two once, the others in every block.
COMPONENTS = ("embed", "pos_embed", "resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")

#: How far the heads' sum may be from what attention adds, relative to its length.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}

Values = dict[tuple[str, int], torch.Tensor]


def component_lens(
    model: LanguageModel,
    prompt: Any,
    *,
    components: Sequence[str] | None = None,
    heads: bool | Sequence[int] = False,
    positions: Any = None,
    top_k: int = 5,
    track: Sequence[str | int] = (),
) -> ComponentLens:
    """Decode every component of the stream with the model's own norm and unembedding.

    Args:
        model: A language model whose standard names are known.
        prompt: One prompt, whatever `model.trace` takes.
        components: Some of embed, pos_embed, resid_pre, attn_out, resid_mid, mlp_out, resid_post; by
            default all that the model has.
        heads: True adds what each head adds, or a list of heads: its result times the output matrix,
            without the bias.
        positions: Which positions: numbers, slices, strings of the text, or a list of these; all by default.
        top_k: Tokens kept for each.
        track: Tokens to follow, each text of one token or an id.

    Returns:
        Top tokens (component, layer, position, rank), with entropy, KL from the model's own prediction and
        the norm of each component.

    Raises:
        InputError: several prompts, or a component, head, token or position that is not there.
        PathError: a component that this model has not; the message says why.
        UnknownArchitectureError: the standard names are not known, or the heads do not add up to what
            attention adds, as where a norm follows it.

    Source: nostalgebraist, "interpreting GPT: the logit lens", 2020; for heads Elhage et al., "A mathematical
        framework for transformer circuits", 2021.
    """
    if top_k < 1:
        raise InputError(f"top_k={top_k} keeps no tokens; write 1 or more.")
    ids = one_row(model, prompt)
    names, chosen = _components(model, components), _heads(model, heads)
    where = list(range(ids.shape[1]))
    if positions is not None:
        where = _positions(model, prompt, positions)
    followed = token_ids(model, track)
    unembedding = unembedding_of(model, ids)
    read_too = [*names, *(name for name in ("z", "attn_out") if chosen and name not in names)]
    values, final = _values(model, ids, read_too, where)
    with torch.no_grad():
        for layer in range(model.std.n_layers) if chosen else ():
            values |= _by_head(model, layer, values[("z", layer)], values[("attn_out", layer)], chosen)
        names += [f"head_{head}" for head in chosen]
        keys = [key for key in values if key[0] in names]
        stream = torch.stack([*(values[key].to(final.device) for key in keys), final])
        read = read_layers(unembedding, stream, followed, top_k=top_k)
    words = str_tokens(model.tokenizer, ids[0])
    text = prompt if isinstance(prompt, str) else "".join(words)
    return ComponentLens(
        prompt=text,
        components=names,
        layers=range(model.std.n_layers),
        positions=where,
        tokens=[words[position] for position in where],
        **_arranged(model, read, stream, keys, names, bool(followed)),
        tracked=str_tokens(model.tokenizer, followed),
        model=str(model._name),
        provenance=provenance(model, [text]),
    )


def _positions(model: LanguageModel, prompt: Any, positions: Any) -> list[int]:
    tokens = model.tokens(prompt)
    one = tokens[0] if isinstance(tokens, TokenBatch) else tokens
    return list(dict.fromkeys(one.positions(positions)))


def _components(model: LanguageModel, components: Sequence[str] | None) -> list[str]:
    asked = [components] if isinstance(components, str) else components
    found = []
    for name in COMPONENTS if asked is None else dict.fromkeys(asked):
        if name not in COMPONENTS:
            raise InputError(f"there is no component {name!r}; there are {', '.join(COMPONENTS)}.")
        try:
            model.std.place(name, None if name in ONCE else 0)
        except PathError:
            if asked is not None:
                raise
            continue
        found.append(name)
    return found


def _heads(model: LanguageModel, heads: bool | Sequence[int]) -> list[int]:
    if heads is False:
        return []
    count = int(model.std.n_heads)
    chosen = list(range(count)) if heads is True else list(dict.fromkeys(heads))
    for head in chosen:
        if not 0 <= head < count:
            raise InputError(f"the model has {count} heads, 0 to {count - 1}; there is no {head}.")
    return chosen


def _values(
    model: LanguageModel, ids: torch.Tensor, names: Sequence[str], where: list[int]
) -> tuple[Values, torch.Tensor]:
    """The components at some positions, (position, d_model), by name and layer; and the last stream."""
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


def _by_head(
    model: LanguageModel, layer: int, z: torch.Tensor, attn_out: torch.Tensor, heads: Sequence[int]
) -> Values:
    """What each head adds to the stream, (position, d_model); checked to add up to the whole."""
    mix: nn.Module = model._model.get_submodule(model.std.place("z", layer).path)
    factor = model.std.place("attn_out", layer).factor
    bias = getattr(mix, "bias", None)
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
    if error > _TOLERANCE.get(attn_out.dtype, 1e-4):
        raise UnknownArchitectureError(
            f"the heads of layer {layer} do not add up to what attention adds (they are {error:.0%} off): in "
            f"{type(model._module).__name__} something, such as a norm, stands between the output matrix and "
            "the stream, so a head has no part of its own. Read `attn_out`, or patch `z` by head."
        )
    return found


def _arranged(
    model: LanguageModel,
    read: Readout,
    stream: torch.Tensor,
    keys: Sequence[tuple[str, int]],
    names: Sequence[str],
    is_tracked: bool,
) -> dict[str, Any]:
    """What was read, as arrays (component, layer, position, ...)."""
    index = tuple(np.array([(names.index(name), layer) for name, layer in keys]).T)
    count = (len(names), int(model.std.n_layers))

    def spread(rows: Any, empty: Any) -> Any:
        rows = rows[: len(keys)]
        table = np.full((*count, *rows.shape[1:]), empty, rows.dtype)
        table[index] = rows
        return table

    found = {
        "top_ids": spread(read.top_ids.numpy(), -1),
        "top_tokens": spread(token_words(model, read.top_ids), ""),
        "top_probs": spread(read.top_probs.numpy(), np.nan),
        "entropy": spread(read.entropy.numpy(), np.nan),
        "kl": spread(read.kl.numpy(), np.nan),
        "norm": spread(stream.float().norm(dim=-1).cpu().numpy(), np.nan),
    }
    if is_tracked:
        found["track_probs"] = spread(read.probs.numpy(), np.nan)
        found["track_ranks"] = spread(read.ranks.numpy(), -1)
        found["track_logits"] = spread(read.logits.numpy(), np.nan)
    return found


def lens_of_component(
    model: LanguageModel,
    prompt: Any,
    component: str,
    *,
    top_k: int = 5,
    track: Sequence[str | int] = (),
) -> Lens:
    """The lens of one component at all positions, which can ask the model for more.

    Args:
        model: A language model whose standard names are known.
        prompt: One prompt, whatever `model.trace` takes.
        component: Any that `component_lens` reads, or `head_3` for what head 3 adds.
        top_k: Tokens kept for each layer and position.
        track: Tokens to follow, each text of one token or an id.

    Returns:
        The component's rows of `component_lens`; its `detail` reads the same component again.

    Raises:
        InputError: there is no such component or head.
        PathError: a component that this model has not.
    """
    head = component.removeprefix("head_")
    is_head = head != component and head.isdecimal()
    parts: Any = {"components": [], "heads": [int(head)]} if is_head else {"components": [component]}
    lens = component_lens(model, prompt, top_k=top_k, track=track, **parts).of(component)
    return replace(lens, detail=_Detail(model, one_row(model, prompt), component))


class _Detail:
    """Asks the model for one cell of a component's lens; `model` says whose turn it takes."""

    def __init__(self, model: LanguageModel, ids: torch.Tensor, component: str) -> None:
        self.model = model
        self.ids, self._component = ids, component

    def __call__(self, layer: int, position: int, top_k: int) -> LensCell:
        lens = lens_of_component(self.model, self.ids, self._component, top_k=top_k)
        return lens.at(layer, position)

    def more(self, track: Sequence[str | int], statistics: bool) -> Lens:
        """The lens again with tokens that are followed; statistics are always there."""
        return lens_of_component(self.model, self.ids, self._component, top_k=1, track=track)
