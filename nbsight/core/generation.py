"""One generation: its passes, and the tokens that they chose.

Whoever chooses tokens (for Hugging Face models: models/generation.py) tells `note` after each pass what
has been chosen. That is a place in the run like a module's output: a block may stop there, and what it
writes there is what the model goes on with.

A generation that streams its tokens, or draws from random numbers of its own, runs as an `ObservedRun`;
all others run as every call does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from nbsight.core.batching import Rows
from nbsight.core.run import Run
from nbsight.core.seeding import Numbers
from nbsight.core.sites import Site
from nbsight.core.steps import shown
from nbsight.core.token import Token
from nbsight.errors import InputError

if TYPE_CHECKING:
    from nbsight.core.tracer import Tracer

__all__ = ["CHOICE", "Generation", "Mark", "ObservedRun", "generation_of"]


class Mark(NamedTuple):
    """Where the ids of one pass stand.

    Args:
        ids: The ids that they are among; None for the newest.
        begin: The column at which the model began to write.
        start: The column of the first id of the pass.
        end: The column after its last.
    """

    ids: torch.Tensor | None
    begin: int
    start: int
    end: int


class _Choice:
    """The place in a run where a pass chooses its tokens; what a module is elsewhere."""

    _path = "generator.streamer"


CHOICE = _Choice()


class Generation:
    """What is known of one generation; this one knows its passes and no tokens.

    Attributes:
        on_token: Called with each `Token`, on the side of the user.
        seed: Where the model's random numbers begin; None leaves them alone.
        is_search: Whether the passes' rows are candidates, and which of them stay is known at the end.
    """

    on_token: Callable[[Token], Any] | None = None
    seed: int | None = None
    is_search = False
    #: Whether prompts of different lengths share the batch.
    is_ragged = False

    def __init__(self) -> None:
        self.tracer: Tracer | None = None
        self.run: Run | None = None
        self.passes = 0
        self._is_used = False
        self._forget()

    def _forget(self) -> None:
        #: The pass that chose last.
        self.last = -1
        self.first: int | None = None
        self._ids: torch.Tensor | None = None
        self._marks: dict[int, Mark] = {}
        self._newest: Mark | None = None
        #: For participants that let the model go on to the end of a step: that step.
        self.asked: dict[Any, int] = {}
        #: For each invoke's rows: the last choice that was looked at, and whether all had ended by then.
        self._over: dict[Rows, tuple[int, bool]] = {}
        #: What `on_token` raised.
        self.failed: BaseException | None = None

    # -- the life of a run ---------------------------------------------------------------------

    def fresh(self) -> Generation:
        """One that no run has used: this one, or a copy, so that steps keep what they know."""
        if not self._is_used:
            return self
        self.close()
        return copy.copy(self)

    def begin(self, tracer: Tracer, kwargs: dict[str, Any], rows: list[Rows]) -> list[Rows]:
        """A run with these arguments is about to start.

        Returns:
            Each invoke's rows of the passes' batch.
        """
        self._forget()
        self.tracer, self._is_used = tracer, True
        return rows

    def _own_result(self, rows: Rows, result: Any) -> Any:
        """One invoke's part of what the call returned."""
        assert self.tracer is not None
        return self.tracer.root._own_result(rows, result)

    def make_run(self, *args: Any, **kwargs: Any) -> Run:
        """The run, which takes what `Run` takes."""
        if self.on_token is None and self.seed is None:
            self.run = Run(*args, **kwargs)
        else:
            assert self.tracer is not None
            numbers = None if self.seed is None else Numbers(self.seed, self.tracer.root.devices)
            self.run = ObservedRun(self, numbers, *args, **kwargs)
        return self.run

    def close(self) -> None:
        """The trace is over: keep the tokens, and let go of the rest."""
        self._settle()
        if self.run is not None:
            self.passes = self.run.passes
        self.run = self.tracer = None
        self.asked, self.failed = {}, None

    def _settle(self) -> None:
        """If the run is over, let what it returned count more than what was noted on the way."""

    # -- the model's side ----------------------------------------------------------------------

    def note(self, ids: torch.Tensor, start: int) -> bool:
        """A pass has chosen.

        Args:
            ids: All ids so far, (row, position). Written to in place, they are what the model goes on with.
            start: The column of the first that this pass chose.

        Returns:
            Whether anybody may have chosen others.
        """
        run = self.run
        assert run is not None
        number = self.last = run.passes - 1
        if self.first is None:
            self.first = number
        if self.is_search:
            return False
        begin, newest = start, self._newest
        if newest is not None and newest.end <= start:
            begin = newest.begin
        elif newest is not None:  # a model that writes in several pieces has begun another
            marks = self._marks.items()
            self._marks = {
                at: mark._replace(ids=self._ids) if mark.ids is None else mark for at, mark in marks
            }
        self._ids = ids
        mark = self._marks[number] = self._newest = Mark(None, begin, start, ids.shape[1])
        run._visits[CHOICE] = number
        was_seen = CHOICE in run.wanted["output"]
        if was_seen:
            chosen = ids[:, start] if mark.end == start + 1 else ids[:, start:]
            site = run._stop(Site(CHOICE, "output", number, chosen))
            if site.value is not chosen:
                chosen.copy_(site.value)
        if self.on_token is not None:
            assert isinstance(run, ObservedRun)
            for column in range(start, mark.end):
                run.tell(number, column)
        return was_seen

    # -- the user's side -----------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether there may be more steps."""
        return self.run is not None and not self.run.ended

    @property
    def knows_tokens(self) -> bool:
        """Whether somebody says which tokens are chosen."""
        return False

    def count(self, rows: Rows | None) -> int:
        """The number of steps so far (for some rows: until all of them had ended)."""
        passes = self.passes if self.run is None else self.run.passes
        if rows is not None and not rows.is_whole and self.knows_tokens:
            while self.knows(passes - 1) and not any(self.chosen(passes - 1, rows)):
                passes -= 1
        return passes

    def reads_prompt(self, number: int) -> bool:
        """Whether a pass reads the prompt: nothing had been chosen before it."""
        if not self.knows_tokens:
            return number == 0
        return self.first is None or number <= self.first

    def knows(self, number: int) -> bool:
        """Whether the tokens of a pass are known already."""
        self._settle()
        return number in self._marks

    def chosen(self, number: int, rows: Rows | None) -> list[list[int] | None]:
        """The ids that a pass chose, one list a row; lets the model go on until they are known.

        Raises:
            InputError: nobody knows them.
        """
        if not self.knows(number):
            self._wait(number)
        if not self.knows(number):
            raise InputError(self._unknown(number))
        mark = self._marks[number]
        ids = self._ids if mark.ids is None else mark.ids
        assert ids is not None
        # Where an invoke's rows are not among these, it sees all of them, as with any value.
        index = rows.index(ids.shape) if rows is not None else None
        part = slice(None) if index is None else index[0]
        ended = self.had_ended(ids[part], mark.begin, mark.start)
        columns = ids[part, mark.start : mark.end].tolist()
        return [None if over else row for row, over in zip(columns, ended, strict=True)]

    def had_ended(self, ids: torch.Tensor, begin: int, column: int) -> list[bool]:
        """For each row, whether it had ended before a column; it began to be written at `begin`."""
        return [False] * len(ids)

    def width(self, rows: Rows | None) -> int:
        """The number of rows of which `chosen` tells."""
        ids = self._ids
        if ids is None:
            return 1
        return rows.size if rows is not None and rows.total == len(ids) else len(ids)

    def all_ended(self, rows: Rows | None) -> bool:
        """Whether all these rows have ended, while others of the batch go on."""
        ids, newest = self._ids, self._newest
        if rows is None or rows.is_whole or ids is None or newest is None:
            return False
        known = self._over.get(rows)
        if known is not None and (known[1] or known[0] == self.last):
            return known[1]
        index = rows.index(ids.shape)
        over = index is not None and all(self.had_ended(ids[index[0]], newest.begin, newest.end))
        self._over[rows] = (self.last, over)
        return over

    def _wait(self, number: int) -> None:
        run, tracer = self.run, self.tracer
        if run is None or tracer is None or not self.knows_tokens:
            return
        if self.is_search:
            raise InputError(
                "the rows of a beam search's passes are candidates, and which of them stay is known at its "
                "end. Ask for tokens after the block, or after `tracer.result`."
            )
        participant = tracer.participant()
        while self.last < number and not run.ended:
            participant.wait(run, (CHOICE, "output"))
        self.asked[participant] = number

    def _unknown(self, number: int) -> str:
        if not self.knows_tokens:
            return (
                "which tokens this generation chooses is not known; a `LanguageModel` with the `generate` of "
                "transformers knows them. `tracer.result` is what was returned."
            )
        if self.is_running:
            return f"step {int(number)} chose no token; the model had not read the whole prompt yet."
        return f"step {int(number)} chose no token: the generation ended before."

    def position(self, number: int, rows: Rows | None) -> int:
        """The position of the last token that a pass reads, counted from the prompt's own first."""
        raise InputError(self._unknown(number))

    def text(self, ids: list[int]) -> str:
        """The text of ids."""
        raise InputError(self._unknown(0))

    def show(self, ids: list[int], with_ids: bool = False) -> str:
        """Ids as a message or a list shows them."""
        return shown(ids, None, with_ids)

    def tell(self, number: int, column: int) -> None:
        """Give a token to `on_token`; called on the user's side."""


