"""A run that is held open: step through a forward by hand, over as many cells as it takes.

    run = model.start("The capital of France is")
    run.step()                                       # to the end of the first block
    hidden = run.until(model.transformer.h[3].output)
    hidden[0][:, -1] = 0                             # while it stands there, edit as in a trace
    run.here                                         # where it stands, the value, its shape
    logits = run.finish()

Several runs may be open at once, each with its own greenlet. An open run that is forgotten closes
itself. A run belongs to the thread that started it and ends with it. Between two moves nothing
hangs on the model (`holding.py`).
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from types import FrameType
from typing import Any

from nbsight.core.envoy import Envoy
from nbsight.core.holding import HeldTracer, bare
from nbsight.core.paused_text import describe_run, shape_text
from nbsight.core.receipts import Receipts
from nbsight.core.sites import show_line
from nbsight.core.source import Operation, Source
from nbsight.errors import InputError, NbsightError, OutOfOrderError, PathError

__all__ = ["Here", "PausedRun"]


class Here:
    """Where a run stands.

    Attributes:
        path: The module, as in `transformer.h.3`.
        kind: "output" or "input".
        call: How often the module had been called before, in this run.
        block: The number of the block, from 0, that it is or lies in; None elsewhere.
        step: In a generation, the number of the model's pass, from 0; None otherwise.
        progress: How far the run has come, as text.
    """

    def __init__(self, tracer: HeldTracer, line: Any) -> None:
        run = tracer.run
        assert run is not None
        assert run.site is not None
        site = run.site
        if not site.is_touched:
            site.line = line  # whoever changes the value in place got it here
        # Weakly: notebooks keep what they display, and that must not keep the run.
        self._tracer = weakref.ref(tracer)
        self._place = (site.module, site.kind, site.visit)
        self._value: Any = None
        self.envoy: Any = tracer.trail.envoy_of(site.module)
        self.path = run.name(site.module)
        self.kind = site.kind
        self.call = site.visit
        self.block = tracer.trail.block_at(site.module)
        self.step = None if tracer.method == "forward" else max(run.passes - 1, 0)
        self.progress = tracer.trail.progress(site)
        self._text = shape_text(tracer, self.value)

    @property
    def value(self) -> Any:
        """The value with which the model will go on; assign to replace it.

        After the run has gone on, it is what was there when it left.
        """
        tracer = self._standing()
        if tracer is not None:
            self._value = tracer.shown_here(self.envoy)
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        frame = sys._getframe(1)
        tracer = self._standing()
        if tracer is None:
            raise OutOfOrderError(
                f"the run has left `{self.path}.{self.kind}`, so its value can no longer be replaced.\n"
                f"  {show_line((frame.f_code, frame.f_lasti))}\n`run.here` is where it stands now."
            )
        tracer.write(self.envoy, self.kind, value, frame)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The value's shape, when it has one."""
        shape = getattr(self.value, "shape", None)
        return None if shape is None else tuple(shape)

    def _standing(self) -> Any:
        """The tracer, if its run still stands here."""
        tracer = self._tracer()
        run = None if tracer is None else tracer.run
        site = None if run is None else run.site
        if site is None or (site.module, site.kind, site.visit) != self._place:
            return None
        return tracer

    def __repr__(self) -> str:
        return f"{self.path}.{self.kind}: {self._text}  {self.progress}"


