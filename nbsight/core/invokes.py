"""Invokes: several inputs in one forward, each with a block of its own.

The blocks wait until the whole batch is known, so their text is captured. Where there is no text
(an `exec`, stdin) an invoke's block runs at once, in place, in a forward of its own: slower, the
same numbers.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

from nbsight.core.capture import Block, BodySkipped, block_at, skip_body
from nbsight.core.crew import Crew
from nbsight.core.displays import call_text
from nbsight.core.edits import replay
from nbsight.core.rerun import begin_again
from nbsight.core.scope import Names, frame_values, is_left_behind, write_back
from nbsight.core.workers import Side, Worker, side_now
from nbsight.errors import CaptureError, InputError

if TYPE_CHECKING:
    from nbsight.core.tracer import Tracer

__all__ = ["Invoker", "run_invokes"]


_OPENERS = frozenset({"invoke"})


class Invoker:
    """One `with tracer.invoke(...)` statement."""

    #: Its input as the model's `_prepare` gives it; None if it adds no rows (it sees all of them).
    prepared: Any = None
    block: Block | None = None
    frame: FrameType | None = None
    #: What the names that the body reads meant when it was captured.
    values: dict[str, Any]
    side: Side | None = None
    _undo: Any = None

    def __init__(self, tracer: Tracer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.tracer = tracer
        self.args = args
        self.kwargs = kwargs

    def __repr__(self) -> str:
        has_input = self.tracer.root._has_input(self.args, self.kwargs)
        given = call_text(self.args, self.kwargs) if has_input else "the whole batch"
        line = "" if self.block is None else f", line {self.block.line}"
        return f"invoke of {given}{line}"

    def __enter__(self) -> Invoker:
        self._prepare()
        frame = sys._getframe(1)
        block = block_at(frame, _OPENERS)
        if block is None:
            self._start_in_place(frame)
            return self
        self._keep(block, frame_values(frame, block.loads), frame)
        self._undo = skip_body(frame)
        return self

    def take(self, block: Block, values: dict[str, Any], frame: FrameType) -> None:
        """Wait with a body that somebody else has found, in the stead of a `with` statement.

        Args:
            block: The body.
            values: What the names that it reads mean.
            frame: Where the names that it binds go.
        """
        self._prepare()
        self._keep(block, values, frame)
        self.tracer.invokes.append(self)

    def _prepare(self) -> None:
        tracer = self.tracer
        if tracer.run is not None:
            raise InputError(
                "this trace already has an input, so it cannot take an invoke. Write "
                "`with model.trace() as tracer:` and give every prompt to a "
                "`with tracer.invoke(prompt):` of its own."
            )
        root = tracer.root
        if root._has_input(self.args, self.kwargs):
            self.prepared = root._prepare(self.args, self.kwargs)

    def _keep(self, block: Block, values: dict[str, Any], frame: FrameType) -> None:
        self.block, self.values, self.frame = block, values, frame
        self.side = side_now()

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
        if self.prepared is None:
            raise CaptureError(
                "an invoke without an input sees the whole batch, so it must wait for the others; "
                f"code from {frame.f_code.co_filename!r} has no text to wait with. Put it into a "
                "cell or a file."
            )
        self.tracer.saved_before = len(self.tracer.saved)
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
    tokens_of = tracer.root._tokens_of
    for invoker in tracer.invokes:
        assert invoker.block is not None
        assert invoker.frame is not None
        names = Names(invoker.values, invoker.frame.f_globals)
        if invoker.block.target is not None:
            names[invoker.block.target] = invoker
        own = of.get(invoker)
        rows_seen = own if len(filled) > 1 or own is None else None
        worker = Worker(invoker.block, names, rows_seen, invoker.side)
        worker.run = run
        worker.step = tracer.driver.step
        if own is not None:
            worker.prepared, worker.tokens_of = invoker.prepared, tokens_of
        crew.add(worker)
    for invoker, worker in zip(tracer.invokes, crew.workers[edits:], strict=True):
        if not worker.names.fill(crew.binders):
            worker.is_stale = invoker.is_stale
    try:
        crew.work(finish=tracer.must_finish)
        while crew.is_late:
            begin_again(tracer, crew)
            crew.work(finish=False)
    finally:
        tracer.failed, tracer.failed_at = crew.failed, crew.failed_at
        # What the bodies bound is the user's even when a later body failed.
        _bind(tracer.invokes, crew.workers[edits:])
        crew.close()
        run.close()


def _bind(invokers: list[Invoker], workers: list[Worker]) -> None:
    """Bind what the bodies have bound in the frames that they were taken from, later ones last."""
    at: tuple[FrameType, str] | None = None
    bound: dict[str, Any] = {}
    gone: set[str] = set()
    for invoker, worker in zip(invokers, workers, strict=True):
        block, frame, invoker.frame = worker.block, invoker.frame, None
        assert frame is not None
        if at is None or frame is not at[0] or block.filename != at[1]:
            if at is not None:
                write_back(at[0], bound, at[1], gone)
            at, bound, gone = (frame, block.filename), {}, set()
        if block.target is not None:
            bound[block.target] = invoker
        bound.update(worker.bound())
        if worker.names.deleted:
            gone = (gone | worker.names.gone) - worker.bound().keys()
            bound = {name: value for name, value in bound.items() if name not in gone}
    if at is not None:
        write_back(at[0], bound, at[1], gone)
