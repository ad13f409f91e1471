"""Tracebacks, and whose code stands in them: ours, torch's or the user's."""

from __future__ import annotations

import os
from collections.abc import Iterable
from types import TracebackType

import torch

__all__ = ["entries_of", "is_own", "is_torch", "joined", "users_part", "without_own"]

_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def entries_of(trace: TracebackType | None) -> list[TracebackType]:
    """The entries of a traceback, the outermost first."""
    entries = []
    while trace is not None:
        entries.append(trace)
        trace = trace.tb_next
    return entries


def joined(entries: Iterable[TracebackType]) -> TracebackType | None:
    """A traceback of these entries, the outermost first."""
    result = None
    for entry in reversed([*entries]):
        result = TracebackType(result, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return result


def is_own(entry: TracebackType) -> bool:
    """Whether it stands in this package's code."""
    return entry.tb_frame.f_code.co_filename.startswith(_OWN)


def is_torch(entry: TracebackType) -> bool:
    """Whether it stands in torch's code."""
    return entry.tb_frame.f_code.co_filename.startswith(_TORCH)


def without_own(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without this package's entries; None if there are no others."""
    return joined(entry for entry in entries_of(trace) if not is_own(entry))


def users_part(trace: TracebackType | None) -> TracebackType | None:
    """A traceback from the first entry on that is not this package's."""
    return next((entry for entry in entries_of(trace) if not is_own(entry)), trace)
