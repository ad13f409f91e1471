"""Workers: captured bodies that act in a run while the model stands where they asked.

Each body runs in a greenlet of its own. Whenever it asks for something that is not there yet it
switches back to the crew, which resumes it when the model stands at the right place, when an
earlier body has bound the name it waits for, or when the run has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from greenlet import GreenletExit, getcurrent, greenlet

from nbsight.core.batching import Rows
from nbsight.core.greenlets import Carrier, borrow, give_back
from nbsight.core.run import Key, Participant, Reached, Run, Stop, place_of
from nbsight.core.scope import Names
from nbsight.core.sites import show_line
from nbsight.core.torch_state import SideState, snapshot, switch_to
from nbsight.errors import CaptureError, OutOfOrderError

if TYPE_CHECKING:
    from nbsight.core.capture import Block

__all__ = ["Crew", "Worker"]


def _always() -> bool:
    return True


class Worker(Participant):
    """One captured body.

    Args:
        block: The body.
        names: Its namespace.
        rows: The rows of the batch that belong to it; None for all.
    """

    def __init__(self, block: Block, names: Names, rows: Rows | None, state: SideState | None = None) -> None:
        super().__init__(rows)
        self.run: Run | None = None
        self.block = block
        self.names = names
        self.done = False
        self.stopped = False
        self.error: BaseException | None = None
        self.ready: Callable[[], bool] = _always
        self.awaited: str | None = None
        self.got_from: tuple[str, Worker] | None = None
        #: What it asks for in a second forward, while it waits for that.
        self.late: Any = None
        #: What was read at places that the model left while this body waited for a name.
        self.held: list[tuple[Reached, torch.Tensor, int]] = []
        self._carrier: Carrier | None = None
        self._hub: greenlet | None = None
        # Torch's switches where the block was written: `with torch.no_grad():` around it counts.
        self._state = state
        self._guards: list[Any] = []

    # -- called from the body ------------------------------------------------------------------

    def wait(self, run: Run, key: Key) -> None:
        """Give way until the run stands at `key` next, or has ended."""
        before = run.site
        run.want(key)
        try:
            module, kind = key

            def here() -> bool:  # asked of every waiting block at every stop
                site = run.site
                if site is None or run.ended:
                    return run.ended
                return site.module is module and site is not before and site.kind == kind

            self._give_way(here)
        finally:
            run.unwant(key)

    def wait_for_pass(self, run: Run, number: int) -> None:
        """Give way until the root's call `number` has begun or the run has ended."""
        while run.passes <= number and not run.ended:
            self._give_way(lambda: run.ended or run.passes > number)

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

    def wait_for_name(self, name: str, binder: Worker) -> None:
        """Give way until `binder` has bound `name` or is done."""
        self.awaited = name
        run, last = self.run, self.last
        site = run.site if run is not None else None
        while name not in binder.names and not binder.done:
            self._give_way(lambda: binder.done or name in binder.names)
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
            self.held.append((last, view, view._version))

    def _give_way(self, ready: Callable[[], bool]) -> None:
        self.ready = ready
        assert self._hub is not None
        self._hub.switch()

    # -- called by the crew --------------------------------------------------------------------

    def act(self, thrown: BaseException | None = None) -> None:
        """Let the body act until it waits again or is done."""
        if self._carrier is None:
            if thrown is not None:
                self.done = True
                return
            self._carrier = borrow(self._task)
            self._carrier.worker = self
            self._state = self._state or snapshot()
        self._hub = getcurrent()
        mine = snapshot()
        assert self._state is not None
        switch_to(self._state, mine, self._guards)
        try:
            self.held = [(place, tensor, tensor._version) for place, tensor, _ in self.held]
            if thrown is None:
                self._carrier.switch()
            else:
                self._carrier.throw(thrown)
            if self.error is None:
                self._check_held()
        finally:
            self._state = snapshot()
            switch_to(mine, self._state, self._guards)
        if self.done:
            give_back(self._carrier)
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

    def _task(self) -> greenlet:
        try:
            exec(self.block.code, self.names, self.names)
        except GreenletExit:
            self.stopped = True
        except BaseException as error:  # the crew raises it where the user is
            self.error = error
        self.done = True
        assert self._hub is not None
        return self._hub

    def bound(self) -> dict[str, Any]:
        """The names the body has bound so far."""
        return {name: self.names[name] for name in self.block.stores if name in self.names}


