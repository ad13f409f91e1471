"""Who asked for what the model had passed, and the one line that says what it cost."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbsight.core.participant import Reached, place_of
from nbsight.core.sites import locate
from nbsight.errors import OrderNotice

if TYPE_CHECKING:
    from nbsight.core.sites import Site

__all__ = ["Extra", "Late", "say"]


@dataclass(frozen=True)
class Late:
    """Somebody who asks for a place that the run has passed.

    Args:
        participant: Who asks.
        asked: The place and the line.
        last: What had been reached before it; None when the model had run to its end.
        stood: Where the model stood then, while that is needed.
    """

    participant: Any
    asked: Reached
    last: Reached | None
    stood: Site | None = None


@dataclass(frozen=True)
class Extra:
    """A read out of order that was answered.

    Args:
        late: Who asked for what.
        leader: The one for whom the second forward was begun; others read in it too.
    """

    late: Late
    leader: Late


#: By file: the lines that have been told already, as `warnings` keeps them.
_told: dict[str, dict[Any, Any]] = {}


def say(extras: Sequence[Extra]) -> None:
    """Say on one line for each line of the block what it read out of order and what that cost."""
    lines: dict[tuple[str, int], list[Extra]] = {}
    for extra in extras:
        lines.setdefault(locate(extra.late.asked[2]), []).append(extra)
    for (filename, number), found in lines.items():
        warnings.warn_explicit(
            _sentence(found), OrderNotice, filename, number, registry=_told.setdefault(filename, {})
        )


def _sentence(found: list[Extra]) -> str:
    late, leader = found[0].late, found[0].leader
    text = f"read `{place_of(late.asked)}` after "
    if late.last is not None:
        text += f"`{place_of(late.last)}` (line {locate(late.last[2])[1]})"
    else:
        text += "the end of the model"
    if len(found) > 1:
        text += f" and {len(found) - 1} more of this line out of order"
    count = sum(extra.late.asked is extra.leader.asked for extra in found)
    if count == 0:
        return f"{text}: in the extra forward of line {locate(leader.asked[2])[1]}"
    return f"{text}: " + ("one extra forward" if count == 1 else f"{count} extra forwards")
