"""Where a value that was written into a run may come from: the donors of a patch.

A patch that replaces a whole state by another run's makes everything later equal to the donor's.
To say so, nbsight must know that what was written does not depend on the state it replaced. That is
sure of a tensor that was there before the run began: it was saved in another run, or a name on the
line holds it that the block does not bind. It is also sure of what another invoke has bound without
waiting for this one. Of everything else nothing is said.
"""

from __future__ import annotations

import dis
import linecache
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

import torch

from nbsight.core.by_identity import ByIdentity
from nbsight.core.saving import Saved, find_saved, newest_saved, plain_of
from nbsight.core.scope import Names
from nbsight.core.sites import Line, locate

if TYPE_CHECKING:
    from nbsight.core.asked import Asked
    from nbsight.core.participant import Participant

__all__ = ["Donor", "donor_of", "donors_near", "writes"]

#: So many saved tensors are looked at, the newest first, and so many of one place are compared.
LOOKED_AT, COMPARED = 256, 16

#: Entries of a list or dictionary on the line that are looked at.
ENTRIES = 64


@dataclass(frozen=True, eq=False)
class Donor:
    """A tensor that may have been written.

    Args:
        tensor: The tensor itself.
        name: What to call it in a message.
        is_independent: Whether it is sure not to depend on what this run computes.
        record: What is known of it if it was saved.
    """

    tensor: torch.Tensor
    name: str
    is_independent: bool
    record: Saved | None

    def length(self) -> tuple[int, Any] | None:
        """The number of tokens of the prompt that it was saved from, and the tokens."""
        tokens = self.record.tokens() if self.record is not None and self.record.tokens else None
        return (len(tokens), tokens) if tokens else None


def donor_of(tracer: Asked, participant: Participant, line: Line | None, value: Any) -> Donor | None:
    """What is known of a tensor that was assigned; None if it is not sure to be another run's."""
    if not isinstance(value, torch.Tensor):
        return None
    plain = plain_of(value)
    for name, found, origin in _named(tracer, participant, line):
        if found is value or (isinstance(found, torch.Tensor) and plain_of(found) is plain):
            return _donor(tracer, found, name, origin)
    record = find_saved(value) or find_saved(plain)
    if record is None and plain._is_view():
        record = find_saved(plain._base)
    return None if record is None else _saved_donor(tracer, value, record)


def donors_near(tracer: Asked, participant: Participant, line: Line | None, envoy: Any) -> Iterator[Donor]:
    """The tensors that a change in place at this line may have copied."""
    seen: set[int] = set()
    for name, value, origin in _named(tracer, participant, line):
        for label, tensor in _tensors(name, value):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield _donor(tracer, tensor, label, origin if tensor is value else _UNKNOWN)
    compared = 0
    for record in newest_saved(LOOKED_AT):
        tensor = record()
        if tensor is None or id(tensor) in seen or not _is_from(record, envoy):
            continue
        compared += 1
        yield _saved_donor(tracer, tensor, record)
        if compared == COMPARED:
            return


def _donor(tracer: Asked, tensor: torch.Tensor, name: str, origin: str) -> Donor:
    plain = plain_of(tensor)
    record = find_saved(tensor) or find_saved(plain)
    sure = origin == _INVOKE
    if origin == _BEFORE:  # and not changed in place since: then it may hold anything by now
        sure = not plain.is_inference() and plain._version == 0
    return Donor(plain, f"`{name}`", sure or _is_others(tracer, plain, record), record)


def _saved_donor(tracer: Asked, tensor: torch.Tensor, record: Saved) -> Donor:
    name = f"the value saved on line {locate(record.line)[1]}"
    return Donor(plain_of(tensor), name, _is_others(tracer, plain_of(tensor), record), record)


def _is_others(tracer: Asked, tensor: torch.Tensor, record: Saved | None) -> bool:
    """Whether a tensor was saved in another run and left as it was."""
    if record is None or (record.version is not None and record.version != tensor._version):
        return False
    return not any(record is own for _, own in tracer.saved[tracer.saved_before :])


def _is_from(record: Saved, envoy: Any) -> bool:
    if record.origin is None:
        return False
    place, what, _ = record.origin
    return what == "output" and place._path == envoy._path and place._root._family is envoy._root._family


