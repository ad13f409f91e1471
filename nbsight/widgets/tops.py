"""The likeliest tokens of several runs side by side, in what JSON knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from nbsight.models.tokens import str_tokens

__all__ = ["number", "tops_of"]

TOP = 8  # tokens of each run


def tops_of(model: Any, logits: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """The likeliest tokens of each run, and what every run makes of each of them.

    Args:
        model: Whose tokens they are.
        logits: By the run's name, (1, d_vocab).
    """
    probs = {name: one[0].float().softmax(-1).cpu() for name, one in logits.items()}
    count = min(TOP, len(next(iter(probs.values()))))
    best = [one.nan_to_num(0).topk(count).indices.tolist() for one in probs.values()]
    ids = list(dict.fromkeys(token for rank in zip(*best, strict=True) for token in rank))
    return {
        "ids": ids,
        "tokens": str_tokens(model.tokenizer, ids),
        "probs": {name: [number(float(one[token])) for token in ids] for name, one in probs.items()},
    }


def number(value: float) -> float | None:
    """A number that JSON knows."""
    return float(value) if np.isfinite(value) else None
