"""Workers: captured bodies that act in a run while the model stands where they asked.

Each body runs in a greenlet of its own. Whenever it asks for something that is not there yet it
switches back to the crew, which resumes it when the model stands at the right place, when an
earlier body has bound the name it waits for, or when the run has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from greenlet import GreenletExit, greenlet

from nbsight.core.batching import Rows
from nbsight.core.greenlets import Carrier, borrow, give_back
from nbsight.core.ledger import shared_error
from nbsight.core.participant import Key, Participant, Reached, place_of
from nbsight.core.run import Run, Stop
from nbsight.core.saving import check_rows
from nbsight.core.scope import Names
from nbsight.core.sites import Site, show_line
from nbsight.core.torch_state import (
    SideState,
    get_default_dtype,
    is_grad_enabled,
    is_more_than_grad,
    set_grad,
    snapshot,
    switch_to,
)
from nbsight.errors import OutOfOrderError

if TYPE_CHECKING:
    from nbsight.core.capture import Block
    from nbsight.core.crew import Crew

__all__ = ["Side", "Worker", "side_now"]

#: One side's torch switches: grad mode, default dtype, and all of them if they say more than that.
Side = tuple[bool, torch.dtype, "SideState | None"]


def side_now() -> Side:
    """What this thread's switches are now, looked at as quickly as can be."""
    return (is_grad_enabled(), get_default_dtype(), snapshot() if is_more_than_grad() else None)


def _whole(side: Side) -> SideState:
    grad, dtype, state = side
    return state or (grad, False, dtype, None, (), ())


