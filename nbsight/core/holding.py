"""The tracer of a run that is held open: it moves when it is told to, and at no other time.

Between two moves the model is as it was: no gate hangs on it, so it can be called, copied, pickled
and traced like any other. A read of a place where the run does not stand is an error, not a move:
completion, a debugger or a slip of the hand must not spend the forward.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from nbsight.core import alive, context
from nbsight.core.asked import first_of
from nbsight.core.batching import map_tensors
from nbsight.core.held import Home, home
from nbsight.core.participant import Key
from nbsight.core.paused_text import NEW, begun, not_there, over, passed, ran_out
from nbsight.core.sites import UNSEEN, Line, Site
from nbsight.core.source import Operation
from nbsight.core.tracer import Tracer
from nbsight.core.trail import Trail
from nbsight.errors import InputError, NbsightError, NeverCalledError, OutOfOrderError

if TYPE_CHECKING:
    from nbsight.core.model import Model

__all__ = ["HeldTracer", "bare"]


class HeldTracer(Tracer):
    """A tracer whose run no block drives.

    Attributes:
        home: The thread that it belongs to, and that thread's other runs.
        state: "open", "finished", "failed" or "closed".
        outcome: What the model returned, once it has finished.
        reads: How many values were read so far.
        trail: How far the run has come.
    """

    def __init__(self, model: Model, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__(model, method, args, kwargs)
        if self.remote:
            raise InputError(
                "a run is held open in this process, so `model.start(...)` takes no `remote`; for a remote "
                "run write `with model.trace(prompt, remote=...):`."
            )
        if not model._has_input(args, kwargs):
            raise InputError(f"`model.start(...)` needs an input: {NEW}.")
        self.home: Home = home()
        self.home.clear_orphans()
        self.state = "open"
        self.outcome: Any = None
        self.reads = 0
        self.last_place = ""
        self.trail: Trail = None  # type: ignore[assignment]
        # Every place is that of the pass which comes next.
        self.driver.step = None
        self.grad = bool(self.grad)
        prepared = model._prepare(args, self.kwargs)
        self.run = run = self.start([prepared], {})[0]
        self.driver.tokens = partial(model._tokens_of, prepared)
        self._gated: dict[Any, None] = {}
        context.enter(self)  # for the kept edits: they ask in a context that is copied here
        try:
            self.trail = Trail(model, run, is_once=method == "forward")
            self.begin_edits()
        except BaseException:
            self._leave()
            raise
        finally:
            context.leave(self)
        self._park()
        self.home.use(self)
        alive.runs.add(self)

    # -- moving --------------------------------------------------------------------------------

    @contextmanager
    def moving(self) -> Iterator[None]:
        """The model is gated and may go on."""
        run = self.run
        assert run is not None
        run.open(list(self._gated))
        try:
            yield
        finally:
            if run.ended or (self._crew is not None and self._crew.failed is not None):
                self._end()
            else:
                self._park()

    def _park(self) -> None:
        """Leave the model as if nobody were in it."""
        run = self.run
        assert run is not None
        self._gated.update(dict.fromkeys(run.gated))
        run.park()

    def go(self, keys: list[Key]) -> None:
        """Go on to the next of these places, or to the end."""
        run, wanted = self.run, set(keys)
        assert run is not None
        with self.moving():
            for place, _ in keys:
                run.open(self.trail.envoy_of(place)._gates())
            for key in keys:
                run.want(key)
            try:
                # Kept edits have stops of their own, at which they act and this run does not stand.
                while not run.ended:
                    run.advance()
                    if run.site is not None and (run.site.module, run.site.kind) in wanted:
                        return
            finally:
                for key in keys:
                    run.unwant(key)

    def to_the_end(self) -> Any:
        """Let the model finish, and return what it returned."""
        assert self.run is not None
        with self.moving():
            self.run.finish()
        return self.outcome

    def _end(self) -> None:
        run = self.run
        assert run is not None
        if run.finished and self.state == "open":
            self.state = "finished"
            shown = self.method == "forward"
            self.outcome = self.root._show("output", run.result) if shown else run.result
        elif self.state == "open":
            self.state = "failed"
        try:
            self.say_all()
        finally:
            self._leave()

    def _leave(self) -> None:
        run = self.run
        if self.state == "open":
            self.state = "closed"
            self.last_place = self.place()
        if run is not None:
            # Reads that only the model knew stay with those who have them.
            run.watchers = {}
        super()._leave()
        self.home.drop(self)
        if self.home.asked is not None and self.home.asked[0] is self:
            self.home.asked = None
        if self.trail is not None:
            self.trail.given = ((), {})  # the model's inputs

    def release(self) -> None:
        """Give the run up; safe to call twice, and from any thread."""
        if self.state != "open":
            return
        if threading.get_ident() == self.home.thread:
            try:
                self.say_all()
            finally:
                self._leave()
        else:  # only its own thread can unwind it, and will when it starts a run or ends
            self.state = "closed"
            self.home.orphans.append(self)

    # -- what envoys ask for -------------------------------------------------------------------

    def read(self, envoy: Any, what: str, frame: FrameType) -> Any:
        """The value at the place where the run stands, or to which `until` takes it."""
        __tracebackhide__ = True  # IPython leaves this frame out
        was_open = self.state == "open"
        try:
            value = super().read(envoy, what, frame)
        except (NeverCalledError, OutOfOrderError) as error:
            raise bare(ran_out(self, envoy, what, error) if was_open else error) from None
        except NbsightError as error:
            raise bare(error) from None
        if self.participant() is self.driver:
            self.reads += 1
            self.home.asked = None
        if self.grad:
            map_tensors(value, _retain)
        return value

    def write(self, envoy: Any, what: str, value: Any, frame: FrameType) -> None:
        """Replace the value at the place where the run stands."""
        __tracebackhide__ = True
        try:
            super().write(envoy, what, value, frame)
        except NbsightError as error:
            raise bare(error) from None

    def skip(self, envoy: Any, value: Any, frame: FrameType) -> None:
        """Replace the call of the module in front of which the run stands."""
        __tracebackhide__ = True
        try:
            super().skip(envoy, value, frame)
        except NbsightError as error:
            raise bare(error) from None

    def _reach(self, envoy: Any, what: str, frame: FrameType) -> tuple[Site, Any]:
        if self.participant() is not self.driver:  # a kept edit: it waits until the run comes by
            return super()._reach(envoy, what, frame)
        line = (frame.f_code, frame.f_lasti)
        asked = self.home.asked_by(frame) is self
        self.check_open(line if asked else None)
        run = self.run
        assert run is not None
        kind = "output" if what == "output" else "input"
        if run.stands_at((envoy._module, kind)):
            return super()._reach(envoy, what, frame)
        if not asked:
            raise OutOfOrderError(not_there(self, envoy, what, line))
        self.check_ahead(envoy, what, line)
        with self.moving():
            return super()._reach(envoy, what, frame)

    def check_open(self, line: Line | None = None) -> None:
        """Raise what there is to say if the run is over or belongs to another thread."""
        if self.state != "open":
            raise OutOfOrderError(over(self, line))
        if threading.get_ident() != self.home.thread:
            raise InputError(
                "a run can only go on in the thread that started it; start it in the thread where it is used."
            )

    def check_ahead(self, envoy: Any, what: str, line: Line | None) -> None:
        """Raise OutOfOrderError if the run has passed a place that it will not see again."""
        assert self.run is not None
        seen = True
        if isinstance(envoy, Operation):
            seen = self.trail.watch_operations(self.run, envoy._view)
            self._park()
        kind = "output" if what == "output" else "input"
        if self.method == "forward" and (not seen or self.trail.has_passed(envoy._module, kind)):
            raise OutOfOrderError((passed if seen else begun)(self, envoy, what, line))

    # -- what is known of it -------------------------------------------------------------------

    def use(self) -> None:
        """Check that the run can go on, and make it the one that bare reads mean."""
        self.check_open()
        self.home.clear_orphans()
        self.home.use(self)
        self.say_all()

    def shown_here(self, envoy: Any) -> Any:
        """The value where the run stands, as a trace would show it."""
        site = self.run.site if self.run is not None else None
        assert site is not None
        shown = site.shown_to(self.driver, UNSEEN)
        if shown is UNSEEN:
            view = site.view(self.driver)
            shown = envoy._show(site.kind, view if site.kind == "output" else first_of(view))
            site.show(self.driver, shown)
            if self.grad:
                map_tensors(shown, _retain)
        return shown

    def say_all(self) -> None:
        """Warn of what the edits so far may not have meant."""
        if self.ledger is not None:
            frame: FrameType | None = sys._getframe(1)
            while frame is not None and str(frame.f_globals.get("__name__")).startswith("nbsight."):
                frame = frame.f_back
            self.say_edits({} if frame is None else frame.f_globals)

    def place(self) -> str:
        """Where the run stands, as in `transformer.h.3.output`."""
        site = self.run.site if self.run is not None else None
        return "" if site is None or self.run is None else f"{self.run.name(site.module)}.{site.kind}"


def bare(error: NbsightError) -> NbsightError:
    """The error without the frames that it came through: its message says the user's line."""
    error.__traceback__ = None
    return error


def _retain(tensor: Any) -> Any:
    if tensor.requires_grad and not tensor.is_leaf:
        tensor.retain_grad()
    return tensor
