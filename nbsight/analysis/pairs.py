"""Pairs of prompts to patch between: which positions correspond, what is patched, what is certain then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nbsight.analysis.chosen import Chosen, Spot, words_of
from nbsight.analysis.growing import Point
from nbsight.analysis.metrics import Answers
from nbsight.errors import InputError
from nbsight.models.language_model import LanguageModel
from nbsight.models.tokenised import tokens_of_ids
from nbsight.models.tokens import describe_lengths
from nbsight.results import alignment

__all__ = [
    "Align",
    "Pair",
    "answers_for",
    "check_labels",
    "is_list_of_text",
    "make_pair",
    "notes_on_pair",
    "prompts_of",
]

#: How prompts of different lengths line up: "diff", strings that stand for each other, or one for each pair.
Align = str | Mapping[str, str] | Sequence[str | Mapping[str, str]] | None


@dataclass(frozen=True)
class Pair:
    """One pair of prompts, ready to run.

    Args:
        base: The prompt that is run, (1, position).
        donor: The other, (1, position).
        clean_text: The clean one as text.
        corrupted_text: The corrupted one.
        partner: For each position of `base` that of `donor`, -1 for none; None where all correspond.
        labels: What the spans are called.
        spans: What is patched as a whole.
        points: The runs.
        spots: Where their numbers go.
    """

    base: torch.Tensor
    donor: torch.Tensor
    clean_text: str
    corrupted_text: str
    partner: torch.Tensor | None
    labels: tuple[str, ...]
    spans: tuple[tuple[int, ...], ...]
    points: Sequence[Point]
    spots: Sequence[Spot]


def make_pair(
    chosen: Chosen,
    number: int,
    clean: torch.Tensor,
    corrupted: torch.Tensor,
    *,
    direction: str,
    positions: Any,
    align: Align,
) -> Pair:
    """Say what is run of one pair of prompts.

    Args:
        chosen: What is swept over.
        number: Which pair it is.
        clean: (1, position).
        corrupted: (1, position).
        direction: "denoise" or "noise".
        positions: As for `activation_patching`.
        align: As there.

    Raises:
        InputError: the prompts do not line up, or a position has no partner.
    """
    base, donor = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
    partner = _partner(chosen.model, number, clean, corrupted, align, is_clean_run=base is clean)
    labels, spans = chosen.spans(positions, number, base, donor if partner is None else None)
    if partner is not None:
        if positions is None:
            paired = [place for place, span in enumerate(spans) if partner[span[0]] >= 0]
            labels = tuple(labels[place] for place in paired)
            spans = tuple(spans[place] for place in paired)
        for label, span in zip(labels, spans, strict=True):
            for position in span:
                if partner[position] < 0:
                    raise InputError(
                        f"position {position} of the prompt that is run ({label!r}) has no partner in the "
                        "other one, so there is nothing to patch from. `nbsight.align(model.tokens(clean), "
                        "model.tokens(corrupted), ...)` shows what corresponds."
                    )
    clean_text, corrupted_text = ("".join(words_of(chosen.model, ids)) for ids in (clean, corrupted))
    points, spots = chosen.points(spans)
    return Pair(base, donor, clean_text, corrupted_text, partner, labels, spans, points, spots)


def _partner(
    model: LanguageModel,
    number: int,
    clean: torch.Tensor,
    corrupted: torch.Tensor,
    align: Align,
    *,
    is_clean_run: bool,
) -> torch.Tensor | None:
    if isinstance(align, Sequence) and not isinstance(align, str):
        if number >= len(align):
            raise InputError(
                f"`align` lists {len(align)} ways to line prompts up, and there is a pair {number}."
            )
        align = align[number]
    if align is None:
        if clean.shape == corrupted.shape:
            return None
        ids = clean[0].tolist(), corrupted[0].tolist()
        raise InputError(
            "patching position by position needs prompts of equal length:\n"
            f"{describe_lengths(model.tokenizer, *ids, ('clean', 'corrupted'))}\n"
            'Say what corresponds, `align={"Eiffel Tower": "Colosseum"}`, let `align="diff"` find what they '
            "have in common, or choose words with as many tokens."
        )
    tokens = [tokens_of_ids(model, ids[0].tolist()) for ids in (clean, corrupted)]
    found = (
        alignment.align(*tokens, how=align)
        if isinstance(align, str)
        else alignment.align(*tokens, spans=align)
    )
    partner = torch.full((len(tokens[0 if is_clean_run else 1]),), -1, dtype=torch.long)
    for first, second in found.pairs:
        here, there = (first, second) if is_clean_run else (second, first)
        partner[here] = there
    return partner


def check_labels(pairs: Sequence[Pair]) -> None:
    """Raise InputError if the pairs have no common axis of positions."""
    for number, pair in enumerate(pairs):
        if len(pair.spans) != len(pairs[0].spans):
            raise InputError(
                f"the first pair of prompts has {len(pairs[0].spans)} positions and pair {number} has "
                f"{len(pair.spans)}, so they have no common axis. Name spans, one for each pair: "
                '`positions={"subject": [[1, 2], [1, 2, 3]], "last": -1}`.'
            )


def notes_on_pair(pair: Pair, of: str, sites: Sequence[str]) -> Iterator[str]:
    """What the prompts make certain before anything is run.

    Args:
        pair: The pair.
        of: Which one it is, to be put into a sentence.
        sites: What is patched.
    """
    if pair.partner is not None:
        return
    length = pair.base.shape[1]
    whole = [label for label, span in zip(pair.labels, pair.spans, strict=True) if len(set(span)) == length]
    if whole and any(site.startswith("resid") for site in sites):
        yield (
            f"`{whole[0]}`{of} is every position: patching the whole stream there gives the donor's "
            "prediction by construction."
        )
    differs = (pair.base != pair.donor)[0].nonzero().flatten().tolist()
    if not differs:
        yield f"both prompts{of} are the same, so no patch can change anything."
    elif all(position < differs[0] for span in pair.spans for position in span):
        yield (
            f"the prompts{of} differ from position {differs[0]} on, and only positions before it are "
            "patched: they hold the same in both runs."
        )


def prompts_of(model: LanguageModel, clean: Any, corrupted: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The ids of each pair, the clean prompt first."""
    many = [is_list_of_text(prompts) for prompts in (clean, corrupted)]
    if many[0] != many[1]:
        raise InputError("give one clean and one corrupted prompt, or a list of each.")
    pairs = list(zip(clean, corrupted, strict=False)) if many[0] else [(clean, corrupted)]
    if many[0] and (len(clean) != len(corrupted) or not clean):
        raise InputError(
            f"there are {len(clean)} clean prompts and {len(corrupted)} corrupted ones; give pairs."
        )
    found = []
    for one, other in pairs:
        ids = model.to_tokens(one), model.to_tokens(other)
        if any(len(part) != 1 for part in ids):
            raise InputError(
                "each clean and each corrupted prompt is one prompt; for several give lists of text."
            )
        found.append(ids)
    return found


def is_list_of_text(prompts: Any) -> bool:
    return isinstance(prompts, (list, tuple)) and all(isinstance(prompt, str) for prompt in prompts)


def answers_for(answers: Any, count: int) -> list[Answers] | None:
    """The answers of each pair; None if there are none."""
    if answers is None:
        return None
    if len(answers) == 2 and all(isinstance(answer, (str, int)) for answer in answers):
        return [tuple(answers)] * count
    if len(answers) != count or any(isinstance(pair, str) or len(pair) != 2 for pair in answers):
        raise InputError(
            'answers are the right one and the other one, `(" Paris", " Rome")`, or such a pair for each of '
            f"the {count} pairs of prompts; these are {answers!r}."
        )
    return [tuple(pair) for pair in answers]