class Worker(Participant):
    """One captured body.

    Args:
        block: The body.
        names: Its namespace.
        rows: The rows of the batch that belong to it; None for all.
        side: Torch's switches where the block was written: `with torch.no_grad():` around it counts.
    """

    #: The number of the worker in its crew.
    place = -1
    crew: Crew | None = None
    run: Run | None = None
    done = False
    stopped = False
    error: BaseException | None = None
    #: The place that is waited for; None while it is something else.
    key: Key | None = None
    #: Where the run stood when it began to wait, if that was the very place.
    before: Any = None
    awaited: str | None = None
    got_from: tuple[str, Worker] | None = None
    #: The kept edit whose block it is.
    edit: Any = None
    #: What it asks for in a second forward, while it waits for that.
    late: Any = None
    #: Tells whether a captured value was left there by an earlier run of the same block.
    is_stale: Callable[[str], bool] | None = None
    #: Whether it may act, if it waits for something else than a place; None before its first act.
    ready: Callable[[], bool] | None = None
    #: Its input, and what finds the tokens of one.
    prepared: Any = None
    tokens_of: Callable[[Any], Any] | None = None
    #: What was read at places that the model left while this body waited for a name.
    held: Sequence[tuple[Reached, torch.Tensor, int]] = ()
    _guards: list[Any] | None = None
    _carrier: Carrier | None = None
    _hub: greenlet | None = None

    def __init__(self, block: Block, names: Names, rows: Rows | None, side: Side | None = None) -> None:
        super().__init__(rows)
        self.block = block
        self.names = names
        self._side = side

    @property
    def tokens(self) -> Callable[[], Any] | None:  # type: ignore[override]
        """Finds the tokens of this participant's prompt, for messages."""
        return None if self.tokens_of is None else partial(self.tokens_of, self.prepared)

    # -- called from the body ------------------------------------------------------------------

    def wait(self, run: Run, key: Key) -> None:
        """Give way until the run stands at `key` next, or has ended."""
        if run.ended:
            return
        assert self.crew is not None
        assert self._hub is not None
        self.crew.wait_at(self, key)
        self._hub.switch()

    def wait_for_pass(self, run: Run, number: int) -> None:
        """Give way until the root's call `number` has begun or the run has ended."""
        while run.passes <= number:
            self.wait(run, (run.root, "pass"))
            if run.ended:
                return

    def wait_until(self, run: Run, ready: Callable[[], bool]) -> None:
        """Give way until `ready()` is true."""
        while not ready():
            self._give_way(ready)

    def wait_for_end(self, run: Run) -> None:
        """Give way until the run has ended; it then has to go to its end."""
        run.must_finish = True
        while not run.ended:
            self._give_way(lambda: run.ended)

    def stop(self) -> None:
        """End the whole run from inside the body."""
        raise Stop

    def ask(self, name: str, known: bool) -> Any:
        """What another worker binds `name` to; waits for it.

        Earlier workers come first, the nearest before all, as in code that runs in order. A later
        worker is only asked for a name that nothing else knows (two invokes may exchange values).

        Args:
            name: A name that this body has not bound.
            known: Whether it had a value where the body was captured.
        """
        assert self.crew is not None
        places = self.crew.binders.get(name, ())
        if known and self.is_stale is not None:
            known = not self.is_stale(name)
        nearest_first = [other for other in reversed(places) if other < self.place]
        later = [] if known else [other for other in places if other > self.place]
        for other in nearest_first + later:
            binder = self.crew.workers[other]
            self.wait_for_name(name, binder)
            if name in binder.names:
                return binder.names[name]
        return Names.ABSENT

    def wait_for_name(self, name: str, binder: Worker) -> None:
        """Give way until `binder` has bound `name` or is done."""
        assert self.crew is not None
        assert self._hub is not None
        self.awaited = name
        run, last = self.run, self.last
        site = run.site if run is not None else None
        while name not in binder.names and not binder.done:
            self.ready = lambda: binder.done or name in binder.names
            self.crew.wait_for(self, binder)
            self._hub.switch()
        self.awaited = None
        self.got_from = (name, binder)
        if site is not None and run is not None and run.site is not site and last is not None:
            self._hold(site, last)

    def wait_for_rerun(self, run: Run, late: Any) -> None:
        """Give way until the crew has begun another forward, for what `late` asks for."""
        if late.stood is not None and self.last is not None:
            self._hold(late.stood, self.last)
        self.late = late
        while self.run is run:
            self._give_way(lambda: self.run is not run)
        self.late = None

    def _hold(self, site: Any, last: Reached) -> None:
        view = site.shown_to(self)
        if isinstance(view, torch.Tensor) and not view.is_inference():
            self.held = [*self.held, (last, view, view._version)]

    def _give_way(self, ready: Callable[[], bool]) -> None:
        self.ready = ready
        assert self.crew is not None
        assert self._hub is not None
        self.crew.wait_loosely(self)
        self._hub.switch()

    # -- called by the crew --------------------------------------------------------------------

    def act(self, hub: greenlet, home: Side, thrown: BaseException | None = None) -> None:
        """Let the body act until it waits again or is done.

        Args:
            hub: The greenlet that calls.
            home: Its torch switches.
            thrown: Raised where the body waits.
        """
        carrier = self._carrier
        if carrier is None:
            if thrown is not None:
                self.done = True
                return
            carrier = self._carrier = borrow(self._task)
            carrier.worker = self
        self._hub = hub
        grad, dtype, more = home
        own = self._side or home
        # As a rule the two sides differ in nothing but grad mode, which is quick to change.
        is_plain = more is None and own[2] is None and own[1] is dtype and not self._guards
        if not is_plain:
            self._guards = self._guards or []
            switch_to(_whole(own), _whole(home), self._guards)
        elif own[0] is not grad:
            set_grad(own[0])
        if self.held:
            self.held = [(place, tensor, tensor._version) for place, tensor, _ in self.held]
        try:
            if thrown is None:
                carrier.switch()
            else:
                carrier.throw(thrown)
            if self.held and self.error is None:
                self._check_held()
        finally:
            if is_plain and get_default_dtype() is dtype and not is_more_than_grad():
                if is_grad_enabled() is grad:
                    self._side = home
                else:
                    self._side = (not grad, dtype, None)
                    set_grad(grad)
            else:
                self._side = side_now()
                self._guards = self._guards or []
                switch_to(_whole(home), _whole(self._side), self._guards)
        if self.done:
            give_back(carrier)
            self._carrier = self._hub = None

    def _check_held(self) -> None:
        """A value that was read before the block waited is in the past: a write to it is lost."""
        for reached, tensor, version in self.held:
            if tensor._version != version:
                name = self.got_from[0] if self.got_from else None
                waited = f", while this block waited for `{name}`" if name else ""
                advice = (
                    "That takes two traces: save what you wait for in the first, and use it in the second."
                    if name
                    else "Change it before a line that asks for what the model has passed, or change a "
                    "`.clone()`."
                )
                self.error = OutOfOrderError(
                    f"`{place_of(reached)}` was changed in place after the model had gone on from "
                    f"it{waited}, so the change is lost.\n  {show_line(reached[2])}\n{advice}"
                )
                return

    def note_change(self, run: Run, site: Site) -> None:
        """The value was changed in place, by this body if that is new: its own rows, or what all share?"""
        changed = site.newly_changed()
        if not changed:
            return
        if self.kept:
            check_rows(self, changed)
        if run.owner is not None:
            run.owner.note_change(self, site, changed)
        if self.rows is not None and (site.version is None or site.value.shape[:1] != (self.rows.total,)):
            self.error = self.error or shared_error(run, self, site, changed)

    def _task(self) -> greenlet:
        try:
            exec(self.block.code, self.names, self.names)
        except GreenletExit:
            self.stopped = True
        except BaseException as error:  # the crew raises it where the user is
            self.error = error if self.edit is None else self.edit.explain(error, self.names)
        self.done = True
        assert self._hub is not None
        return self._hub

    def bound(self) -> dict[str, Any]:
        """The names the body has bound so far."""
        return {name: self.names[name] for name in self.block.stores if name in self.names}
