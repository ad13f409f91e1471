"""What of a model is swept over: sites, layers, heads, positions, and where each run's number goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nbsight.analysis.growing import SITES, Point
from nbsight.analysis.unembedding import last_blocks
from nbsight.errors import InputError
from nbsight.models.language_model import LanguageModel
from nbsight.models.tokenised import tokens_of_ids
from nbsight.models.tokens import str_tokens
from nbsight.results.tokens import Tokens, found_in

__all__ = ["Chosen", "Spot", "words_of"]

#: Where a run's number goes: indices of site, layer and position, and of the head if it is one head's.
Spot = tuple[int, int, int, "int | None"]


class Chosen:
    """The places of a model that a sweep was asked for, checked.

    Args:
        model: The model.
        sites: Some of `SITES`.
        layers: Which blocks; None means all.
        heads: For `z`: True means head by head, False all heads at once, or a list of heads.

    Raises:
        InputError: a site, layer or head that is not there.
    """

    def __init__(
        self,
        model: LanguageModel,
        sites: Sequence[str],
        layers: Sequence[int] | None,
        heads: bool | Sequence[int],
    ) -> None:
        if not isinstance(model, LanguageModel):
            raise InputError(
                f"a sweep needs a LanguageModel and was given a {type(model).__name__}. Write "
                "`nbsight.LanguageModel(model, tokenizer=tokenizer)`."
            )
        self.model = model
        self.sites = _sites(sites)
        self.layers = _layers(layers, len(last_blocks(model)))
        self.heads = _heads(model, heads) if "z" in self.sites else ()

    def spans(
        self, positions: Any, number: int, ids: torch.Tensor, other: torch.Tensor | None = None
    ) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
        """The names and the positions of what is changed as a whole.

        Args:
            positions: None for each position on its own; a list of positions, and of slices and strings of
                the text, each of which is changed as a whole; or a dictionary of such spans, by name.
            number: Which pair of prompts it is, for spans that are listed by pair.
            ids: The prompt, (1, position).
            other: The other prompt of the pair, in which strings are looked for, too.
        """
        words = words_of(self.model, ids)
        if positions is None:
            return tuple(words), tuple((position,) for position in range(len(words)))
        if not isinstance(positions, (int, str, slice)) and not len(positions):
            raise InputError("`positions` is empty; give at least one, or leave it out for all of them.")
        prompts = [tokens_of_ids(self.model, row[0]) for row in (ids, other) if row is not None]
        if not isinstance(positions, dict):
            positions = [positions] if isinstance(positions, (int, str, slice)) else positions
            found = tuple(_span(position, prompts) for position in positions)
            labels = (
                position if isinstance(position, str) else "".join(words[place] for place in span)
                for position, span in zip(positions, found, strict=True)
            )
            return tuple(labels), found
        return tuple(positions), tuple(
            _span(_of_pair(name, span, number), prompts) for name, span in positions.items()
        )

    def points(self, spans: Sequence[tuple[int, ...]]) -> tuple[list[Point], list[Spot]]:
        """One run for every site, layer, span and (at `z`) head, and where its number goes."""
        points, spots = [], []
        for site, name in enumerate(self.sites):
            for row, layer in enumerate(self.layers):
                for column, span in enumerate(spans):
                    every: Sequence[int | None] = (
                        range(len(self.heads)) if name == "z" and self.heads else (None,)
                    )
                    for head in every:
                        which = None if head is None else (self.heads[head],)
                        points.append(Point(layer, name, span, which))
                        spots.append((site, row, column, head))
        return points, spots

    def arranged(
        self, numbers: NDArray[np.float64] | None, spots: Sequence[Spot], columns: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """The numbers of all runs as (site, layer, position) and, by head, (layer, position, head)."""
        shape = (len(self.layers), columns)
        values = np.full((len(self.sites), *shape), np.nan)
        by_head = np.full((*shape, len(self.heads)), np.nan) if self.heads else None
        for (site, row, column, head), number in zip(spots, () if numbers is None else numbers, strict=False):
            if head is None:
                values[site, row, column] = number
            elif by_head is not None:
                by_head[row, column, head] = number
        return values, by_head


def words_of(model: LanguageModel, ids: torch.Tensor) -> list[str]:
    """The tokens of one prompt as text; their ids where there is no tokenizer."""
    return str_tokens(model.tokenizer, ids[0])


def _sites(sites: Sequence[str]) -> tuple[str, ...]:
    sites = (sites,) if isinstance(sites, str) else tuple(dict.fromkeys(sites))
    unknown = [site for site in sites if site not in SITES]
    if unknown:
        raise InputError(f"there is no site {unknown[0]!r}; there are {', '.join(SITES)}.")
    if not sites:
        raise InputError(f"`sites` is empty; give at least one of {', '.join(SITES)}.")
    return sites


def _layers(layers: Sequence[int] | None, count: int) -> tuple[int, ...]:
    return _numbers("layer", range(count) if layers is None else layers, count)


def _heads(model: LanguageModel, heads: bool | Sequence[int]) -> tuple[int, ...]:
    if heads is False:
        return ()
    count = int(model.std.n_heads)
    return _numbers("head", range(count) if heads is True else heads, count)


def _numbers(what: str, asked: int | Sequence[int], count: int) -> tuple[int, ...]:
    """Indices, counted from the end where they are negative."""
    asked = [asked] if isinstance(asked, int) else list(asked)
    for number in asked:
        if not hasattr(number, "__index__") or not -count <= number < count:
            raise InputError(f"the model has {count} {what}s, 0 to {count - 1}; there is no {number!r}.")
    if not asked:
        raise InputError(f"`{what}s` is empty; give at least one, 0 to {count - 1}.")
    return tuple(dict.fromkeys(int(number) % count for number in asked))


def _of_pair(name: str, span: Any, number: int) -> Any:
    """A span of one pair of prompts, where spans are listed by pair."""
    if isinstance(span, (list, tuple)) and span and not hasattr(span[0], "__index__"):
        if number >= len(span):
            raise InputError(
                f"`{name}` lists spans of {len(span)} pairs of prompts, and there is a pair {number}; give "
                "one for each pair, or one that holds for all."
            )
        return span[number]
    return span


def _span(span: Any, prompts: Sequence[Tokens]) -> tuple[int, ...]:
    found = found_in(span, *prompts)
    if not found:
        raise InputError("a span of positions is empty; give at least one position.")
    return found
