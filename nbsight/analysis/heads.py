"""Scores of heads: how much each looks where a known kind of head looks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from nbsight.errors import InputError
from nbsight.models.language_model import LanguageModel
from nbsight.models.provenance import provenance
from nbsight.results.heads import HeadScores

__all__ = ["SCORES", "head_scores"]


def _previous(ids: torch.Tensor) -> torch.Tensor:
    length = ids.shape[-1]
    return torch.eye(length, dtype=torch.bool).roll(-1, 1).tril(-1).expand(len(ids), -1, -1)


def _same_before(ids: torch.Tensor) -> torch.Tensor:
    return (ids[:, :, None] == ids[:, None, :]).tril(-1)


def _duplicate(ids: torch.Tensor) -> torch.Tensor:
    return _same_before(ids)


def _induction(ids: torch.Tensor) -> torch.Tensor:
    # The token after an earlier one that is the same as this: one to the right of the duplicate.
    found = torch.zeros_like(_same_before(ids))
    found[:, :, 1:] = _same_before(ids)[:, :, :-1]
    return found.tril()


def _first(ids: torch.Tensor) -> torch.Tensor:
    found = torch.zeros(len(ids), ids.shape[1], ids.shape[1], dtype=torch.bool)
    found[:, 1:, 0] = True
    return found


def _itself(ids: torch.Tensor) -> torch.Tensor:
    return torch.eye(ids.shape[1], dtype=torch.bool).expand(len(ids), -1, -1)


#: Which keys a kind of head looks at, (row, query, key), for token ids (row, position).
SCORES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "previous": _previous,
    "duplicate": _duplicate,
    "induction": _induction,
    "first": _first,
    "self": _itself,
}


def head_scores(
    model: LanguageModel,
    prompts: str | Sequence[str] | None = None,
    *,
    scores: Sequence[str] = ("previous", "duplicate", "induction", "first"),
    rows: int = 8,
    length: int = 24,
    seed: int = 0,
) -> HeadScores:
    """The attention that each head pays, on average, to where a known kind of head looks.

    A score is the mean over positions that have such a place. Without prompts the text is random tokens
    followed by the same tokens again, in which nothing but repetition can be attended to.

    Args:
        model: A language model whose patterns are known.
        prompts: Texts; by default random tokens, repeated.
        scores: Some of previous (the token before), duplicate (the same token, earlier), induction (what came
            after the same token), first (the first position) and self (the position itself).
        rows: How many random texts.
        length: Random tokens in each, before they are repeated.
        seed: Of the random tokens.

    Returns:
        Scores in [0, 1], (score, layer, head), and how many positions each is a mean over.

    Raises:
        InputError: an unknown score, texts in which a score has no place, or lengths below 2.
        PathError: a layer has no pattern; the message says why.

    Source: Elhage et al., "A mathematical framework for transformer circuits", 2021; Olsson et al.,
        "In-context learning and induction heads", 2022.
    """
    asked = (scores,) if isinstance(scores, str) else tuple(dict.fromkeys(scores))
    for name in asked:
        if name not in SCORES:
            raise InputError(f"there is no score {name!r}; there are {', '.join(SCORES)}.")
    if not asked:
        raise InputError(f"`scores` is empty; give at least one of {', '.join(SCORES)}.")
    if prompts is None:
        texts: list[str] = []
        every = [_random_texts(model, rows, length, seed)]
    else:
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not texts:
            raise InputError("`prompts` is empty; give texts, or leave it out for random tokens.")
        every = [model.to_tokens(text) for text in texts]
    layers, heads = int(model.std.n_layers), int(model.std.n_heads)
    total = np.zeros((len(asked), layers, heads))
    count = np.zeros(len(asked), np.int64)
    for ids in every:
        # Nothing before the random tokens counts, such as the text's first mark.
        begin = 0 if texts else ids.shape[1] - 2 * length
        masks = [SCORES[name](ids.cpu()) & (torch.arange(ids.shape[1]) >= begin)[:, None] for name in asked]
        count += [int(mask.any(-1).sum()) for mask in masks]
        with model.trace(ids, grad=False, use_cache=False, receipts=False):
            for layer in range(layers):
                pattern = model.std.get("pattern", layer).double()
                for row, mask in enumerate(masks):
                    looked = (pattern * mask[:, None].to(pattern)).sum((0, 2, 3))
                    total[row, layer] += looked.cpu().numpy()
    empty = [name for name, number in zip(asked, count, strict=True) if not number]
    if empty:
        raise InputError(
            f"nothing in these texts is a place for the score {empty[0]!r}: no token is repeated. Leave "
            "`prompts` out, and random tokens are repeated; or ask for other scores."
        )
    return HeadScores(
        scores=asked,
        layers=range(layers),
        heads=range(heads),
        values=total / count[:, None, None],
        count=count,
        texts=len(texts) or rows,
        provenance=provenance(
            model, texts, **({} if texts else {"seed": seed, "length": length, "rows": rows})
        ),
    )


def _random_texts(model: LanguageModel, rows: int, length: int, seed: int) -> torch.Tensor:
    """Random tokens and the same again, (row, position)."""
    if rows < 1 or length < 2:
        raise InputError(f"rows={rows}, length={length}: write at least 1 row of at least 2 tokens.")
    limit = model._limits.positions
    tokenizer: Any = model.tokenizer
    begins = getattr(tokenizer, "bos_token_id", None)
    room = 2 * length + (begins is not None)
    if limit is not None and room > limit:
        raise InputError(
            f"length={length} makes {room} tokens, and the model takes {limit}; write "
            f"length={(limit - 1) // 2} or less."
        )
    generator = torch.Generator().manual_seed(seed)
    size = model._limits.vocabulary or 2
    special = set(getattr(tokenizer, "all_special_ids", None) or ())
    allowed = torch.tensor([token for token in range(size) if token not in special])
    drawn = torch.stack(
        [allowed[torch.randperm(len(allowed), generator=generator)[:length]] for _ in range(rows)]
    )
    drawn = torch.cat([drawn, drawn], dim=1)
    if begins is not None:
        drawn = torch.cat([torch.full((rows, 1), begins), drawn], dim=1)
    return drawn
