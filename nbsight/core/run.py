"""A run: one call of a model's method, which stops wherever somebody waits.

The call lives in a greenlet of its own. `reach` resumes it until the wanted place is reached and
leaves it there, held inside the gate of that module; the value is then ordinary data in the
user's hands. When nobody can observe the rest, `close` unwinds it.

Those who wait are `Participant`s: the user's own block (it calls `reach` and simply gets the
answer) and captured bodies (workers in greenlets; they are resumed while the model stands at the
place they asked for). README.md beside this file has the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet
from torch import nn

from nbsight.core.batching import Rows
from nbsight.core.gates import Gate, close_gate, open_gate
from nbsight.core.greenlets import Carrier, borrow, give_back
from nbsight.core.sites import Edit, Line, Site, describe
from nbsight.core.torch_state import SideState, snapshot, switch_to, with_grad

__all__ = ["Participant", "Run", "Stop"]

Key = tuple[nn.Module, str]


class Stop(GreenletExit):
    """Unwinds a forward that nobody observes any more. Not an `Exception`: models catch those."""


class Participant:
    """Somebody who reads and writes in a run.

    Args:
        rows: The part of the batch that is theirs; None for all of it.
    """

    def __init__(self, rows: Rows | None = None) -> None:
        self.rows = rows
        #: The site that an `iter` loop has used up: the next request wants a later one.
        self.spent: Site | None = None
        #: The step of a generation to which requests are bound; None binds them to what comes.
        self.step: int | None = None
        #: The last place that was reached and the line that asked, for messages.
        self.last: tuple[str, Line] | None = None

    def wait(self, run: Run, key: Key) -> None:
        """Return when the run stands at `key` or has ended; the in-place block drives the run."""
        while not run.stands_at(key, self) and not run.ended:
            run.advance()

    def wait_for_pass(self, run: Run, number: int) -> None:
        """Return when the root's call `number` has begun or the run has ended."""
        while run.passes <= number and not run.ended:
            run.advance()

    def wait_for_end(self, run: Run) -> None:
        """Return when the run has ended."""
        run.finish()


