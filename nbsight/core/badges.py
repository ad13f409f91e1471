"""Badges: what an edit may not have meant, said on one line that points at the user's line.

Each gives an `EditWarning`, once for each line of code and kind, as Python's own warnings are. Tests
that a GPU has to answer are asked at once and read when the trace ends (`Question.answer`).
"""

from __future__ import annotations

import linecache
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from nbsight.core.measuring import is_plain
from nbsight.core.sites import describe
from nbsight.errors import EditWarning

if TYPE_CHECKING:
    from nbsight.core.donors import Donor

__all__ = [
    "Question",
    "all_positions_alike",
    "late",
    "nothing_changed",
    "say",
    "spread",
    "taken_from",
    "taken_positions",
    "whole_state",
]


@dataclass(frozen=True, eq=False)
class Question:
    """A question that is answered when the trace ends.

    Args:
        kind: Which badge, so that one line gives each at most once.
        facts: A tensor of truth values; None if the answer is known.
        text: The line to say for what the facts turn out to be; None to say nothing.
    """

    kind: str
    facts: torch.Tensor | None
    text: Callable[[Any], str | None]

    def answer(self) -> str | None:
        """The line to say."""
        return self.text(None if self.facts is None else self.facts.tolist())


def nothing_changed(place: str) -> str:
    """The edit wrote what was there."""
    return f"this edit changed nothing: what was written to `{place}` equals what was there"


# -- what can be seen of a state -------------------------------------------------------------------


def all_positions_alike(state: torch.Tensor, path: str) -> Question | None:
    """Whether every position of a state, (batch, position, d_model), now holds the same vector."""
    if state.device.type == "cpu":  # a look at two elements, where looking costs little
        first, last = state[-1, :: state.shape[1] - 1, -1].tolist()
        if first != last:
            return None
    text = (
        f"this edit leaves the same vector at all {state.shape[1]} positions after `{path}`, so nothing "
        "later depends on the tokens; to edit one position write `...output[0][:, -1] = ...`"
    )
    return Question("alike", (state[:, 1:] == state[:, :1]).all(), lambda yes: text if yes else None)


def whole_state(state: torch.Tensor, donor: Donor, path: str, *, written: bool) -> Question | None:
    """Whether a state, (batch, position, d_model), is a donor's as a whole.

    Args:
        state: What the model goes on with.
        donor: Where it may come from; surely not from this run.
        path: The block.
        written: Whether it is known that the donor was written there.
    """
    tensor, name = donor.tensor, donor.name
    if tensor.shape != state.shape and tensor.shape != (1, *state.shape[1:]):
        return None
    text = (
        f"this edit replaces the whole state after `{path}` by {name}, so everything later equals the "
        "donor's by construction; to patch one position write `...output[0][:, -1] = ...[:, -1]`"
    )
    if written:
        return Question("whole", None, lambda _: text)
    if not _comparable(state, tensor) or not _may_equal(state, tensor):
        return None
    return Question("whole", (state == tensor).all(), lambda yes: text if yes else None)


def taken_positions(state: torch.Tensor, donor: Donor, tokens: Any, path: str) -> Question | None:
    """Whether positions of a state were taken from a donor of another length, counted from the start.

    Args:
        state: What the model goes on with, (batch, position, d_model).
        donor: A state that was saved from another prompt.
        tokens: Finds this prompt's tokens.
        path: The block.
    """
    tensor = donor.tensor
    if tensor.ndim != 3 or tensor.shape[2] != state.shape[2] or tensor.shape[1] == state.shape[1]:
        return None
    if tokens is None or not _comparable(state, tensor) or tensor.shape[0] not in (1, state.shape[0]):
        return None
    shared = min(tensor.shape[1], state.shape[1])
    facts = (state[:, :shared] == tensor[:, :shared]).all(-1).all(0)

    def text(same: list[bool]) -> str | None:
        own, other = tokens(), donor.length()
        if not any(same) or not own or other is None:
            return None
        # Where both prompts begin alike their states are alike without any edit.
        alike = next((i for i in range(shared) if own[i : i + 1] != other[1][i : i + 1]), shared)
        taken = [place for place in range(alike, shared) if same[place]]
        if not taken or len(own) == other[0]:
            return None
        place = f"position {taken[0]}" if len(taken) == 1 else f"positions {taken[0]} to {taken[-1]}"
        return (
            f"this edit of `{path}` takes {place} from the same place of {donor.name}, whose prompt has "
            f"{other[0]} tokens and not {len(own)}: counted from the start they need not correspond; count "
            "from the end (`[:, -1]`) or use prompts of equal length"
        )

    return Question("length", facts, text)


