"""Norms of the residual stream and of what each part of a model writes into it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nbsight.analysis.parts import has_part
from nbsight.errors import InputError
from nbsight.models.language_model import LanguageModel
from nbsight.models.provenance import provenance
from nbsight.models.tokens import str_tokens
from nbsight.results.norms import Norms

__all__ = ["stream_norms"]

COMPONENTS = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
CHANNELS = 8
#: Positions at which streams of different layers are compared: all of them are held at once.
COMPARED = 256


def stream_norms(model: LanguageModel, prompt: Any) -> Norms:
    """L2 norms of the stream before, inside and after every block, and of what is added to it.

    Args:
        model: A language model whose standard names are known.
        prompt: One prompt, whatever `model.trace` takes.

    Returns:
        Norms over d_model, float32, (component, layer, position); the cosine between the stream before and
        after each block, (layer, position), and between those of every two layers, (layer, layer); and the
        channels that are largest in the stream. A parallel block has no `resid_mid`, so it is left out there.

    Raises:
        InputError: the prompt is several prompts.
        UnknownArchitectureError: the standard names are not known or not verified for this model.

    Source: for outlier channels Dettmers et al., "LLM.int8()", 2022; for the first position Xiao et al.,
        "Efficient streaming language models with attention sinks", 2023.
    """
    ids = model.to_tokens(prompt)
    if len(ids) != 1:
        raise InputError(f"norms are of one prompt, and {len(ids)} were given; call it for each.")
    std = model.std
    layers = range(std.n_layers)
    components = [name for name in COMPONENTS if has_part(std, name, 0)]
    norms: dict[str, list[torch.Tensor]] = {name: [] for name in components}
    turns, sizes, directions = [], [], []
    # Without the first position, where many models park attention.
    later = slice(1, None) if ids.shape[1] > 1 else slice(None)
    every = max(1, -(-ids.shape[1] // COMPARED))
    with model.trace(ids, grad=False):
        for layer in layers:
            before: Any = None
            for name in components:
                value = std.get(name, layer)[0].float()
                norms[name].append(value.norm(dim=-1).cpu())
                if name == "resid_pre":
                    # The model may write into the stream in place.
                    before = value.clone()
                elif name == "resid_post":
                    turns.append(torch.cosine_similarity(before, value, dim=-1).cpu())
                    sizes.append(value[later].square().mean(0).sqrt().cpu())
                    some = value[later][::every]
                    directions.append(torch.nn.functional.normalize(some, dim=-1).flatten().cpu())
    flat = torch.stack(directions)
    alike = flat @ flat.T / (flat.shape[1] // len(sizes[0]))  # the mean of their positions' products
    size = torch.stack(sizes)
    relative = size / size.median(dim=-1, keepdim=True).values.clamp_min(1e-12)
    channels = relative.amax(0).topk(min(CHANNELS, relative.shape[-1])).indices
    words = str_tokens(model.tokenizer, ids[0])
    text = prompt if isinstance(prompt, str) else "".join(words)
    return Norms(
        prompt=text,
        components=components,
        layers=list(layers),
        tokens=words,
        norm=np.stack([torch.stack(norms[name]).numpy() for name in components]),
        turn=torch.stack(turns).numpy(),
        other_layers=list(layers),
        alike=alike.numpy(),
        channels=channels.tolist(),
        channel_size=relative[:, channels].numpy(),
        model=str(model._name),
        provenance=provenance(model, [text]),
        detail=_Detail(model, ids, components),
    )


class _Detail:
    """Asks the model for the values of one block; `model` says whose turn it takes."""

    def __init__(self, model: LanguageModel, ids: torch.Tensor, components: Sequence[str]) -> None:
        self.model, self.ids = model, ids
        self._components = components

    def __call__(self, layer: int) -> dict[str, torch.Tensor]:
        with self.model.trace(self.ids, grad=False):
            # copies, because the model may write into the stream in place
            values = {name: self.model.std.get(name, layer).clone() for name in self._components}
        return values
