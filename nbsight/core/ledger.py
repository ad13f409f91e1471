"""The ledger of a trace: what each edit did, measured when it is made, read when somebody looks.

Only edits come here, so a trace that edits nothing has no ledger. An assignment has the old and the
new value at hand and is measured. A change in place is known only by the tensor's count of changes,
after the old numbers are gone; they are there to compare with when the trace was asked for
`receipts=True` (`recording.py`).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch

from nbsight.core import badges
from nbsight.core.badges import Question
from nbsight.core.batching import tensors_in
from nbsight.core.donors import donor_of, donors_near, writes
from nbsight.core.measuring import (
    Change,
    Pair,
    compare,
    is_plain,
    is_same_but_tensors,
    memory_of,
    pairs_of,
)
from nbsight.core.quiet import quietly
from nbsight.core.receipts import Receipt, Receipts
from nbsight.core.saving import plain_of
from nbsight.core.sites import UNSEEN, Line, Site, describe, describe_as, locate, show_line, show_text
from nbsight.errors import EditError

if TYPE_CHECKING:
    from nbsight.core.asked import Asked
    from nbsight.core.participant import Participant
    from nbsight.core.run import Run

__all__ = ["Ledger", "ledger_of", "shared_error"]


class _Entry:
    """One edit; a receipt is made of it when somebody asks for one."""

    __slots__ = ("change", "facts", "line", "may_be_nothing", "notes", "numbers", "questions")

    def __init__(self, facts: tuple[Any, ...], line: Line | None, change: Change | None) -> None:
        #: path, kind, how, visit, step, before, after
        self.facts = facts
        self.line = line
        #: The numbers before and after they are read.
        self.change = change
        self.numbers: tuple[float | None, float | None, float | None] = (None, None, None)
        #: What is to be asked when the trace ends, and what there is to say.
        self.questions: list[Question | None] = []
        self.notes: dict[str, str] = {}
        #: Whether equal numbers mean that nothing was changed.
        self.may_be_nothing = True

    @property
    def place(self) -> str:
        """The place as it is written in a trace."""
        return f"{self.facts[0]}.{self.facts[1]}"

    def read(self) -> None:
        """Read the numbers and answer the questions; let go of the tensors."""
        change, self.change = self.change, None
        questions, self.questions = self.questions, []
        with suppress(RuntimeError):  # the device failed after the edit; that has its own error
            if change is not None:
                self.numbers = change.read()
            if self.numbers[0] == 0:
                if self.may_be_nothing:
                    self.notes["nothing"] = badges.nothing_changed(self.place)
                return
            for question in questions:
                if question is not None and (text := question.answer()) is not None:
                    self.notes.setdefault(question.kind, text)
            if "whole" in self.notes:
                self.notes.pop("length", None)

    def receipt(self) -> Receipt:
        """The edit as plain numbers and text."""
        path, kind, how, visit, step, *values = self.facts
        before, after = (value if type(value) is str else describe_as(*value) for value in values)
        filename, number = ("", 0) if self.line is None else locate(self.line)
        text = show_text(filename, number).partition(": ")[2]
        numbers, notes = self.numbers, tuple(self.notes.values())
        return Receipt(path, kind, how, visit, step, number, text, before, after, *numbers, notes)


def _noted(
    name: Any, module: Any, kind: str, visit: int, step: int | None, sketch: Any, block: Any, *lines: Any
) -> _Entry:
    """The entry of a change in place of which only the place is known."""
    facts = (name(module), kind, "in place", visit, step, sketch, sketch)
    return _Entry(facts, _changing(block, *lines), None)


class Ledger:
    """The edits of one trace."""

    def __init__(self, tracer: Asked) -> None:
        self._tracer: Asked | None = tracer
        #: A change of which only the place is known is noted, and made an entry when somebody asks.
        self._entries: list[_Entry | tuple[Any, ...]] = []
        self._read = 0
        #: What is to be said at the end: (text, kind, line).
        self._said: list[tuple[str, str, Line | None]] = []

    # -- writing -------------------------------------------------------------------------------

    def assigned(
        self, participant: Participant, site: Site, envoy: Any, before: Any, after: Any, value: Any
    ) -> None:
        """A value was replaced.

        Args:
            before: What was there in the participant's rows.
            after: What the model goes on with.
            value: What the user wrote.
        """
        tracer = self._tracer
        if tracer is None or tracer.run is None or tracer.run.behind is not None:
            return  # a forward that only repeats another, and its kept edits
        with quietly():
            pairs = pairs_of(before, after)
            old, new = pairs[0] if pairs is not None and len(pairs) == 1 else (before, after)
            entry = self._add(site, "assigned", old, new, self._change(before, pairs))
            entry.may_be_nothing = is_same_but_tensors(before, after) and not any(
                new.requires_grad
                for _, new in pairs or ()  # it may be there for its gradient
            )
            path, tokens = entry.facts[0], participant.tokens
            written = value[0] if isinstance(value, (tuple, list)) and value else value
            donor = donor_of(tracer, participant, site.line, written)
            entry.questions = [
                badges.spread(entry.place, before, after),
                badges.taken_from(entry.place, written, donor, tokens),
            ]
            state = self._state(site, envoy, after)
            if state is not None:
                entry.questions.append(badges.all_positions_alike(state, path))
                if donor is not None and donor.is_independent:
                    entry.questions.append(badges.whole_state(state, donor, path, written=True))

    def changed(self, participant: Participant, run: Run, site: Site, tensors: list[torch.Tensor]) -> None:
        """A participant has changed some tensors of a value in place, or what a container holds."""
        tracer = self._tracer
        if tracer is None or run.behind is not None:
            return  # a forward that only repeats another
        before = run.copied(participant, site)
        last = participant.last
        if (
            before is None
            and last is not None
            and last[0]._module is site.module
            and site.version is not None
            and participant in site.views
            and not getattr(last[0], "_holds_state", False)
        ):  # one of a hundred invokes, say: nothing is computed, so all the rest has time
            self._note(participant, run, site, last)
            return
        line, view = _line_of(participant, site), _seen(participant, site)
        memory = set(map(memory_of, tensors)) or None
        with quietly():
            mine = [one for one in tensors_in(view) if memory is not None and memory_of(one) in memory]
            what = mine[0] if len(mine) == 1 else mine or view
            pairs = None if before is None else pairs_of(before, view, memory)
            entry = self._add(site, "in place", what, what, self._change(before, pairs))
            entry.line = line
            envoy = _envoy_at(tracer, participant, site)
            state = self._state(site, envoy, view)
            if state is None:
                return
            path, tokens = entry.facts[0], participant.tokens
            entry.questions.append(badges.all_positions_alike(state, path))
            for donor in donors_near(tracer, participant, line, envoy):
                if donor.is_independent:
                    entry.questions.append(badges.whole_state(state, donor, path, written=False))
                    entry.questions.append(badges.taken_positions(state, donor, tokens, path))

    def _note(self, participant: Participant, run: Run, site: Site, last: Any) -> None:
        tracer = self._tracer
        assert tracer is not None
        step = run.passes - 1 if tracer.method != "forward" else None
        sketch, block = _sketch(site.views[participant]), getattr(participant, "block", None)
        self._entries.append(
            (run.name, site.module, site.kind, site.visit, step, sketch, block, last[2], site.line)
        )

    def left(self, participant: Participant, run: Run, site: Site) -> None:
        """What was changed, by who acted last, and by those who put other items into a container."""
        tensors = site.newly_changed()
        if tensors or site.holds_other_items:
            self.changed(participant, run, site, tensors)
        for who in site.refillers():
            self.changed(who, run, site, [])

    def skipped(self, site: Site, value: Any) -> None:
        """The call of a module was replaced."""
        self._add(site, "skipped", None, value, None)

    def too_late(self, path: str, line: Line | None) -> None:
        """A value was changed in place when the model had gone on from it."""
        self._said.append((badges.late(path), "late", line))

    def _change(self, before: Any, pairs: list[Pair] | None) -> Change | None:
        if pairs:
            return compare(pairs)
        # The very objects that were there.
        elements = 0 if pairs is None else sum(tensor.numel() for tensor in tensors_in(before))
        return Change(elements, [torch.tensor(elements)], [], []) if elements else None

    def _add(self, site: Site, how: str, before: Any, after: Any, change: Change | None) -> _Entry:
        tracer = self._tracer
        assert tracer is not None
        run = tracer.run
        assert run is not None
        step = run.passes - 1 if tracer.method != "forward" else None
        kind = "output" if how == "skipped" else site.kind
        there, now = _sketch(before), _sketch(after)
        facts = (run.name(site.module), kind, how, site.visit, step, there, now)
        entry = _Entry(facts, site.line, change)
        self._entries.append(entry)
        return entry

    def _state(self, site: Site, envoy: Any, view: Any) -> torch.Tensor | None:
        """The state after a block, (batch, position, d_model), where the whole rest depends on it."""
        tracer = self._tracer
        assert tracer is not None
        if site.kind != "output" or not getattr(envoy, "_holds_state", False):
            return None
        if tracer.method != "forward" or tracer._fills_cache:
            return None  # earlier positions go on in the cache
        state = plain_of(envoy._show("output", view))
        if not is_plain(state) or state.ndim != 3 or state.shape[1] < 2 or not state.numel():
            return None
        return state.detach()

    # -- reading -------------------------------------------------------------------------------

    def receipts(self) -> Receipts:
        """The receipts so far."""
        self._settle()
        entries = [entry if isinstance(entry, _Entry) else _noted(*entry) for entry in self._entries]
        self._entries = [*entries]
        return Receipts(entry.receipt() for entry in entries)

    def _settle(self) -> None:
        entries, self._read = self._entries[self._read :], len(self._entries)
        for entry in entries:
            if not isinstance(entry, _Entry):
                continue
            entry.read()
            self._said += [(text, kind, entry.line) for kind, text in entry.notes.items()]

    def say(self, names: dict[str, Any]) -> None:
        """Warn of what the edits may not have meant.

        Args:
            names: The globals of the block.
        """
        self._settle()
        said, self._said = self._said, []
        for text, kind, line in said:
            if line is not None:
                badges.say(text, kind, *locate(line), names)

    def close(self) -> None:
        """The trace is over: keep numbers and text, and nothing of the run."""
        self._settle()
        self._said = []
        self._tracer = None


def ledger_of(tracer: Asked) -> Ledger | None:
    """The trace's ledger; None if it is to keep none."""
    if tracer.receipts is False or tracer.done:
        return None
    if tracer.ledger is None:
        tracer.ledger = Ledger(tracer)
    return tracer.ledger