# -- what is known of an assigned value ------------------------------------------------------------


def taken_from(place: str, written: Any, donor: Donor | None, tokens: Any) -> Question | None:
    """Whether what was assigned is a donor from a prompt of another length, cut to fit."""
    if donor is None or donor.record is None or tokens is None or not isinstance(written, torch.Tensor):
        return None
    if written.ndim < 3:
        return None
    width = written.shape[1]

    def text(_: Any) -> str | None:
        own, other = tokens(), donor.length()
        if not own or other is None or len(own) == other[0] or len(own) != width:
            return None
        return (
            f"what was assigned to `{place}` is {donor.name} cut to fit: its prompt has {other[0]} tokens "
            f"and this one {len(own)}, so their positions need not correspond; use prompts of equal length, "
            "or patch positions counted from the end (`[:, -1]`)"
        )

    return Question("length", None, text)


def spread(place: str, before: Any, after: Any) -> Question | None:
    """What to say of a tensor that torch will spread over the positions of the one it replaces."""
    if not (isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor)):
        return None
    if before.shape == after.shape or before.ndim < 2 or after.ndim > before.ndim or not after.ndim:
        return None
    shape = (1,) * (before.ndim - after.ndim) + tuple(after.shape)
    if any(own not in (1, there) for own, there in zip(shape, before.shape, strict=True)):
        return None
    if all(own == there for own, there in zip(shape[1:], before.shape[1:], strict=True)):
        return None  # one row for all prompts: a donor
    text = (
        f"`{place}`, {describe(before)}, was assigned {describe(after)}, which torch spreads over the rest "
        f"of it; if that is meant write `value.expand{tuple(before.shape)}`"
    )
    return Question("spread", None, lambda _: text)


def late(place: str) -> str:
    """A value was changed after the model had gone on from it."""
    return (
        f"the value read here from `{place}` was changed in place after the model had gone on, so what was "
        "computed since does not see the change; change it before the next value is read"
    )


# -- helpers ---------------------------------------------------------------------------------------


def _comparable(state: torch.Tensor, other: torch.Tensor) -> bool:
    if not is_plain(other) or other.device != state.device:
        return False
    # The same memory: the state itself.
    return other.data_ptr() != state.data_ptr()


def _may_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """A quick look at one element, where looking costs little."""
    if one.device.type != "cpu" or not one.numel() or not other.numel():
        return True
    return bool(one[-1, -1, -1] == other[-1, -1, -1])


def say(text: str, kind: str, filename: str, number: int, names: dict[str, Any]) -> None:
    """Warn at a line of the user's, once for each line and kind.

    Args:
        names: The globals of the code there, where Python keeps what it has warned of.
    """
    filename = _cell_name(filename)
    seen = names.setdefault("__warningregistry__", {})
    mark, entry = (kind, filename, number), (text, EditWarning, number)
    if seen.get(mark):
        # Python compares texts, and the text may name another layer in each turn of a loop.
        seen[entry] = 1
    module = str(names.get("__name__", filename))
    if module.startswith("nbsight."):  # a block that was sent elsewhere has our names around it
        module = filename
    warnings.warn_explicit(text, EditWarning, filename, number, module=module, registry=seen)
    if seen.get(entry):
        seen[mark] = 1


def _cell_name(filename: str) -> str:
    """A notebook's cell as its reader knows it, `Cell In[3]`, and not the file that it has at run time."""
    shell = getattr(getattr(sys.modules.get("IPython"), "core", None), "getipython", None)
    shell = shell.get_ipython() if shell is not None else None
    named = getattr(getattr(shell, "compile", None), "format_code_name", lambda _: None)(filename)
    if named is None:
        return filename
    name = " ".join(named)
    lines = linecache.getlines(filename)
    # Warnings show the line, and look for it under the name that they print.
    linecache.cache[name] = (sum(map(len, lines)), None, lines, name)
    return name
