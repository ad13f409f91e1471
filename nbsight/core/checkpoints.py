"""Activation checkpoints (`torch.utils.checkpoint`), whose forward runs a second time.

The backward pass computes a checkpoint's part again, and nobody edits that second run: gradients
would be those of another forward. So where gradients are recorded, an edit in there is refused.
"""

from __future__ import annotations

from types import FrameType

from torch.utils import checkpoint

__all__ = ["ASK_LATER", "is_in_checkpoint", "refusal"]

_FILE = checkpoint.__file__

#: What to say of torch's error when a checkpoint's second run saves other tensors than its first.
ASK_LATER = (
    "this block computed with values while the model stood inside an activation checkpoint "
    "(torch.utils.checkpoint), which the backward pass runs again and must find the same. Read the values "
    "there and compute with them after the next read further on, or turn checkpointing off "
    "(`gradient_checkpointing_disable()` in transformers)."
)


def is_in_checkpoint(frame: FrameType | None) -> bool:
    """Whether a model that is held in `frame` stands inside of a checkpoint."""
    while frame is not None:
        if frame.f_code.co_filename == _FILE:
            return True
        frame = frame.f_back
    return False


def refusal(place: str, lines: str) -> str:
    """What to say of an edit in a checkpoint.

    Args:
        place: The place as the user writes it.
        lines: The user's lines, each on a new one.
    """
    return (
        f"`{place}` lies inside an activation checkpoint (torch.utils.checkpoint), and this trace records "
        "gradients: the backward pass runs that part again without the edit, so they would be wrong."
        f"{lines}\nTurn checkpointing off (`gradient_checkpointing_disable()` in transformers), or give "
        "`grad=False`."
    )