class Run:
    """One call, held open.

    Args:
        call: Calls the model; runs in the model's greenlet.
        root: The module whose calls are counted as passes.
        grad: Whether the model records gradients (never more than the caller's own grad mode).
        name: The path of a module, for messages.
        spares: Gates that earlier runs of the model used, to be hung up again.
    """

    def __init__(
        self,
        call: Callable[[], Any],
        root: nn.Module,
        *,
        grad: bool,
        name: Callable[[nn.Module], str] = lambda module: type(module).__name__,
        spares: dict[nn.Module, Gate] | None = None,
    ) -> None:
        self.call = call
        self.root = root
        self.grad = grad
        self.name = name
        self.spares = {} if spares is None else spares
        #: Turns an error of the model's into the one that the user sees.
        self.explain: Callable[[BaseException], BaseException] = lambda error: error
        #: The arguments with which the same forward can be run once more, if it can.
        self.repeat: tuple[Any, Any] | None = None
        self.site: Site | None = None
        self.passes = 0
        self.ended = False
        self.must_finish = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.edits: list[Edit] = []
        self.wanted: dict[Key, int] = {}
        self.watchers: dict[Key, list[Callable[[Site], None]]] = {}
        #: Runs whatever else wants to act where the model stands (the captured bodies).
        self.serve: Callable[[], None] | None = None
        self._visits: dict[nn.Module, int] = {}
        self._gates: dict[nn.Module, Gate] = {}
        self._carrier: Carrier | None = None
        self._home: greenlet | None = None
        self._state: SideState | None = None
        self._guards: list[Any] = []
        self._began = False

    # -- the model's side ----------------------------------------------------------------------

    def pass_through(
        self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """A gated module is called: stop before and after it if somebody waits there."""
        if module is self.root:
            self.passes += 1
        visit = self._visits.get(module, 0)
        self._visits[module] = visit + 1
        key = (module, "input")
        if key in self.wanted or key in self.watchers:
            site = self._stop(module, "input", visit, (args, kwargs))
            if site.is_skipped:
                value = site.skip
            else:
                args, kwargs = site.value
                value = forward(*args, **kwargs)
        else:
            value = forward(*args, **kwargs)
        key = (module, "output")
        if key in self.wanted or key in self.watchers:
            return self._stop(module, "output", visit, value).value
        return value

    def _stop(self, module: nn.Module, kind: str, visit: int, value: Any) -> Site:
        site = Site(module, kind, visit, value)
        key = (module, kind)
        if key in self.wanted:
            self.site = site
            assert self._home is not None
            self._home.switch()
        for watcher in self.watchers.get(key, ()):
            watcher(site)
        return site

    def _task(self) -> greenlet:
        try:
            self.result = self.call()
        except Stop:
            pass
        except BaseException as error:  # whatever it is, it belongs to the side that asked
            self.error = error
        self.ended = True
        assert self._home is not None
        return self._home

    # -- the users' side -----------------------------------------------------------------------

    def open(self, modules: list[nn.Module]) -> None:
        """Put gates on these modules for as long as the run lasts."""
        gates = self._gates
        for module in modules:
            if module not in gates and not self.ended:
                spare = self.spares.get(module)
                gates[module] = gate = open_gate(module, spare)
                if gate is not spare:
                    self.spares[module] = gate

    def want(self, key: Key) -> None:
        """Let the model stop at `key`."""
        self.wanted[key] = self.wanted.get(key, 0) + 1

    def unwant(self, key: Key) -> None:
        """Take one `want` back."""
        left = self.wanted.get(key, 1) - 1
        if left:
            self.wanted[key] = left
        else:
            self.wanted.pop(key, None)

    def stands_at(self, key: Key, participant: Participant) -> bool:
        """Whether the run stands at `key`, on a visit that the participant has not used up."""
        site = self.site
        if site is None or site is participant.spent:
            return False
        return site.module is key[0] and site.kind == key[1]

    def advance(self) -> None:
        """Resume the model to the next place somebody waits for, and let the others act there."""
        self.resume()
        if self.serve is not None:
            self.serve()

    def resume(self) -> None:
        """Resume the model until it stops or ends; an error of the model's is raised here."""
        if self.ended:
            return
        self.leave_site()
        self._switch()
        if self.error is not None:
            error, self.error = self.error, None
            explained = self.explain(error)
            raise explained from (None if explained is not error else error.__cause__)

    def leave_site(self) -> None:
        """Settle what was done at the present site: the model is about to go on from there."""
        site, self.site = self.site, None
        if site is None:
            return
        changed = bool(site.assigned)
        site.settle()
        if not changed and site.touched():
            what = describe(site.value if site.kind == "output" else site.value[0])
            self.note_edit(site, what, "changed in place")

    def note_edit(self, site: Site, before: str, after: str) -> None:
        """Remember an edit, for the message if the model fails later."""
        self.edits.append(Edit(self.name(site.module), site.kind, site.line, before, after))

    def finish(self) -> Any:
        """Run to the end and return what the call returned."""
        while not self.ended:
            self.advance()
        return self.result

    def close(self) -> None:
        """Unwind the call if it is still held, and take the gates off. Safe to call twice."""
        try:
            if self._began and not self.ended:
                self.wanted = {}
                self.watchers = {}
                self.site = None
                while not self.ended:
                    self._switch(Stop())
                self.error = None
        finally:
            self.ended = True
            self._release()

    def _switch(self, thrown: BaseException | None = None) -> None:
        self._home = getcurrent()
        mine = snapshot()
        carrier = self._carrier
        if carrier is None:
            carrier = self._carrier = borrow(self._task)
            carrier.model_run = self
            self._began = True
            state = with_grad(mine, mine[0] and self.grad)
        else:
            assert self._state is not None
            state = self._state
        switch_to(state, mine, self._guards)
        try:
            if thrown is None:
                carrier.switch()
            else:
                carrier.throw(thrown)
        finally:
            now = self._state = snapshot()
            switch_to(mine, now, self._guards)
        if self.ended:
            self._release()

    def _release(self) -> None:
        gates, self._gates = self._gates, {}
        for gate in gates.values():
            close_gate(gate)
        carrier, self._carrier = self._carrier, None
        if carrier is not None and self.ended and not carrier.dead:
            give_back(carrier)
        self._home = None
        self.serve = None

    def was_called(self, module: nn.Module) -> bool:
        """Whether the module was called while this run watched it."""
        return self._visits.get(module, 0) > 0
