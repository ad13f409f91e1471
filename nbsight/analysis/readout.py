"""What streams say of the next token, with some of the vocabulary in memory at a time.

All layers of a few positions are read together, chunk of vocabulary by chunk. What needs the whole
distribution is summed as the chunks go by, relative to the largest logit so far, and is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nbsight.analysis.unembedding import Best, Unembedding

__all__ = ["Readout", "read_layers"]

#: Rows (layer and position) that are read together.
_ROWS = 1024


@dataclass(frozen=True)
class Readout:
    """What was read; every tensor begins with (layer, position).

    Args:
        top_probs: Probabilities of the likeliest tokens, likeliest first, (layer, position, rank).
        top_ids: Their ids, the same shape.
        entropy: Of the distribution, in nats.
        kl: KL(last layer ‖ this layer), in nats.
        probs: Probabilities of the tracked tokens, (layer, position, token).
        ranks: How many tokens are likelier than each of them, (layer, position, token).
        logits: Their logits, float32, (layer, position, token).
    """

    top_probs: torch.Tensor
    top_ids: torch.Tensor
    entropy: torch.Tensor
    kl: torch.Tensor
    probs: torch.Tensor
    ranks: torch.Tensor
    logits: torch.Tensor


def read_layers(
    unembedding: Unembedding, stream: torch.Tensor, tracked: Sequence[int] = (), *, top_k: int = 1
) -> Readout:
    """The likeliest tokens, entropy, divergence from the last layer, and the course of some tokens.

    Args:
        unembedding: From the stream to logits.
        stream: The residual stream, (layer, position, d_model), not normalised; the last layer last.
        tracked: Ids of tokens to follow.
        top_k: How many of the likeliest tokens to keep.
    """
    layers = len(stream)
    parts = [
        _read(unembedding, some, tracked, top_k) for some in stream.split(max(1, _ROWS // layers), dim=1)
    ]
    return Readout(*(torch.cat(values, dim=1) for values in zip(*parts, strict=True)))


def _read(
    unembedding: Unembedding, stream: torch.Tensor, tracked: Sequence[int], top_k: int
) -> tuple[torch.Tensor, ...]:
    rows = unembedding.normed(stream.flatten(0, 1))
    followed = unembedding.logits_of(rows, tracked)
    ranks = torch.zeros_like(followed, dtype=torch.long)
    best, sums = Best(top_k), _Sums(stream.shape[:2])
    for part in unembedding.parts(rows):
        for place, token in enumerate(tracked):
            ahead = part > followed[:, place : place + 1]
            if best.seen <= token < best.seen + part.shape[1]:
                ahead[:, token - best.seen] = False  # itself, which rounding may put a bit ahead
            ranks[:, place] += ahead.sum(-1)
        best.add(part)
        sums.add(part)
    whole = sums.log_sum
    top_probs, probs = ((logits - whole[:, None]).exp() for logits in (best.values, followed))
    found = (top_probs, best.ids, *sums.statistics(), probs, ranks, followed)
    return tuple(value.unflatten(0, stream.shape[:2]).cpu() for value in found)


class _Sums:
    """Sums over the vocabulary, of logits relative to the largest of their row so far.

    Args:
        shape: Layers and positions; a row is one of each, layer by layer.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        self.top = torch.empty(0)

    def add(self, part: torch.Tensor) -> None:
        """Take the next part of the vocabulary, logits of shape (row, token), which are used up."""
        top = part.amax(-1)
        if not len(self.top):
            self.top, self.total = top, torch.zeros_like(top)
            self.weighted = torch.zeros_like(top)
            self.crossed = torch.zeros_like(top).unflatten(0, self.shape)
        top = torch.maximum(self.top, top)
        moved = self.top - top
        fade = moved.exp()
        relative = part.sub_(top[:, None])
        shares = relative.exp()
        last = shares.unflatten(0, self.shape)[-1]
        # The last layer's shares over every layer's logits; the rest is each layer's own.
        drop = self._last(self.total) * moved.unflatten(0, self.shape)
        self.crossed = self._last(fade) * (self.crossed + drop)
        self.crossed += torch.einsum("pv,lpv->lp", last, relative.unflatten(0, self.shape))
        self.weighted = fade * (self.weighted + self.total * moved)
        self.weighted += torch.einsum("rv,rv->r", shares, relative)
        self.total = fade * self.total + shares.sum(-1)
        self.top = top

    @property
    def log_sum(self) -> torch.Tensor:
        """The logarithm of the sum of the exponentials, (row,)."""
        return self.top + self.total.log()

    def statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Entropy and divergence from the last layer, each (row,)."""
        logs = self.total.log()
        entropy = logs - self.weighted / self.total
        own = -self._last(entropy)
        others = self.crossed / self._last(self.total) - logs.unflatten(0, self.shape)
        return entropy, (own - others).clamp_min(0).flatten()

    def _last(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.unflatten(0, self.shape)[-1]
