"""The logit lens: what each layer's residual stream would predict if it were the last."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nbsight.analysis.readout import read_layers
from nbsight.analysis.unembedding import hidden_state, last_blocks, unembedding_of
from nbsight.errors import InputError
from nbsight.models.language_model import LanguageModel
from nbsight.models.provenance import provenance
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
            and rank everywhere, and the logit, of which two tokens' difference is `lens.contrast`.
        statistics: Whether to compute the entropy of every distribution and how far it is from the last
            layer's, KL(last ‖ layer).

    Returns:
        The top tokens, shape (layer, position, rank), with probabilities over the whole vocabulary,
        float32, likeliest first. Layer i is the stream after block i; the last layer is the model's own
        output, which `check` confirms for this prompt. Shown in a notebook, its cells open and ask the
        model for longer rankings.

    Raises:
        InputError: the prompt is several prompts, or `top_k` is below 1.
        UnknownArchitectureError: the way from the last block to the logits is not known.

    Source: nostalgebraist, "interpreting GPT: the logit lens", 2020.
    """
    if top_k < 1:
        raise InputError(f"top_k={top_k} keeps no tokens; write 1 or more.")
    ids = one_row(model, prompt)
    unembedding = unembedding_of(model, ids)
    blocks = list(last_blocks(model))
    followed = token_ids(model, track)
    resid = []
    with last_position_only(unembedding.head), model.trace(ids, grad=False, use_cache=False):
        for block in blocks:
            resid.append(hidden_state(block.output)[0])
        own = model.output.logits[0, -1].clone()
    more: dict[str, Any] = {}
    with torch.no_grad():
        stream = torch.stack([layer.to(resid[-1].device) for layer in resid])
        if followed or statistics:
            read = read_layers(unembedding, stream, followed, top_k=top_k)
            probs, top_ids = read.top_probs, read.top_ids
            more |= {"entropy": read.entropy.numpy(), "kl": read.kl.numpy()} if statistics else {}
            if followed:
                more |= {
                    "track_probs": read.probs.numpy(),
                    "track_ranks": read.ranks.numpy(),
                    "track_logits": read.logits.numpy(),
                }
        else:
            probs, top_ids = unembedding.top(stream.flatten(0, 1), top_k)
        probs, top_ids = (part.reshape(*stream.shape[:2], -1) for part in (probs, top_ids))
        check = last_row_error(own, probs[-1, -1], top_ids[-1, -1])
    words = str_tokens(model.tokenizer, ids[0])
    text = prompt if isinstance(prompt, str) else "".join(words)
    return Lens(
        prompt=text,
        tokens=words,
        layers=range(len(blocks)),
        top_ids=top_ids.numpy(),
        top_tokens=token_words(model, top_ids),
        top_probs=probs.numpy(),
        tracked=str_tokens(model.tokenizer, followed),
        model=str(model._name),
        check=check,
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
    ids = one_row(model, prompt)
    blocks = last_blocks(model)
    layer = _index("layer", layer, len(blocks))
    position = _index("position", position, ids.shape[1])
    unembedding = unembedding_of(model, ids)
    with model.trace(ids, grad=False):
        resid = hidden_state(blocks[layer].output)[0, position]
    with torch.no_grad():
        probs, top_ids = unembedding.top(resid[None], top_k)
    found = top_ids[0].tolist()
    words = tuple(str_tokens(model.tokenizer, found))
    return LensCell(layer, position, words, top_ids[0].numpy(), probs[0].numpy())


def token_ids(model: LanguageModel, tokens: Sequence[str | int]) -> list[int]:
    """The ids of tokens that are given as text of one token, or as ids.

    Raises:
        InputError: a text is several tokens, or there is no such id.
    """
    tokens = [tokens] if isinstance(tokens, (str, int)) else tokens
    found = [model.to_single_token(one) if isinstance(one, str) else int(one) for one in tokens]
    size = model._limits.vocabulary
    for one in found:
        if one < 0 or (size is not None and one >= size):
            raise InputError(f"there is no token {one}; the ids of this model are 0 to {(size or 0) - 1}.")
    return found


def token_words(model: LanguageModel, ids: torch.Tensor) -> NDArray[np.object_]:
    """The texts of token ids, of the same shape; each id is decoded once."""
    flat = ids.flatten().tolist()
    words = {index: str_tokens(model.tokenizer, [index])[0] for index in set(flat)}
    return np.array([words[index] for index in flat], object).reshape(ids.shape)


@contextmanager
def last_position_only(head: nn.Module) -> Iterator[None]:
    """While it lasts, an unembedding reads the last position only, in this thread.

    The model's own last step, for the check, costs little there and much at all positions.
    """
    own = threading.get_ident()

    def narrow(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return (args[0][:, -1:], *args[1:]) if args and threading.get_ident() == own else None

    hook = head.register_forward_pre_hook(narrow)
    try:
        yield
    finally:
        hook.remove()


def last_row_error(own: torch.Tensor, probs: torch.Tensor, ids: torch.Tensor) -> float:
    """The largest difference of probabilities from those of the model's own logits, (d_vocab,)."""
    wanted = own.float().softmax(-1)[ids.to(own.device)].cpu()
    return float((probs - wanted).abs().max())


class _Detail:
    """Asks the model for one cell; `model` says whose turn it takes."""

    def __init__(self, model: LanguageModel, ids: torch.Tensor) -> None:
        self.model = model
        self.ids = ids

    def __call__(self, layer: int, position: int, top_k: int) -> LensCell:
        return lens_cell(self.model, self.ids, layer, position, top_k=top_k)

    def more(self, track: Sequence[str | int], statistics: bool) -> Lens:
        """The lens again with statistics and with tokens that are followed."""
        return logit_lens(self.model, self.ids, top_k=1, track=track, statistics=statistics)


def one_row(model: LanguageModel, prompt: Any) -> torch.Tensor:
    """The ids of one prompt, (1, position)."""
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
