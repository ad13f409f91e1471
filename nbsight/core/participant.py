"""Participants: who reads and writes in a run, and waits for it to come where they asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from nbsight.core.batching import Rows

if TYPE_CHECKING:
    from nbsight.core.run import Run
    from nbsight.core.sites import Line

__all__ = ["Key", "Participant", "Reached", "place_of"]

#: A place to stop: a module (or another thing that is called) and "input" or "output".
Key = tuple[Any, str]


#: A place that was reached, and the line that asked: (envoy, what, line).
Reached = tuple[Any, str, "Line"]


def place_of(reached: Reached) -> str:
    """The place as the user writes it."""
    envoy, what, _ = reached
    return f"{envoy._path or 'model'}.{what}"


class Participant:
    """Somebody who reads and writes in a run.

    Args:
        rows: The part of the batch that is theirs; None for all of it.
    """

    #: In a loop over calls of a module within one forward: the call that is meant.
    occurrence: int | None = None
    #: The first place that the present turn of a loop asked for.
    turn_key: Key | None = None
    #: The step of a generation to which requests are bound; None binds them to what comes.
    step: int | None = None
    #: Finds the tokens of this participant's prompt, for messages.
    tokens: Callable[[], Any] | None = None
    #: The last place that was reached and the line that asked, for messages.
    last: Reached | None = None
    #: The step of each module that code for earlier releases of nnsight moves on by itself (older.py).
    turns: Any = None
    #: Whether this is an edit that the model keeps, which every run of it plays.
    is_kept = False
    #: Saved rows of a batch: the value, its record, and the count of changes then.
    kept: Sequence[tuple[Any, Any, int]] = ()

    def __init__(self, rows: Rows | None = None) -> None:
        self.rows = rows

    def wait(self, run: Run, key: Key) -> None:
        """Return when the run stands at `key` next, or has ended."""
        run.go(*key)

    def wait_for_occurrence(self, run: Run, key: Key) -> None:
        """Return when the run stands at the call of `key` that the loop means, or has ended."""
        if self.turn_key is None:
            self.turn_key = key
        while True:
            self.wait(run, key)
            if run.ended or run.site.visit >= self.occurrence:  # type: ignore
                return

    def wait_for_pass(self, run: Run, number: int) -> None:
        """Return when the root's call `number` has begun or the run has ended."""
        while run.passes <= number and not run.ended:
            if run.serve is None and run.go_straight(run.root, "pass"):
                continue
            run.want((run.root, "pass"))
            try:
                run.advance()
            finally:
                run.unwant((run.root, "pass"))

    def wait_until(self, run: Run, ready: Callable[[], bool]) -> None:
        """Return when `ready()` is true; the run goes on until then."""
        while not ready():
            run.advance()

    def wait_for_end(self, run: Run) -> None:
        """Return when the run has ended."""
        run.finish()
