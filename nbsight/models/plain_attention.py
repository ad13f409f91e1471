"""What torch's `scaled_dot_product_attention` computes, in steps that can be stopped at.

Some attention modules call that function themselves and have no eager one beside it. This follows its
definition; `attending.py` compares the two in every call.
"""

from __future__ import annotations

import math

import torch

__all__ = ["plain_attention"]


def plain_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """The mix of values, (batch, head, query position, d_head); arguments as torch's function has them."""
    if enable_gqa:
        key = key.repeat_interleave(query.size(-3) // key.size(-3), -3)
        value = value.repeat_interleave(query.size(-3) // value.size(-3), -3)
    scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.size(-1)) if scale is None else scale)
    if is_causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
    elif attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
    elif attn_mask is not None:
        scores = scores + attn_mask
    pattern = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    pattern = torch.dropout(pattern, dropout_p, dropout_p > 0)
    return torch.matmul(pattern, value)