class PausedRun:
    """One forward, held open. Made by `model.start(...)`; also a context manager and iterable."""

    def __init__(self, tracer: HeldTracer) -> None:
        self._tracer = tracer

    # -- moving --------------------------------------------------------------------------------

    @property
    def until(self) -> Until:
        """Go on to a place: `run.until(model.transformer.h[3].output)`; see `Until`."""
        # Python looks this up before it computes the argument, so reading the place moves this run.
        self._tracer.home.ask(self._tracer, sys._getframe(1))
        return Until(self)

    def step(self, *, into: bool = False) -> Here | None:
        """Go on to the end of the next block and say where the run stands; None at the end.

        Args:
            into: Stop at the next submodule's output, however small, and not only at blocks.
        """
        __tracebackhide__ = True  # IPython leaves this frame out
        tracer = self._tracer
        if tracer.state == "finished":
            return None
        try:
            tracer.use()
            trail = tracer.trail
            modules = list(trail.envoys) if into else [*trail.blocks, trail.root]
            tracer.go([(module, "output") for module in modules])
        except NbsightError as error:
            raise bare(error) from None
        return self._here(sys._getframe(1))

    @property
    def here(self) -> Here | None:
        """Where the run stands; None before its first stop and after its end."""
        return self._here(sys._getframe(1))

    def _here(self, frame: FrameType) -> Here | None:
        run = self._tracer.run
        if run is None or run.site is None:
            return None
        return Here(self._tracer, (frame.f_code, frame.f_lasti))

    def finish(self) -> Any:
        """Run to the end and return what the model returned; on a finished run, return it again."""
        __tracebackhide__ = True
        tracer = self._tracer
        try:
            if tracer.state != "finished":
                tracer.use()
                tracer.to_the_end()
        except NbsightError as error:
            raise bare(error) from None
        return tracer.outcome

    def close(self) -> None:
        """Give the run up; the rest of the forward is not computed. Safe to call twice."""
        self._tracer.release()

    # -- what is known of it -------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether the forward can still go on."""
        return self._tracer.state == "open"

    @property
    def result(self) -> Any:
        """What the model returned.

        Raises:
            OutOfOrderError: the run has not finished.
        """
        if self._tracer.state == "open":
            raise OutOfOrderError("this run has not finished; `run.finish()` takes it to its end.")
        if self._tracer.state != "finished":
            self._tracer.check_open()
        return self._tracer.outcome

    @property
    def tokens(self) -> list[str] | None:
        """The prompt's tokens; None for several prompts or a model without a tokenizer."""
        find = self._tracer.driver.tokens
        return None if find is None else find()

    @property
    def edits(self) -> Receipts:
        """What has been changed in this run so far, by hand or by kept edits, and by how much."""
        return self._tracer.edits

    # -- the forms of use ----------------------------------------------------------------------

    def __enter__(self) -> PausedRun:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __iter__(self) -> Iterator[Here]:
        """Every block's output from here on, and the model's: `for here in run: ...`.

        `break` leaves the run open where it stands.
        """
        while (here := self.step()) is not None:
            yield here

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self.close()

    def __repr__(self) -> str:
        return describe_run(self._tracer)


class Until:
    """Go on to a place and return its value.

    Called with the place, written as in a trace, `run.until(model.transformer.h[3].output)`, or as a
    path: `run.until("transformer.h.3.output")`. A module means its output. In a generation the next
    time counts that the model comes there.

    With `again=True` the run leaves the place first if it stands there, and a place that it has
    passed may come again: for modules that one forward calls several times.
    """

    def __init__(self, run: PausedRun) -> None:
        self._run = run
        self._reads = run._tracer.reads

    def __call__(self, place: Any, *, again: bool = False) -> Any:
        __tracebackhide__ = True
        tracer = self._run._tracer
        frame = sys._getframe(1)
        try:
            if not isinstance(place, (str, Envoy, Operation)):
                if tracer.reads == self._reads:
                    raise InputError(_not_a_place(frame))
                return place  # reading the place has already taken the run there
            tracer.use()
            tracer.home.ask(tracer, frame)
            envoy, what = (place, "output") if not isinstance(place, str) else self._find(place)
            if again:
                self._leave_for(envoy, what, frame)
            return tracer.read(envoy, what, frame)
        except NbsightError as error:
            raise bare(error) from None
        finally:
            tracer.home.asked = None

    def _leave_for(self, envoy: Any, what: str, frame: FrameType) -> None:
        tracer = self._run._tracer
        tracer.go([(envoy._module, "output" if what == "output" else "input")])
        if tracer.state == "finished":
            place = f"{envoy._path}.{what}".lstrip(".")
            raise OutOfOrderError(
                f"the run ended before it came to `{place}` again.\n"
                f"  {show_line((frame.f_code, frame.f_lasti))}\n`run.result` is what the model returned."
            )

    def _find(self, text: str) -> tuple[Any, str]:
        path = text.replace("[", ".").replace("]", "").removeprefix("model.")
        above, _, what = path.rpartition(".")
        if what not in ("output", "input", "inputs"):
            above, what = path, "output"
        found = self._run._tracer.root
        for part in above.split(".") if above not in ("", "model") else ():
            found = _below(found, part)
        if not isinstance(found, (Envoy, Operation)):
            raise PathError(
                f'"{text}" is no place in the model; write a path such as "transformer.h.3.output".'
            )
        return found, what


def _below(place: Any, part: str) -> Any:
    if isinstance(place, Envoy):
        if part in place._children_names():
            return place._child(part)
        if part.removeprefix("-").isdigit():
            return place[int(part)]
    return getattr(place, part) if isinstance(place, (Envoy, Source, Operation)) else None


def _not_a_place(frame: FrameType) -> str:
    return (
        "run.until takes a place in this run's model, and what it was given was not read in this run.\n"
        f"  {show_line((frame.f_code, frame.f_lasti))}\n"
        "Write `run.until(model.transformer.h[3].output)` with the place itself between the brackets; in the "
        'block of a trace, or with another model, write the path: `run.until("transformer.h.3.output")`.'
    )