def _tensors(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """A tensor, or the saved tensors in a list, tuple or dictionary."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif type(value) in (list, tuple, dict):
        entries = value.items() if type(value) is dict else enumerate(value)
        for place, (key, item) in enumerate(entries):
            if place == ENTRIES:
                return
            if isinstance(item, torch.Tensor) and find_saved(item) is not None:
                yield f"{name}[{key!r}]", item


# -- the names on a line ---------------------------------------------------------------------------


#: Where the value of a name comes from: from before the run, from an invoke that has not waited
#: for another, or from anywhere.
_BEFORE, _INVOKE, _UNKNOWN = "before", "invoke", "unknown"


def _named(tracer: Asked, participant: Participant, line: Line | None) -> Iterator[tuple[str, Any, str]]:
    """The names on a line, what they hold, and where that comes from."""
    if line is None:
        return
    code, words = line[0], _words(line)
    names = getattr(participant, "names", None)
    if isinstance(names, Names):
        # A timed cell has no text that could be found later: then any name that the body reads.
        for word in words or sorted(participant.block.loads):  # type: ignore[attr-defined]
            yield from _in_invoke(tracer, participant, names, word)
        return
    frame = tracer.frame
    if frame is None or frame.f_code is not code:
        return
    for word, value in _values(frame, words):
        if isinstance(value, (torch.Tensor, list, tuple, dict)):
            is_bound = _is_bound_after(code, word, tracer)
            yield word, value, _UNKNOWN if is_bound else _BEFORE


def _values(frame: FrameType, words: list[str]) -> list[tuple[str, Any]]:
    """What the words mean in a frame."""
    values, outer = frame.f_locals, frame.f_globals
    found = [(word, values[word] if word in values else outer.get(word)) for word in words]
    if sys.version_info < (3, 13) and values is not outer and frame.f_code.co_flags & 0x1:
        values.clear()  # a copy that the frame keeps, and every tensor in it, until it returns
    return found


def _in_invoke(tracer: Asked, participant: Any, names: Names, word: str) -> Iterator[tuple[str, Any, str]]:
    """What a name means in a captured body; asks nobody who would have to be waited for."""
    if word in names:
        yield word, names[word], _UNKNOWN
        return
    run = tracer.run
    crew = getattr(run.serve, "__self__", None) if run is not None else None
    for other in reversed(getattr(crew, "workers", ())):
        if other is not participant and word in other.block.stores and word in other.names:
            # What waited for a name may have waited for one of this body's.
            yield word, other.names[word], _INVOKE if other.got_from is None else _UNKNOWN
            return
    if word in names.values_at_capture:
        yield word, names.values_at_capture[word], _BEFORE
    elif word in names.outer:
        yield word, names.outer[word], _BEFORE


#: For each code object, the words on the lines that were asked for.
_lines: ByIdentity[dict[int, list[str]]] = ByIdentity()


def _words(line: Line) -> list[str]:
    """What may be names on a line."""
    code, offset = line
    lines = _lines.get(code)
    if lines is None:
        lines = _lines.put(code, {})
    if offset not in lines:
        text = linecache.getline(*locate(line))
        lines[offset] = list(dict.fromkeys(re.findall(r"(?<![\w.])[A-Za-z_]\w*", text)))
    return lines[offset]


def writes(line: Line) -> bool:
    """Whether a line looks like one that changes a value in place."""
    code, offset = line
    known = _writes.get(code)
    if known is None:
        known = _writes.put(code, {})
    if offset not in known:
        text = linecache.getline(*locate(line))
        known[offset] = re.search(r"\]\s*=(?!=)|[-+*/@%&|^]=|\.\w*[a-z]_\(", text) is not None
    return known[offset]


#: The same for each code object, by the place in it.
_writes: ByIdentity[dict[int, bool]] = ByIdentity()


#: For each code object, where each name is bound last.
_stores: ByIdentity[dict[str, int]] = ByIdentity()


def _is_bound_after(code: CodeType, name: str, tracer: Asked) -> bool:
    """Whether the code from the trace's `with` statement on binds a name."""
    stores = _stores.get(code)
    if stores is None:
        stores = _stores.put(code, {})
        for step in dis.get_instructions(code):
            if step.opname.startswith("STORE_") and step.opname not in ("STORE_ATTR", "STORE_SUBSCR"):
                bound = step.argval if isinstance(step.argval, tuple) else (step.argval,)
                stores.update((each, step.offset) for each in bound if isinstance(each, str))
    return stores.get(name, -1) > (tracer._habit[1] if tracer._habit is not None else -2)
