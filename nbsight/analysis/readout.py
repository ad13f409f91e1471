"""What every layer's stream says of the next token, with some of the vocabulary in memory at a time.

All layers of a few positions are read together, chunk of vocabulary by chunk. What needs the whole
distribution is summed as the chunks go by, relative to the largest logit so far, and is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nbsight.analysis.unembedding import Unembedding

__all__ = ["Readout", "read_layers"]

#: Rows (layer and position) that are read together.
_ROWS = 1024


@dataclass(frozen=True)
class Readout:
    """What was read; every tensor begins with (layer, position).

    Args:
        entropy: Of the distribution, in nats.
        kl: KL(last layer ‖ this layer), in nats.
        probs: Probabilities of the tracked tokens, (layer, position, token).
        ranks: How many tokens are likelier than each of them, (layer, position, token).
    """

    entropy: torch.Tensor
    kl: torch.Tensor
    probs: torch.Tensor
    ranks: torch.Tensor


def read_layers(unembedding: Unembedding, stream: torch.Tensor, tracked: Sequence[int] = ()) -> Readout:
    """Entropy, divergence from the last layer, and the course of some tokens.

    Args:
        unembedding: From the stream to logits.
        stream: The residual stream, (layer, position, d_model), not normalised; the last layer last.
        tracked: Ids of tokens to follow.
    """
    layers = len(stream)
    parts = [
        _read(unembedding, some.reshape(-1, some.shape[-1]), layers, tracked)
        for some in stream.split(max(1, _ROWS // layers), dim=1)
    ]
    return Readout(*(torch.cat(values, dim=1) for values in zip(*parts, strict=True)))


def _read(
    unembedding: Unembedding, resid: torch.Tensor, layers: int, tracked: Sequence[int]
) -> tuple[torch.Tensor, ...]:
    rows = unembedding.normed(resid)
    followed = unembedding.logits_of(rows, tracked)
    ranks = torch.zeros_like(followed, dtype=torch.long)
    start = 0
    top = torch.full((len(rows),), -torch.inf, device=followed.device)
    total, weighted = torch.zeros_like(top), torch.zeros_like(top)
    crossed = torch.zeros(layers, len(rows) // layers, device=top.device)
    for part in unembedding.parts(rows):
        higher = torch.maximum(top, part.amax(-1))
        fade = (top - higher).exp()
        grown = (part - higher[:, None]).exp()
        total = total * fade + grown.sum(-1)
        weighted = weighted * fade + (grown * part).sum(-1)
        by_layer = part.unflatten(0, (layers, -1))
        last = grown.unflatten(0, (layers, -1))[-1]
        crossed = crossed * fade.unflatten(0, (layers, -1))[-1] + torch.einsum("pv,lpv->lp", last, by_layer)
        top = higher
        for place, token in enumerate(tracked):
            ahead = part > followed[:, place : place + 1]
            if start <= token < start + part.shape[1]:
                ahead[:, token - start] = False  # itself, which rounding may put a bit ahead
            ranks[:, place] += ahead.sum(-1)
        start += part.shape[1]
    whole = top + total.log()
    mean = (weighted / total).unflatten(0, (layers, -1))
    log_sum = whole.unflatten(0, (layers, -1))
    entropy = log_sum - mean
    # Over the last layer's distribution: its own mean logit, and the mean of this layer's logits.
    shares = crossed / total.unflatten(0, (layers, -1))[-1]
    kl = (mean[-1] - log_sum[-1]) - (shares - log_sum)
    probs = (followed - whole[:, None]).exp()
    found: list[Any] = [entropy, kl.clamp_min(0), *(v.unflatten(0, (layers, -1)) for v in (probs, ranks))]
    return tuple(value.cpu() for value in found)
