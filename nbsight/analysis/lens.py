"""The logit lens: what each layer's residual stream would predict if it were the last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nbsight.models.provenance import provenance
from nbsight.analysis.readout import read_layers
from nbsight.analysis.unembedding import Unembedding, hidden_state, last_blocks, unembedding_of
from nbsight.errors import InputError
from nbsight.models.language_model import LanguageModel
from nbsight.models.tokens import str_tokens
from nbsight.results.lens import Lens, LensCell

__all__ = ["lens_cell", "logit_lens"]


def logit_lens(
    model: LanguageModel,
    prompt: Any,
    *,
    top_k: int = 5,
    track: Sequence[str | int] = (),
    statistics: bool = False,
) -> Lens:
    """Decode the residual stream after each layer with the model's own norm and unembedding.

    Args:
        model: A language model.
        prompt: One prompt, whatever `model.trace` takes: text, ids, chat messages.
        top_k: Tokens kept per layer and position.
        track: Tokens to follow through the layers, each text of one token or an id: their probability
            and rank everywhere.
        statistics: Whether to compute the entropy of every distribution and how far it is from the last
            layer's, KL(last ‖ layer); without them it takes two thirds of the time.

    Returns:
        The top tokens, shape (layer, position, rank), with probabilities over the whole vocabulary,
        float32, likeliest first. Layer i is the stream after block i; the last layer is the model's own
        output. Shown in a notebook, its cells open and ask the model for longer rankings.

    Raises:
        InputError: the prompt is several prompts, or `top_k` is below 1.
        UnknownArchitectureError: the way from the last block to the logits is not known.

    Source: nostalgebraist, "interpreting GPT: the logit lens", 2020.
    """
    if top_k < 1:
        raise InputError(f"top_k={top_k} keeps no tokens; write 1 or more.")
    ids = _one_row(model, prompt)
    unembedding = unembedding_of(model, ids)
    blocks = list(last_blocks(model))
    resid = []
    with model.trace(ids, grad=False):
        for block in blocks:
            resid.append(hidden_state(block.output)[0])
    with torch.no_grad():
        rows = torch.cat([layer.to(resid[-1].device) for layer in resid])
        probs, top_ids = unembedding.top(rows, top_k)
        followed = [model.to_single_token(one) if isinstance(one, str) else int(one) for one in track]
        more: dict[str, Any] = {}
        if followed or statistics:
            more = _more(unembedding, rows.unflatten(0, (len(blocks), -1)), followed, statistics)
    shape = (len(blocks), ids.shape[1], probs.shape[-1])
    words = {index: _words(model, [index])[0] for index in set(top_ids.flatten().tolist())}
    text = prompt if isinstance(prompt, str) else _text(model, ids)
    return Lens(
        prompt=text,
        tokens=_words(model, ids[0].tolist()),
        layers=range(len(blocks)),
        top_ids=top_ids.reshape(shape).numpy(),
        top_tokens=np.array([words[index] for index in top_ids.flatten().tolist()], object).reshape(shape),
        top_probs=probs.reshape(shape).numpy(),
        tracked=_words(model, followed),
        model=str(model._name),
        **more,
        provenance=provenance(model, [text]),
        detail=_Detail(model, ids),
    )


def lens_cell(model: LanguageModel, prompt: Any, layer: int, position: int, *, top_k: int = 20) -> LensCell:
    """One cell of the lens, with as many tokens as wanted; only the layers up to it are run.

    Args:
        model: A language model.
        prompt: One prompt.
        layer: Index of the layer; negative ones count from the end.
        position: Index of the token; negative ones count from the end.
        top_k: How many tokens.

    Raises:
        InputError: there is no such layer or position, or it is several prompts.
        UnknownArchitectureError: the way from the last block to the logits is not known.
    """
    if top_k < 1:
        raise InputError(f"top_k={top_k} keeps no tokens; write 1 or more.")
    ids = _one_row(model, prompt)
    blocks = last_blocks(model)
    layer = _index("layer", layer, len(blocks))
    position = _index("position", position, ids.shape[1])
    unembedding = unembedding_of(model, ids)
    with model.trace(ids, grad=False):
        resid = hidden_state(blocks[layer].output)[0, position]
    with torch.no_grad():
        probs, top_ids = unembedding.top(resid[None], top_k)
    found = top_ids[0].tolist()
    return LensCell(layer, position, tuple(_words(model, found)), top_ids[0].numpy(), probs[0].numpy())


def _more(
    unembedding: Unembedding, stream: torch.Tensor, followed: list[int], statistics: bool
) -> dict[str, Any]:
    read = read_layers(unembedding, stream, followed)
    found: dict[str, Any] = {}
    if statistics:
        found |= {"entropy": read.entropy.numpy(), "kl": read.kl.numpy()}
    if followed:
        found |= {"track_probs": read.probs.numpy(), "track_ranks": read.ranks.numpy()}
    return found


class _Detail:
    """Asks the model for one cell; `model` says whose turn it takes."""

    def __init__(self, model: LanguageModel, ids: torch.Tensor) -> None:
        self.model = model
        self._ids = ids

    def __call__(self, layer: int, position: int, top_k: int) -> LensCell:
        return lens_cell(self.model, self._ids, layer, position, top_k=top_k)


def _one_row(model: LanguageModel, prompt: Any) -> torch.Tensor:
    ids = model.to_tokens(prompt)
    if ids.shape[0] != 1:
        raise InputError(
            f"the lens reads one prompt and was given {ids.shape[0]}; call it for each: "
            "`[logit_lens(model, prompt) for prompt in prompts]`."
        )
    return ids


def _index(what: str, index: int, size: int) -> int:
    if not -size <= index < size:
        raise InputError(
            f"the lens has {size} {what}s, 0 to {size - 1}; there is no {index}. For the last one write -1."
        )
    return int(index) % size


def _words(model: LanguageModel, ids: list[int]) -> list[str]:
    if model.tokenizer is None:
        return [f"<{index}>" for index in ids]
    return str_tokens(model.tokenizer, ids)


def _text(model: LanguageModel, ids: torch.Tensor) -> str:
    return "".join(_words(model, ids[0].tolist()))
