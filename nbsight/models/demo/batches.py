"""Rows of tokens for training: documents one after the other, and random tokens said twice."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from nbsight.models.demo.corpus import document

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

__all__ = ["IGNORED", "batch"]

IGNORED = -100
"""Target of a position that is not trained on."""

TOKENS = 3072
LENGTHS = (48, 48, 48, 48, 128)
"""Lengths of rows, by turns: every fifth batch is as long as the model allows, so late positions learn."""

REPEATED = 0.2
"""Share of the rows that are random tokens said twice: what induction heads are learned from."""


def batch(tokenizer: Tokenizer, seed: int, step: int, end: int) -> tuple[Tensor, Tensor]:
    """Draw the batch of one step; it depends on nothing but its arguments.

    Args:
        tokenizer: The recipe's tokenizer.
        seed: Seed of the whole recipe.
        step: Number of the step, from 0.
        end: Token that closes a document.

    Returns:
        Inputs and targets, int64, shape (row, position). A target is the input one position later.
    """
    import torch

    rng = Random(f"{seed}/{step}")
    length = LENGTHS[step % len(LENGTHS)]

    def draw() -> list[int]:
        return tokenizer.encode(document(rng)).ids

    rows = [
        _repeated(rng, draw, length, tokenizer.get_vocab_size(), end)
        if rng.random() < REPEATED
        else _packed(draw, length, end)
        for _ in range(TOKENS // length)
    ]
    inputs, targets = zip(*rows, strict=True)
    return torch.tensor(inputs), torch.tensor(targets)


def _packed(draw: Callable[[], list[int]], length: int, end: int) -> tuple[list[int], list[int]]:
    """Fill a row with documents. It begins with one, as a prompt does; the last one is cut."""
    row: list[int] = []
    while len(row) <= length:
        row += [*draw(), end]
    return row[:length], row[1 : length + 1]


def _repeated(
    rng: Random, draw: Callable[[], list[int]], length: int, vocabulary: int, end: int
) -> tuple[list[int], list[int]]:
    """Fill a row with tokens in a random order, said again and again."""
    period = rng.randint(2, length // 2 - 2)
    tokens = {token for token in range(vocabulary) if token != end}
    if rng.random() < 0.5:
        # Words that the documents use are learned sooner than any token at all.
        tokens = set()
        while len(tokens) < 2 * period:
            tokens.update(draw())
    once = rng.sample(sorted(tokens), period)
    row = (once * (length // period + 2))[: length + 1]
    # The first time round nothing can be known, so there is nothing to learn.
    return row[:length], [IGNORED] * (period - 1) + row[period : length + 1]
