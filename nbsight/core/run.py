"""A run: one call of a model's method, which stops wherever somebody waits.

The call lives in a greenlet of its own. `reach` resumes it until the wanted place is reached and
leaves it there, held inside the gate of that module; the value is then ordinary data in the
user's hands. When nobody can observe the rest, `close` unwinds it.

Those who wait are `Participant`s: the user's own block (it calls `reach` and simply gets the
answer) and captured bodies (workers in greenlets; they are resumed while the model stands at the
place they asked for). README.md beside this file has the picture.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet
from torch import nn

from nbsight.core.checkpoints import is_in_checkpoint, refusal
from nbsight.core.gates import Gate, close_gates, open_gates
from nbsight.core.greenlets import Carrier, borrow, give_back
from nbsight.core.participant import Key, Participant
from nbsight.core.sites import Edit, Line, Site, describe, show_line
from nbsight.core.torch_state import (
    SideState,
    any_autocast,
    dispatch_depth,
    function_depth,
    get_default_dtype,
    is_grad_enabled,
    is_inference_mode_enabled,
    is_more_than_grad,
    set_grad,
    snapshot,
    switch_to,
    with_grad,
)
from nbsight.errors import EditError

__all__ = ["Run", "Stop"]


class Stop(GreenletExit):
    """Unwinds a forward that nobody observes any more. Not an `Exception`: models catch those."""


def _nothing() -> None:
    """The call of a run that is over."""


class Run:
    """One call, held open.

    Args:
        call: Calls the model; runs in the model's greenlet.
        root: The module whose calls are counted as passes.
        grad: Whether the model records gradients (never more than the caller's own grad mode).
        name: The path of a module, for messages.
        spares: Gates that earlier runs of the model used, to be hung up again.
    """

    # What most runs never need has its default here: a run is made for every trace.

    #: Turns an error of the model's into the one that the user sees.
    explain: Callable[[Run, BaseException], BaseException] = staticmethod(lambda run, error: error)
    #: The root envoy, for messages.
    model: Any = None
    #: The tracer, while its trace lasts: edits are noted there.
    owner: Any = None
    #: The message of the model's own failure, if it failed.
    failure: str | None = None
    #: Whether the call returned (it did not fail and was not unwound).
    finished = False
    ended = False
    #: The arguments with which the same forward can be run once more, if it can.
    repeat: tuple[Any, Any, Any] | None = None
    #: In a second forward: what had been reached before it, while it only repeats (rerun.py).
    behind: Any = None
    #: Where calls were replaced, and the counts of changes of what was put there.
    skips: Sequence[tuple[Site, list[tuple[Any, Any]]]] = ()
    #: Where the run stands.
    site: Site | None = None
    #: How many times the root was called.
    passes = 0
    must_finish = False
    result: Any = None
    error: BaseException | None = None
    #: Runs whatever else wants to act where the model stands (the captured bodies).
    serve: Callable[[], None] | None = None
    #: Whether a loop over the calls of a module has counted them.
    counts_calls = False
    #: What is about to be called, while the run stands at an input.
    callee: Any = None
    #: What whoever made the run has to say to the sources that stand in during it.
    marks: Sequence[str] = ()
    _carrier: Carrier | None = None
    _home: greenlet | None = None
    # The model side's torch switches: grad mode and dtype, and all of them if that is not all.
    _grad = False
    _dtype: Any = None
    _state: SideState | None = None
    _began = False

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
        #: Modules whose call was replaced, and the line that said so.
        self.skipped: dict[Any, Line | None] = {}
        self.edits: list[Edit] = []
        self._wanted_inputs: dict[Any, int] = {}
        self._wanted_outputs: dict[Any, int] = {}
        #: Whether somebody waits for the root's next call; nothing is shown there.
        self._wanted_passes: dict[Any, int] = {}
        self.wanted = {
            "input": self._wanted_inputs,
            "output": self._wanted_outputs,
            "pass": self._wanted_passes,
        }
        self.watchers: dict[str, dict[Any, list[Callable[[Site], None]]]] = {}
        self._visits: dict[nn.Module, int] = {}
        self.gated: dict[nn.Module, Gate] = {}
        #: The envoys whose gates were opened when they were asked for.
        self.opened: list[Any] = []
        #: Whose operations can be stopped at: modules and operations, and the `Source` of each.
        self.rewrites: dict[Any, Any] = {}
        self._guards: list[Any] = []

    # -- the model's side ----------------------------------------------------------------------

    def pass_through(self, module: Any, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A gated module is called: stop before and after it if somebody waits there."""
        if module is self.root:
            self.passes += 1
            if self._wanted_passes:
                self._home.switch()  # type: ignore[union-attr]
        visits = self._visits
        visit = visits[module] = visits.get(module, -1) + 1
        if self._wanted_inputs or self.watchers or self.rewrites:
            return self._pass_watched(module, forward, args, kwargs, visit)
        value = forward(*args, **kwargs)
        if module in self._wanted_outputs:
            site = self.site = Site(module, "output", visit, value)
            self._home.switch()  # type: ignore[union-attr]
            return site.value
        return value

    def _pass_watched(
        self, module: Any, forward: Callable[..., Any], args: Any, kwargs: Any, visit: int
    ) -> Any:
        """The same where more than outputs is wanted."""
        skipped = False
        if module in self._wanted_inputs or self.watchers:
            self.callee = forward
            site = self._stop(Site(module, "input", visit, (args, kwargs)))
            skipped = site.is_skipped
            args, kwargs = site.value
        if skipped:
            value = site.skip
        elif module in self.rewrites:
            value = self.rewrites[module].stand_in(forward)(*args, **kwargs)
        else:
            value = forward(*args, **kwargs)
        if module in self._wanted_outputs or self.watchers:
            return self._stop(Site(module, "output", visit, value)).value
        return value

    def _stop(self, site: Site) -> Site:
        if self.watchers:
            for watcher in self.watchers.get(f"early {site.kind}", {}).get(site.module, ()):
                watcher(site)
        if site.module in self.wanted[site.kind]:
            self.site = site
            self._home.switch()  # type: ignore[union-attr]
        if self.watchers:
            for watcher in self.watchers.get(site.kind, {}).get(site.module, ()):
                watcher(site)
        return site

    def _task(self) -> greenlet:
        try:
            self.result = self.call()
            self.finished = True
        except Stop:
            pass
        except BaseException as error:  # whatever it is, it belongs to the side that asked
            self.error = error
        self.ended = True
        assert self._home is not None
        return self._home

    # -- the users' side -----------------------------------------------------------------------

    def open(self, modules: Iterable[Any]) -> None:
        """Put gates on these modules for as long as the run lasts; let sources stand in."""
        if self.ended:
            return
        plain = []
        for module in modules:
            if isinstance(module, nn.Module):
                plain.append(module)
            else:  # a `Source`
                self.rewrites[module._module] = module
        open_gates(plain, self.spares, self.gated)

    def watch(self, key: Key, watcher: Callable[[Site], None], *, early: bool = False) -> None:
        """Call `watcher` with the site, after all edits, whenever the model passes `key`.

        Args:
            early: Before any edit instead.
        """
        kind = f"early {key[1]}" if early else key[1]
        self.watchers.setdefault(kind, {}).setdefault(key[0], []).append(watcher)

    def want(self, key: Key) -> None:
        """Let the model stop at `key`."""
        wanted = self.wanted[key[1]]
        wanted[key[0]] = wanted.get(key[0], 0) + 1

    def unwant(self, key: Key) -> None:
        """Take one `want` back."""
        wanted = self.wanted[key[1]]
        left = wanted.get(key[0], 1) - 1
        if left:
            wanted[key[0]] = left
        else:
            wanted.pop(key[0], None)

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for any place."""
        return bool(self._wanted_inputs or self._wanted_outputs or self._wanted_passes)

    def stands_at(self, key: Key) -> bool:
        """Whether the run stands at `key`."""
        site = self.site
        return site is not None and site.module is key[0] and site.kind == key[1]

    def go(self, module: Any, kind: str) -> None:
        """Drive the model until it stands at a place or has ended (the in-place block's way)."""
        if self.serve is None and self.go_straight(module, kind):
            return
        wanted = self.wanted[kind]
        wanted[module] = wanted.get(module, 0) + 1
        try:
            while not self.ended:
                self.advance()
                site = self.site
                if site is not None and site.module is module and site.kind == kind:
                    return
        finally:
            if wanted.get(module) == 1:
                del wanted[module]
            else:
                self.unwant((module, kind))

    def go_straight(self, module: Any, kind: str) -> bool:
        """`go` where nobody else waits and the sides differ in grad mode at most: one switch.

        What `advance` and `_switch` do, in one function: this is the way of every plain read.

        Returns:
            Whether that was the case and the run has gone on.
        """
        carrier = self._carrier
        grad, dtype = is_grad_enabled(), get_default_dtype()
        if (
            carrier is None
            or self._state is not None
            or dtype is not self._dtype
            or is_inference_mode_enabled()
            or any_autocast()
            or function_depth()
            or dispatch_depth()
        ):
            return False
        site = self.site
        if site is not None:
            self.site = None
            if site.value._version != site.version if site.version is not None else site.is_touched:
                self._note_touch(site)
        wanted = self.wanted[kind]
        wanted[module] = 1
        if grad is not self._grad:
            set_grad(self._grad)
        try:
            carrier.switch()
        finally:
            self._grad, self._dtype = is_grad_enabled(), get_default_dtype()
            if not (
                self._dtype is not dtype
                or is_inference_mode_enabled()
                or any_autocast()
                or function_depth()
                or dispatch_depth()
            ):
                if self._grad is not grad:
                    set_grad(grad)
            else:
                self._state = snapshot()
                switch_to((grad, False, dtype, None, (), ()), self._state, self._guards)
            del wanted[module]
            if self.ended:
                self._release()
        if self.error is not None:
            self._fail()
        return True

    def advance(self) -> None:
        """Resume the model to the next place somebody waits for, and let the others act there."""
        serve = self.serve  # the end of the run takes it away
        if not self.ended:
            site = self.site
            if site is not None:
                self.site = None
                if self.serve is not None and site.must_settle:
                    self._settle(site)
                elif site.is_touched:
                    self._note_touch(site)
            self._switch(None)
            if self.error is not None:
                self._fail()
        if serve is not None:
            serve()

    def _fail(self) -> None:
        error, self.error = self.error, None
        assert error is not None
        try:
            explained = self.explain(self, error)
            self.failure = f"{type(error).__name__}: {error}"
            if explained is error:
                raise error
            raise explained from None
        finally:
            del error, explained  # they hold this frame through their tracebacks

    def _settle(self, site: Site) -> None:
        self.refuse_in_checkpoint(site, self._lines_at(site) or f"\n  {show_line(site.line)}")
        if site.is_touched:
            self._note_touch(site)
        try:
            site.settle()
        except EditError as error:
            place = f"{self.name(site.module)}.{site.kind}"
            explained = EditError(f"`{place}`: {error}{self._lines_at(site)}")
            explained.line = next((edit.line for edit in reversed(self.edits) if edit.site is site), None)
            raise explained from None

    def _lines_at(self, site: Site) -> str:
        lines = [edit.line for edit in self.edits if edit.site is site]
        return "".join(f"\n  {show_line(line)}" for line in dict.fromkeys(lines))

    def conclude(self) -> None:
        """The bodies are done; only a second forward has something left to do (rerun.py)."""

    def _note_touch(self, site: Site) -> None:
        if site.derived:
            site.put_back()
        what = describe(site.value if site.kind == "output" else site.value[0])
        self.note_edit(site, what, "changed in place")
        if self.owner is not None:
            self.owner.note_left(site)
        site.recount()

    def copied(self, participant: Participant, site: Site) -> Any:
        """What was there before a change in place; only some runs keep that (recording.py)."""
        return None

    def note_edit(self, site: Site, before: str, after: str) -> None:
        """Remember an edit, for the message if the model fails later."""
        path = self.name(site.module)
        self.edits.append(Edit(path, site.kind, site.line, before, after, site))
        self.refuse_in_checkpoint(site, self._lines_at(site))

    def refuse_in_checkpoint(self, site: Site, lines: str) -> None:
        """Refuse an edit that the backward pass would not know of."""
        carrier = self._carrier
        if self.grad and carrier is not None and is_in_checkpoint(carrier.gr_frame):
            raise EditError(refusal(f"{self.name(site.module)}.{site.kind}", lines))

    def finish(self) -> Any:
        """Run to the end and return what the call returned."""
        while not self.ended:
            self.advance()
        return self.result

    def close(self) -> None:
        """Unwind the call if it is still held, and take the gates off. Safe to call twice."""
        try:
            if self._began and not self.ended and not sys.is_finalizing():
                self._wanted_inputs.clear()
                self._wanted_outputs.clear()
                self._wanted_passes.clear()
                self.watchers = {}
                self.site = None
                # An interrupt may have ended the greenlet before the model began.
                while not self.ended and not (self._carrier is not None and self._carrier.dead):
                    self._switch(Stop())
                self.error = None
        finally:
            if self._began and not self.ended:
                # Interrupted: a model is still in that greenlet, so nobody may use it again.
                self._carrier = None
            self.ended = True
            self._release()

    def _switch(self, thrown: BaseException | None) -> None:
        """Let the model's greenlet run, under its own torch switches, until it comes back."""
        self._home = getcurrent()
        carrier = self._carrier
        grad, dtype = is_grad_enabled(), get_default_dtype()
        # As a rule the two sides differ in nothing but grad mode, which is quick to change.
        mine = snapshot() if is_more_than_grad() else None
        if carrier is None:
            carrier = self._carrier = borrow(self._task)
            carrier.model_run = self
            self._began = True
            self._grad, self._dtype = grad and self.grad, dtype
            self._state = None if mine is None else with_grad(mine, self._grad)
        if mine is None and self._state is None and dtype is self._dtype:
            set_grad(self._grad)
        else:
            mine = mine or snapshot()
            switch_to(self._state or (self._grad, False, self._dtype, None, (), ()), mine, self._guards)
        try:
            if thrown is None:
                carrier.switch()
            else:
                carrier.throw(thrown)
        finally:
            self._grad, self._dtype = is_grad_enabled(), get_default_dtype()
            if mine is None and self._dtype is dtype and not is_more_than_grad():
                self._state = None
                set_grad(grad)
            else:
                self._state = snapshot()
                switch_to(mine or (grad, False, dtype, None, (), ()), self._state, self._guards)
            if self.ended:
                self._release()

    def _release(self) -> None:
        gates, self.gated = self.gated, {}
        close_gates(gates.values())
        carrier, self._carrier = self._carrier, None
        if carrier is not None and self.ended and not carrier.dead:
            give_back(carrier)
        self._home = None
        if self.ended:
            # What a run needs no more would keep inputs and blocks alive through it.
            self.serve = None
            self.call = _nothing
            self.callee = None
            if self.watchers:
                self.watchers = {}
            if self.repeat is None and self.edits:
                # Otherwise a second forward may have to put the same values back (rerun.py).
                self.edits = [replace(edit, site=None) for edit in self.edits]
            if self.repeat is None and self.skips:
                self.skips = ()

    @property
    def model_state(self) -> SideState:
        """Torch's switches on the model's side, as they were when it was left."""
        return self._state or (self._grad, False, self._dtype, None, (), ())

    @property
    def began(self) -> bool:
        """Whether the model has started to run."""
        return self._began

    def park(self) -> None:
        """Take the gates off for as long as nobody drives the call; `open` hangs them up again."""
        gates, self.gated = self.gated, {}
        close_gates(gates.values())

    def was_called(self, module: nn.Module) -> bool:
        """Whether the module was called while this run watched it."""
        return module in self._visits