class Crew:
    """The workers of one run, in the order in which their blocks were written."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.workers: list[Worker] = []
        self.failed: Worker | None = None
        #: Where the model stood when a body failed, for the message.
        self.failed_at: Any = None
        #: For each name, the places of the workers whose blocks bind it.
        self._binders: dict[str, list[int]] = {}
        run.serve = self.serve

    def add(self, worker: Worker) -> None:
        """Add the next worker and connect its namespace to the others'."""
        place = len(self.workers)
        self.workers.append(worker)
        for name in worker.block.stores:
            self._binders.setdefault(name, []).append(place)
        if worker.names.sibling is None:
            worker.names.sibling = lambda name, known: self._ask(place, name, known)

    def _ask(self, place: int, name: str, known: bool) -> Any:
        """What another worker binds `name` to; waits for it.

        Earlier workers come first, the nearest before all, as in code that runs in order. A later
        worker is only asked for a name that nothing else knows (two invokes may exchange values).
        """
        places = self._binders.get(name)
        if places is None:  # as a rule: the model, a loop's variable, what was there before
            return Names.ABSENT
        asker = self.workers[place]
        nearest_first = [other for other in reversed(places) if other < place]
        later = [] if known else [other for other in places if other > place]
        for other in nearest_first + later:
            binder = self.workers[other]
            asker.wait_for_name(name, binder)
            if name in binder.names:
                return binder.names[name]
        return Names.ABSENT

    def serve(self) -> None:
        """Let every worker act that can, until none can."""
        moved = True
        while moved:
            moved = False
            for worker in self.workers:
                if not worker.done and worker.ready():
                    worker.act()
                    moved = True
                    if worker.error is not None:
                        error, worker.error = worker.error, None
                        self.failed, self.failed_at = worker, self.run.site
                        try:
                            raise error
                        finally:
                            del error  # its traceback holds this frame

    @property
    def is_done(self) -> bool:
        """Whether every body has run to its end."""
        return all(worker.done for worker in self.workers)

    @property
    def is_late(self) -> bool:
        """Whether a body asks for another forward."""
        return any(worker.late is not None for worker in self.workers)

    @property
    def was_stopped(self) -> bool:
        """Whether a body asked the whole run to stop."""
        return any(worker.stopped for worker in self.workers)

    def work(self, *, finish: bool) -> None:
        """Run everything: the bodies, and the model as far as they need it (or to its end)."""
        run = self.run
        self.serve()
        while (
            not run.ended
            and not self.was_stopped
            and (run.is_wanted or finish or run.must_finish or run.watchers)
        ):
            run.advance()
        if self.was_stopped:
            return
        if run.behind is not None:
            run.conclude()
        run.close()
        self.serve()
        if self.is_late:
            return
        stuck = [worker for worker in self.workers if not worker.done]
        if stuck:
            raise CaptureError(_stuck(stuck))

    def close(self) -> None:
        """Unwind the bodies that have not ended."""
        for worker in self.workers:
            if not worker.done:
                worker.act(GreenletExit())
                worker.done = True
            # No cycles: what the bodies bound is freed when the user drops it.
            worker.names.sibling = worker.names.stale = None
            worker.run = None
            worker.got_from = None
            worker.held = []
            worker.late = None
            worker.ready = _always
        self.run.serve = None


def _stuck(workers: list[Worker]) -> str:
    waits = "; ".join(
        f"the block on line {worker.block.line} waits for `{worker.awaited}`" for worker in workers
    )
    return (
        f"these blocks wait for each other: {waits}. Bind each name in one block, at a layer that "
        "comes before the layer where the other block uses it, or use two traces."
    )