class ObservedRun(Run):
    """A run whose model comes back for more than the places somebody waits for.

    After each choice of a token it hands the token over, on the user's side, and goes on. While the model
    runs, torch's random numbers are its own.
    """

    def __init__(self, generation: Generation, numbers: Numbers | None, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._generation = generation
        self._numbers = numbers
        self._told: tuple[int, int] | None = None
        self._is_telling = False

    def tell(self, number: int, column: int) -> None:
        """On the model's side: wait until the user's side has seen a token."""
        self._told = (number, column)
        self._home.switch()  # type: ignore[union-attr]

    def go_straight(self, module: Any, kind: str) -> bool:
        """Never: what is special about this run is in `_switch`."""
        return False

    def _switch(self, thrown: BaseException | None) -> None:
        if self._is_telling and thrown is None:
            raise InputError(
                "a callback of `on_token` asked for a value of the running model, which waits for the "
                "callback to return. Values are read in the block: `for step in tracer.iter[:]`."
            )
        while True:
            with self._numbers or nullcontext():
                super()._switch(thrown)
            told, self._told = self._told, None
            if told is None:
                return
            self._is_telling, thrown = True, None
            try:
                self._generation.tell(*told)
            except BaseException as error:
                self._generation.failed = error
                raise
            finally:
                self._is_telling = False


def generation_of(root: Any, method: str, kwargs: dict[str, Any], elsewhere: bool) -> Generation | None:
    """What will know about the generation that a trace is for.

    Args:
        root: The model.
        method: The traced method.
        kwargs: The trace's arguments; those that are for the generation are taken out.
        elsewhere: Whether the block runs elsewhere; then nothing is known here.
    """
    if not elsewhere:
        return root._generation(method, kwargs)
    if kwargs.get("on_token") is not None:
        raise InputError(
            "`on_token` is called where the model runs, and with `remote=` that is elsewhere. Leave out one "
            "of them, or save `[step.token for step in tracer.steps]` in the block."
        )
    return None
