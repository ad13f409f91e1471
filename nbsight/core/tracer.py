"""Tracers: what `with model.trace(...)` and `with model.generate(...)` give.

With an input, the block runs where it stands and drives the run itself (`Participant`). Without
one, the block collects `tracer.invoke(...)` blocks, which run together at its end as workers.
With `remote=`, the block is captured and runs elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from nbsight.core import context, explain
from nbsight.core.alive import ended
from nbsight.core.asked import Asked
from nbsight.core.backend import in_job, in_rehearsal
from nbsight.core.backward import unwatch, watch
from nbsight.core.cache import Cache, fill
from nbsight.core.captured import Captured
from nbsight.core.crew import Crew
from nbsight.core.displays import tracer_text
from nbsight.core.edits import replay
from nbsight.core.extra import Extra, say
from nbsight.core.finite import watch_finite
from nbsight.core.gates import open_gates
from nbsight.core.generation import generation_of
from nbsight.core.gradients import Handed
from nbsight.core.invokes import Invoker, run_invokes
from nbsight.core.leaving import leave_block
from nbsight.core.loops import Loop, Loops, go_on
from nbsight.core.mentions import GRADIENTS, topics
from nbsight.core.participant import Participant
from nbsight.core.receipts import Receipts
from nbsight.core.recording import check_left, record
from nbsight.core.repeatable import remember
from nbsight.core.rerun import go_back
from nbsight.core.run import Run
from nbsight.core.saving import Saved, note_rows, warn_of_changes
from nbsight.core.scan import fake_call
from nbsight.core.sites import Line, Site
from nbsight.core.steps import Step, StepList
from nbsight.core.torch_state import is_grad_enabled, set_grad
from nbsight.errors import InputError, NbsightError, OutsideTraceError

if TYPE_CHECKING:
    from nbsight.core.model import Model

__all__ = ["Tracer"]

#: Accepted wherever nnsight code gives them; they mean something to a remote backend only.
_REMOTE_OPTIONS = ("blocking", "verbose", "job_id", "backend", "rehearse")


#: How many statements' habits a model keeps.
_HABITS = 256


class _EndBlock(BaseException):
    """Raised by `tracer.stop()` to leave the tracer's block; swallowed at its end."""

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer


