"""What a runner and its worker say to each other: one line of JSON each, of checked form.

The runner asks and the worker answers, one question at a time; output is sent without an answer.
Numbers of tensors lie in shared memory (`memory.py`), a message says where.
"""

from __future__ import annotations

import os
import struct
from typing import Any, Literal

import msgspec

from nbsight.wire.api import ErrorRecord

__all__ = [
    "Answer",
    "Call",
    "Done",
    "Drop",
    "Event",
    "Failed",
    "Go",
    "Job",
    "LineEnded",
    "Log",
    "Part",
    "Progress",
    "Question",
    "Ready",
    "WireError",
    "read_frame",
    "write_frame",
]

#: Bytes of a message, at most; what is larger lies in shared memory.
LONGEST = 8 * 2**20

_LENGTH = struct.Struct("<I")


class WireError(Exception):
    """The other side said what it may not say."""


class LineEnded(Exception):
    """The other side is gone."""


class _Word(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="do"):
    pass


class _Stops(_Word, frozen=True):
    """What goes on with a model's call.

    Args:
        id: The call; the runner counts them.
        gated: Modules of which it wants to know when they are called, by number.
        before: Modules before which the model is to stop.
        after: Modules after which it is.
        random: Where the runner's state of random numbers lies, if it has changed.
    """

    id: int
    gated: list[int] = []
    before: list[int] = []
    after: list[int] = []
    random: int | None = None


class Ready(_Word, frozen=True, tag="ready"):
    """The runner is locked and wants its job."""


class Call(_Stops, frozen=True, tag="call"):
    """Call a module, or the model's `generate`.

    Args:
        module: Its number.
        given: Arguments and keyword arguments, as `values.py` writes them.
        chooses: Whether the runner wants to be asked after each choice of tokens.
    """

    module: int = 0
    method: Literal["forward", "generate"] = "forward"
    given: Any = None
    chooses: bool = False


class Go(_Stops, frozen=True, tag="go"):
    """Go on from where the model stopped, with this value; `skip`: it is what the module returns."""

    value: Any = None
    skip: bool = False


class Drop(_Word, frozen=True, tag="drop"):
    """Unwind a call."""

    id: int


class Log(_Word, frozen=True, tag="log"):
    """Something was printed, or warned of."""

    stream: Literal["out", "err", "warning"]
    text: str
    category: str = ""
    filename: str = ""
    line: int = 0


class Progress(_Word, frozen=True, tag="progress"):
    """A bar."""

    text: str


class Part(_Word, frozen=True, tag="part"):
    """The next bytes of the result lie in the shared memory, from its start."""

    size: int


class Done(_Word, frozen=True, tag="done"):
    """The result is whole; its first bytes are the header."""

    header: int


class Failed(_Word, frozen=True, tag="failed"):
    """The block failed."""

    error: ErrorRecord


Question = Ready | Call | Go | Drop | Log | Progress | Part | Done | Failed


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the model stands.

    Args:
        kind: Before a module, after one, where tokens were chosen, at its end, or with an error.
        module: Its number.
        value: Arguments or output.
        error: What the model raised.
    """

    kind: Literal["enter", "leave", "choose", "returned", "raised"]
    module: int = -1
    value: Any = None
    error: ErrorRecord | None = None


class Job(msgspec.Struct, frozen=True, omit_defaults=True):
    """A part of the job lies in the shared memory.

    Args:
        size: Its bytes.
        left: The bytes of the job that are still to come.
        header: The bytes of its header.
    """

    size: int
    left: int
    header: int


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the worker says.

    Args:
        trail: Modules that were called on the way and not stopped at: `number` when one was entered,
            `-1 - number` when it was left.
        event: Where the model stands now.
        job: A part of the job.
        random: Where the worker's state of random numbers lies, if it has changed.
    """

    trail: list[int] = []
    event: Event | None = None
    job: Job | None = None
    random: int | None = None


def write_frame(descriptor: int, data: bytes) -> None:
    """Send a message.

    Raises:
        WireError: it is too long.
        LineEnded: nobody reads it.
    """
    if len(data) > LONGEST:
        raise WireError(f"a message of {len(data):,} bytes; {LONGEST:,} are the most")
    whole = memoryview(_LENGTH.pack(len(data)) + data)
    try:
        while whole:
            whole = whole[os.write(descriptor, whole) :]
    except (BrokenPipeError, ConnectionError):
        raise LineEnded from None


def read_frame(descriptor: int) -> bytes:
    """The next message.

    Raises:
        WireError: it is too long.
        LineEnded: there is none, or it is cut off.
    """
    size = _LENGTH.unpack(_read(descriptor, _LENGTH.size))[0]
    if size > LONGEST:
        raise WireError(f"a message of {size:,} bytes was announced; {LONGEST:,} are the most")
    return _read(descriptor, size)


def _read(descriptor: int, size: int) -> bytes:
    parts, left = [], size
    while left:
        try:
            part = os.read(descriptor, min(left, 2**20))
        except ConnectionError:
            raise LineEnded from None
        if not part:
            raise LineEnded
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