def _seen(participant: Participant, site: Site) -> Any:
    """A participant's part of a value, as it is now."""
    rows = participant.rows
    if rows is None or rows.is_whole:
        return site.value if site.whole is UNSEEN else site.whole
    return site.views[participant] if participant in site.views else rows.narrow(site.value)


def _line_of(participant: Participant, site: Site) -> Line | None:
    """The line that changed the value at a site: one on which the participant asked for it.

    Only those are known. Of the first and the last it is the one that looks like a change; if both
    do, or none, the last.
    """
    block, last = getattr(participant, "block", None), site.line
    if participant.last is None or participant.last[0]._module is not site.module:
        return last
    return _changing(block, participant.last[2], last)


def _changing(block: Any, first: Line, last: Line | None) -> Line | None:
    """Of the first and the last line that asked for a value, the one that looks like a change."""
    if last is None or (block is not None and last[0] is not block.code):
        return first  # another participant asked last
    return first if writes(first) and not writes(last) else last


def _sketch(value: Any) -> Any:
    """What `describe` needs of a tensor, which few will ask for; the text for anything else."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.device
    return "" if value is None else describe(value)


def _envoy_at(tracer: Asked, participant: Participant, site: Site) -> Any:
    if participant.last is not None and participant.last[0]._module is site.module:
        return participant.last[0]
    root = tracer.root
    path = root._paths.get(id(site.module))
    return None if path is None else root._at(path)


def shared_error(
    run: Run, participant: Participant, site: Site, changed: list[torch.Tensor]
) -> EditError | None:
    """The error for a change in place, by one of several invokes, of what all of them share.

    Returns:
        None if every tensor that changed has the batch's rows.
    """
    rows = participant.rows
    if rows is None or rows.is_whole:
        return None
    shared = [tensor for tensor in changed if rows.index(tensor.shape) is None]
    if not shared:
        return None
    return EditError(
        f"`{run.name(site.module)}.{site.kind}` holds {describe(shared[0])}, which has no rows of the batch "
        f"(of {rows.total}): all invokes of this trace share it, and one of them changed it in place, for "
        f"every prompt.\n  {show_line(_line_of(participant, site))}\nTo change it for all, do it in an empty "
        "`with tracer.invoke():`; to change it for one prompt, give the prompt a trace of its own."
    )