class Tracer(Asked):
    """One trace. Made by `model.trace(...)`; lives in a `with` statement.

    Attributes:
        iter: The steps of a generation: `for step in tracer.iter[:]`.
        steps: The steps that it has made.
    """

    # What most traces never need has its default here.

    grad_asked: bool | None = None
    finish_asked = False
    remote: Any = None
    scan = False
    #: The worker whose block failed, while that is being explained.
    failed: Any = None
    failed_at: Any = None
    #: Whether the block is the body of a `@contextmanager`, so that others' code runs in it.
    lent = False
    #: Whether code that the block did not call may read from it.
    answers_anywhere = False
    #: What the code around the block speaks of; None when its values may be used anywhere.
    spoken: int | None = None
    #: Whether the model was told to leave out what that code does not speak of.
    is_light = False
    #: Whether a read of what the model has passed is an error; None leaves it to the model.
    strict_order: bool | None = None
    #: What was read out of order, in one more forward.
    extra: Sequence[Extra] = ()
    #: Whether values are watched for NaN and Inf, and the rows of each invoke then.
    check_finite = False
    checked: Any = None
    #: Whether a cache holds what the run has come by.
    has_caches = False
    _crew: Crew | None = None
    _captured: Captured | None = None
    _has_result = False
    #: Whether gradients were enabled around the block.
    _had_grad = True

    def __init__(self, model: Model, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.root = model
        self.method = method
        self.grad: bool | None = None
        if kwargs:
            kwargs = dict(kwargs)
            self.grad = self.grad_asked = kwargs.pop("grad", None)
            self.finish_asked = bool(kwargs.pop("finish", False))
            self.remote = kwargs.pop("remote", None)
            self.scan = bool(kwargs.pop("_scan", False))
            self.strict_order = kwargs.pop("strict_order", None)
            self.check_finite = bool(kwargs.pop("check_finite", False))
            self.receipts = kwargs.pop("receipts", None)
            if not self.remote:
                for option in _REMOTE_OPTIONS:
                    kwargs.pop(option, None)
        if in_rehearsal():
            self.scan = True
            if method != "forward":
                raise InputError("a generation's steps depend on numbers, and a rehearsal has none.")
        self.args = args
        self.kwargs = kwargs
        self.driver = Participant()
        if method == "generate":
            # Outside a loop over steps, a generation's places are those of its first pass.
            self.driver.step = 0
        if method != "forward":
            self.generation = generation_of(model, method, kwargs, bool(self.remote) and not in_job())
        self.invokes: list[Invoker] = []
        self.saved = []

    # -- the with statement --------------------------------------------------------------------

    def __enter__(self) -> Tracer:
        __tracebackhide__ = True
        frame = sys._getframe(1)
        if self.remote and not in_job():
            try:
                self._captured = Captured(frame, "a remote trace")
            except NbsightError as error:
                error.__traceback__ = None  # our frames say nothing to the user
                raise error
            return self
        frame = context.users_frame(frame)
        self.done, self.run, self.invokes = False, None, []
        self._had_grad = is_grad_enabled()
        back = frame.f_back
        self.lent = back is not None and back.f_globals.get("__name__") == "contextlib"
        self.spoken = topics(frame.f_code, frame.f_globals)
        if self.grad is None:
            self.grad = bool(self.spoken & GRADIENTS)
        try:
            if self.root._has_input(self.args, self.kwargs):
                prepared = self.root._prepare(self.args, self.kwargs)
                self.run = self.start([prepared], {})[0]
                self.driver.tokens = partial(self.root._tokens_of, prepared)
            self.frame = frame
            if self.run is not None:
                self._open_usual(frame)
            self.answers_anywhere = context.answers_anywhere(self)
            context.enter(self)
            if self.grad:
                self.handed = Handed()
                watch(self.handed)
            self.begin_edits()
        except BaseException as error:  # also an interrupt: `__exit__` is not called after it
            self._leave()
            set_grad(self._had_grad)
            if isinstance(error, NbsightError):
                error.__traceback__ = None  # our frames say nothing to the user
            raise error
        return self

    def _open_usual(self, frame: FrameType) -> None:
        """Hang up all gates at once that the same statement needed when it ran last.

        That is a third of what it costs to do so one by one, between two layers, where nothing is
        in the processor's caches. A gate too many is passed through; what is missing comes later.
        """
        run = self.run
        assert run is not None
        self._habit = habit = (frame.f_code, frame.f_lasti)
        known = self.root._habits.get((id(habit[0]), habit[1]))
        if known is not None and known[0] is habit[0]:
            open_gates([m for envoy in known[1] for m in envoy._gates()], run.spares, run.gated)

    def _note_usual(self) -> None:
        """Remember the places that had to be opened one by one, for the next time."""
        run = self.run
        # Loops count a module's calls from where it is first asked for: those have no habits.
        if run is not None and run.opened and self._habit is not None and not run.counts_calls:
            code, offset = self._habit
            habits = self.root._habits
            if len(habits) >= _HABITS:
                habits.clear()
            habits[id(code), offset] = (code, run.opened)

    def begin_edits(self) -> None:
        """Let the model's kept edits take their places in a run that the block drives."""
        if self.run is not None and self.root._edits:
            self._crew = replay(self, self.run)
            if self._crew is not None:
                self._crew.serve()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if self._captured is not None:
            if not self._captured.left(kind):
                return False
            self._captured.send(
                self.remote,
                self.root,
                "trace",
                self.method,
                self.args,
                {**self.kwargs, **self._own_options()},
                self,
                grad=self.grad,
                finish=self.finish_asked,
            )
            return True
        __tracebackhide__ = True  # IPython leaves this frame out
        stopped = isinstance(error, _EndBlock) and error.tracer is self
        failure: BaseException | None = None if stopped else error
        better: BaseException | None = None
        try:
            if error is None:
                try:
                    self._complete()
                except _EndBlock as end:  # a callback of the generation asked to stop
                    if end.tracer is not self:
                        raise
                except BaseException as problem:  # also an interrupt: the same is done for all
                    failure = problem
            if failure is not None:
                better = leave_block(self, failure)
                if better is not error:
                    raise better from better.__cause__
                return False
            names = {} if self.frame is None else self.frame.f_globals
            warn_of_changes(self.saved, names)
            self.say_edits(names)
            if self.extra:
                say(self.extra)
            if ended:
                for listener in ended:
                    listener(self)
            return True
        finally:
            try:
                self._leave()
            except KeyboardInterrupt as interrupt:  # what it kept from being done is done now
                failure = interrupt
                self._leave()
                raise
            finally:
                if isinstance(failure, KeyboardInterrupt):  # it may have come between two switches
                    set_grad(self._had_grad)
            # The frame would keep the error, the error's traceback the frame.
            del failure, error, better

    def _own_options(self) -> dict[str, Any]:
        """The options that a job has to hand to its own tracer, where they are not the default."""
        options = {"strict_order": self.is_strict, "check_finite": self.check_finite}
        asked = {} if self.receipts is None else {"receipts": self.receipts}
        return {name: value for name, value in options.items() if value} | asked

    @property
    def is_strict(self) -> bool:
        """Whether a read of what the model has passed is an error at once."""
        return self.root.strict_order if self.strict_order is None else bool(self.strict_order)

    def _leave(self) -> None:
        """Unwind the run and let go of everything, however the block was left."""
        try:
            if self._crew is not None:
                self._crew.close()
                self._crew = None
            if self.run is not None:
                self._note_usual()
                self.run.repeat = None  # first: with it, closing keeps what was written
                self.run.close()
                self.run.owner = None
                if not self._has_result:
                    self.run.result = None
        finally:
            handed, self.handed = self.handed, None
            if handed is not None:
                unwatch(handed)
                handed.close()
            self.done = True
            self.answers_anywhere = False
            context.leave(self)
            self.frame = None
            self.invokes = []
            if self.extra:
                self.extra = ()
            if not in_job():  # a job's results are picked from what it saved
                self.saved = []
            self.failed = self.failed_at = None
            if self.generation is not None:
                self.generation.close()
            if self.ledger is not None:
                self.ledger.close()

    def _complete(self) -> None:
        if self.run is None:
            if self.invokes:
                run_invokes(self)
        elif self.must_finish:
            self.run.finish()
        run = self.run
        if run is not None:
            if run.site is not None and run.site.is_touched:
                self.note_left(run.site)
            if self.receipts:
                check_left(run)
            if run.behind is not None:
                run.conclude()
        if run is not None and run.finished:
            self._has_result = self.method != "forward" or self.finish_asked

    @property
    def must_finish(self) -> bool:
        """Whether the run must go to its end: somebody can see what comes after the last read."""
        run = self.run
        site = run.site if run is not None else None
        return (
            self.finish_asked
            or self.method != "forward"
            or bool(run is not None and run.watchers)
            or self._fills_cache
            # Nothing is left to compute, and the model's own hooks may as well fire.
            or bool(site is not None and site.module is self.root._module)
            or self.root._is_training()  # last: it looks at every module
        )

    def start(self, prepared: list[Any], options: dict[str, Any]) -> tuple[Run, Any]:
        """A run of the model on these inputs, held before its first module, and the rows."""
        root = self.root
        if not self.scan:
            root._load()
        args, kwargs, rows = root._join(prepared, self.method, options)
        self._fills_cache = kwargs.get("past_key_values") is not None
        if self.spoken is not None and self.method == "forward" and not in_job():
            self.is_light = root._lighten(kwargs, self.spoken)
        module = root._module
        method = module if self.method == "forward" else getattr(module, self.method)
        make_run: Callable[..., Run] = Run
        if self.generation is not None:
            generation = self.generation = self.generation.fresh()
            rows, make_run = generation.begin(self, kwargs, rows), generation.make_run
        run = make_run(
            fake_call(module, args, kwargs) if self.scan else lambda: method(*args, **kwargs),
            root._stepping(self.method),
            grad=bool(self.grad),
            name=root._path_of,
            spares=root._spares,
        )
        run.explain = explain.model_failed
        run.model, run.owner = root, self
        if self.receipts:
            record(run)
        if self.method == "forward" and not self._fills_cache:
            run.repeat = remember(args, kwargs)
        self.run = run  # from here on the end of the block takes the gates off
        run.open([module] if run.root is module else [module, run.root])
        if self.check_finite and not self.scan:
            self.checked = rows
            watch_finite(self, run, rows)
        return run, rows

    def run_through(self) -> Any:
        """Run without a block and return the model's output."""
        if self.grad is None:
            self.grad = True
        self.run, _ = self.start([self.root._prepare(self.args, self.kwargs)], {})
        context.enter(self)
        try:
            self.begin_edits()
            result = self.run.finish()
            return self.root._show("output", result) if self.method == "forward" else result
        except Exception as error:
            better = leave_block(self, error)
            if better is error:
                raise
            raise better from None
        finally:
            self._leave()

    def _go_back(
        self, run: Run, participant: Any, envoy: Any, what: str, line: Line, stood: Site | None
    ) -> Run:
        return go_back(self, run, participant, envoy, what, line, stood)

    # -- what a block can ask for --------------------------------------------------------------

    def __repr__(self) -> str:
        return tracer_text(self)

    def invoke(self, *args: Any, **kwargs: Any) -> Invoker:
        """Add an input to the batch: `with tracer.invoke(prompt): ...`; all share one forward.

        Args:
            args: The input. Without one, the block sees the whole batch.
        """
        return Invoker(self, args, kwargs)

    @property
    def iter(self) -> Loops:
        """The steps of a generation: `for step in tracer.iter[:3]`; the loop ends with the model."""
        return Loops(self)

    def all(self) -> Loop:
        """All steps, the same as `tracer.iter[:]`."""
        return Loops(self)[:]

    def next(self, count: int = 1) -> Step:
        """Go on to the next step of a generation; what is asked for from now on is of that step.

        Args:
            count: How many steps to go on.
        """
        return go_on(self, (self.participant().step or 0) + count)

    @property
    def steps(self) -> StepList:
        """The steps that the generation has made: `tracer.steps[3].token`, in the block and after it."""
        if self.generation is None:
            raise InputError(
                "`tracer.steps` are the steps of `model.generate(...)`; `trace` makes one pass and chooses "
                "no tokens."
            )
        if self.run is None:
            self._running("steps")
        return StepList(self.generation, None if self.done else self.participant().rows)

    @property
    def result(self) -> Any:
        """What the call returned (token ids for `generate`); runs the model to its end."""
        run = self._running("result")
        if not self.done:
            participant = self.participant()
            participant.wait_for_end(run)
            self._has_result = True
            if participant.rows is None:
                return run.result
            owner = self.generation or self.root
            return owner._own_result(participant.rows, run.result)
        if self._has_result:
            return run.result
        raise OutsideTraceError(
            "`tracer.result` was asked for after the block, and this run was not taken to its end. "
            "Ask inside the block: `result = tracer.result`, or give `finish=True` to the trace."
        )

    def cache(
        self,
        modules: Any = None,
        *,
        device: Any = "cpu",
        dtype: Any = None,
        detach: bool = True,
        include_output: bool = True,
        include_inputs: bool = False,
        non_blocking: bool = False,
    ) -> Cache:
        """Keep copies of many modules' values, without stopping at each.

        Args:
            modules: Envoys or paths; all modules by default.
            device: Where the copies go; None leaves them where they are.
            dtype: Their dtype; None keeps each tensor's own.
            detach: Whether to cut them from the graph.
            include_output: Whether to keep what the modules return.
            include_inputs: Whether to keep what they are given.
            non_blocking: As in `torch.Tensor.to`.

        Returns:
            A cache that fills while the model runs: `cache.transformer.h[0].output`. In a
            generation it has one entry a step.
        """
        run = self._running("cache")
        rows, generation = self.participant().rows, self.generation
        self.has_caches = True
        return fill(
            run,
            self.root,
            rows,
            modules,
            is_over=None if generation is None or rows is None else partial(generation.all_ended, rows),
            device=device,
            dtype=dtype,
            detach=detach,
            include_output=include_output,
            include_inputs=include_inputs,
            non_blocking=non_blocking,
        )

    def stop(self) -> None:
        """End the run here; what the block has read so far is kept, the rest of it does not run."""
        participant = self.participant()
        if participant is self.driver:
            if self.run is not None:
                self.run.close()
            raise _EndBlock(self)
        participant.stop()

    def barrier(self, count: int = 0) -> Any:
        """Accepted for nnsight code and needed by nobody: names are awaited by themselves."""
        return lambda: None

    @property
    def edits(self) -> Receipts:
        """The receipts of the edits so far: what each changed, and by how much."""
        site = self.run.site if self.run is not None else None
        if site is not None and site.is_touched:
            self.note_change(self.participant(), site, site.newly_changed())
        return Receipts() if self.ledger is None else self.ledger.receipts()

    def say_edits(self, names: dict[str, Any]) -> None:
        """Warn of what the edits so far may not have meant; `names` are the globals of their code."""
        if self.ledger is not None:
            self.ledger.say(names)

    def note_saved(self, value: Any, record: Saved | None) -> None:
        """Remember that `value` was saved in this trace."""
        self.saved.append((value, record))
        if context.is_nested():
            for outer in context.running():
                if outer.root is None:  # a session: it may have to send the value back
                    outer.note_saved(value, record)
        if record is not None:
            run = self.run
            participant = self.driver if run is None or run.serve is None else self.participant()
            record.origin = participant.last
            record.tokens = participant.tokens
            if participant.rows is not None and not participant.rows.is_whole:
                note_rows(participant, value, record)
