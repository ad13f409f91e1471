"""Invokes: several inputs in one forward, each with a block of its own.

The blocks wait until the whole batch is known, so their text is captured. Where there is no text
(an `exec`, stdin) an invoke's block runs at once, in place, in a forward of its own: slower, the
same numbers.
"""

from __future__ import annotations

import sys
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from nbsight.core.capture import Block, BodySkipped, block_at, skip_body
from nbsight.core.displays import call_text
from nbsight.core.edits import replay
from nbsight.core.rerun import begin_again
from nbsight.core.scope import Names, frame_values, is_left_behind, write_back
from nbsight.core.torch_state import SideState, snapshot
from nbsight.core.workers import Crew, Worker
from nbsight.errors import CaptureError, InputError

if TYPE_CHECKING:
    from nbsight.core.tracer import Tracer

__all__ = ["Invoker", "run_invokes"]


class Invoker:
    """One `with tracer.invoke(...)` statement."""

    def __init__(self, tracer: Tracer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.tracer = tracer
        self.args = args
        self.kwargs = kwargs
        self.prepared: Any = None
        self.block: Block | None = None
        self.frame: FrameType | None = None
        self.values: dict[str, Any] = {}
        self.state: SideState | None = None
        self._undo: Any = None

    def __repr__(self) -> str:
        given = call_text(self.args, self.kwargs) if self.has_input else "the whole batch"
        line = "" if self.block is None else f", line {self.block.line}"
        return f"invoke of {given}{line}"

    @property
    def has_input(self) -> bool:
        """Whether this invoke adds rows (an empty one sees all)."""
        return self.tracer.root._has_input(self.args, self.kwargs)

    def __enter__(self) -> Invoker:
        tracer = self.tracer
        if tracer.run is not None:
            raise InputError(
                "this trace already has an input, so it cannot take an invoke. Write "
                "`with model.trace() as tracer:` and give every prompt to a "
                "`with tracer.invoke(prompt):` of its own."
            )
        if self.has_input:
            self.prepared = tracer.root._prepare(self.args, self.kwargs)
        frame = sys._getframe(1)
        self.block = block_at(frame, frozenset({"invoke"}))
        if self.block is None:
            self._start_in_place(frame)
            return self
        self.frame = frame
        self.values = frame_values(frame, self.block.loads)
        self.state = snapshot()
        self._undo = skip_body(frame)
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        if self.block is None:
            run, self.tracer.run = self.tracer.run, None
            try:
                if error is None and run is not None and run.behind is not None:
                    run.conclude()
                if error is None and self.tracer.method != "forward" and run is not None:
                    run.finish()
            finally:
                if run is not None:
                    run.close()
            return False
        self._undo()
        self._undo = None  # it holds the frame, the frame holds us
        if kind is not BodySkipped:
            return False
        self.tracer.invokes.append(self)
        return True

    def is_stale(self, name: str) -> bool:
        """Whether the frame's value of a name can only come from an earlier run of this code."""
        assert self.block is not None
        assert self.frame is not None
        return is_left_behind(self.frame, name, self.block.filename, self.block.line)

    def _start_in_place(self, frame: FrameType) -> None:
        if not self.has_input:
            raise CaptureError(
                "an invoke without an input sees the whole batch, so it must wait for the others; "
                f"code from {frame.f_code.co_filename!r} has no text to wait with. Put it into a "
                "cell or a file."
            )
        self.tracer.run = self.tracer.start([self.prepared], self.tracer.kwargs)[0]


def run_invokes(tracer: Tracer) -> None:
    """Run the collected blocks together in one forward and bind their names."""
    filled = [invoker for invoker in tracer.invokes if invoker.prepared is not None]
    if not filled:
        raise InputError(
            "no invoke of this trace has an input, so there is nothing to run; write "
            "`with tracer.invoke(prompt):`."
        )
    run, rows = tracer.start([invoker.prepared for invoker in filled], tracer.kwargs)
    tracer.run = run
    crew = replay(tracer, run) or Crew(run)
    edits = len(crew.workers)
    of = dict(zip(filled, rows, strict=False))
    for invoker in tracer.invokes:
        assert invoker.block is not None
        assert invoker.frame is not None
        names = Names(invoker.values, invoker.frame.f_globals, stale=invoker.is_stale)
        if invoker.block.target is not None:
            names[invoker.block.target] = invoker
        own = of.get(invoker)
        rows_seen = own if len(filled) > 1 or own is None else None
        worker = Worker(invoker.block, names, rows_seen, invoker.state)
        worker.run = run
        worker.step = tracer.driver.step
        worker.tokens = partial(tracer.root._tokens_of, invoker.prepared) if own else None
        crew.add(worker)
    try:
        crew.work(finish=tracer.must_finish)
        while crew.is_late:
            begin_again(tracer, crew)
            crew.work(finish=False)
    finally:
        tracer.failed, tracer.failed_at = crew.failed, crew.failed_at
        # What the bodies bound is the user's even when a later body failed.
        for invoker, worker in zip(tracer.invokes, crew.workers[edits:], strict=False):
            assert invoker.frame is not None
            bound = worker.bound()
            if worker.block.target is not None:
                bound.setdefault(worker.block.target, invoker)
            write_back(invoker.frame, bound, worker.block.filename)
            invoker.frame = None
        crew.close()
        run.close()
