"""The logit lens of components: what the stream, attention, MLPs and heads each point at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from nbsight.analysis.lens import one_row, token_ids, token_words
from nbsight.analysis.parts import chosen_heads, chosen_positions, stream_values, values_by_head
from nbsight.analysis.readout import Readout, read_layers
from nbsight.analysis.unembedding import unembedding_of
from nbsight.errors import InputError, PathError
from nbsight.models.language_model import LanguageModel
from nbsight.models.provenance import provenance
from nbsight.models.tokens import str_tokens
from nbsight.results.component_lens import ONCE, ComponentLens
from nbsight.results.lens import Lens, LensCell

__all__ = ["COMPONENTS", "component_lens", "lens_of_component"]

#: In the order in which a model computes them; the first two once, the others in every block.
COMPONENTS = ("embed", "pos_embed", "resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")


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
    names, chosen = _components(model, components), chosen_heads(model, heads)
    where = list(range(ids.shape[1]))
    if positions is not None:
        where = chosen_positions(model, prompt, positions)
    followed = token_ids(model, track)
    unembedding = unembedding_of(model, ids)
    read_too = [*names, *(name for name in ("z", "attn_out") if chosen and name not in names)]
    values, final = stream_values(model, ids, read_too, where)
    with torch.no_grad():
        for layer in range(model.std.n_layers) if chosen else ():
            values |= values_by_head(model, layer, values[("z", layer)], values[("attn_out", layer)], chosen)
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
