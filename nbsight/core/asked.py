"""What envoys ask of a trace: to stand at a place, read what is there, write, skip.

A trace has one run, which stands at one place at a time. Whoever asks is a participant: the block,
or the body of an invoke. The run goes on until it stands where the participant asked for.
"""

from __future__ import annotations

from types import FrameType
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent

from nbsight.core import explain, worker_reads
from nbsight.core.batching import tensors_in
from nbsight.core.gradients import Handed
from nbsight.core.greenlets import Carrier
from nbsight.core.ledger import Ledger, ledger_of
from nbsight.core.participant import Participant
from nbsight.core.rerun import Rerun
from nbsight.core.run import Run
from nbsight.core.sites import UNSEEN, Line, Site, describe, show_line, versions_of
from nbsight.errors import EditError, InputError

if TYPE_CHECKING:
    from nbsight.core.generation import Generation
    from nbsight.core.model import Model
    from nbsight.core.saving import Saved

__all__ = ["Asked", "first_of"]


class Asked:
    """The run of a trace, as envoys see it."""

    root: Model
    #: The method of the model that runs: `forward`, `generate`.
    method: str
    #: Whether the block has been left.
    done = False
    #: The block itself.
    driver: Participant
    run: Run | None = None
    #: What the block has read and written, while the trace records gradients.
    handed: Handed | None = None
    #: What is known of the tokens, where the traced method is not `forward`.
    generation: Generation | None = None
    #: Whether edits in place are measured, too; False: edits leave no receipts at all.
    receipts: bool | None = None
    #: What was edited; made by the first edit.
    ledger: Ledger | None = None
    #: The frame that holds the block, while the block runs.
    frame: FrameType | None = None
    #: How much had been saved when this run began, where invokes run one after the other.
    saved_before = 0
    #: The `with` statement, as a code object and an offset in it.
    _habit: Line | None = None
    #: What it has saved.
    saved: list[tuple[Any, Saved | None]]
    _fills_cache = False

    def participant(self) -> Any:
        """Who is asking: a captured body of this run, or the block itself."""
        current = getcurrent()
        if type(current) is Carrier and current.worker is not None and current.worker.run is self.run:
            return current.worker
        return self.driver

    def _running(self, what: str) -> Run:
        if self.run is None:
            raise InputError(
                f"`{what}` was asked for, but this trace has no input of its own. Either write "
                "`with model.trace(prompt):`, or ask inside `with tracer.invoke(prompt):`."
            )
        return self.run

    def _reach(self, envoy: Any, what: str, frame: FrameType) -> tuple[Site, Any]:
        run = self.run
        if run is None:
            run = self._running(f"{envoy._path or 'model'}.{what}")
        participant = self.driver if run.serve is None else self.participant()
        kind = "output" if what == "output" else "input"
        line = (frame.f_code, frame.f_lasti)
        site = run.site
        if (
            site is None
            or site.module is not envoy._module
            or site.kind != kind
            or (participant.occurrence is not None and site.visit < participant.occurrence)
        ):
            site = self._travel(run, participant, envoy, what, kind, line)
        site.line = line
        return site, participant

    def _travel(self, run: Run, participant: Any, envoy: Any, what: str, kind: str, line: Line) -> Site:
        """Let the model go on to a place; return when it stands there."""
        stood = run.site
        gates = envoy._gates()
        module = envoy._module
        if module not in run.gated:
            run.open(gates)
            if envoy._is_module:
                run.opened.append(envoy)
        key = (module, kind)
        if participant.occurrence is not None:
            participant.wait_for_occurrence(run, key)
        elif participant is self.driver:
            run.go(module, kind)
        else:
            participant.wait(run, key)
        if run.ended:
            run = self._go_back(run, participant, envoy, what, line, stood)
        if participant.step is not None and run.passes > participant.step + 1:
            raise explain.passed_in_step(self, run, participant, envoy, what, line)
        participant.last = (envoy, what, line)
        assert run.site is not None
        return run.site

    def _go_back(
        self, run: Run, participant: Any, envoy: Any, what: str, line: Line, stood: Site | None
    ) -> Run:
        """The run that stands at a place which this one has passed, or never comes to."""
        raise NotImplementedError

    def read_output(self, envoy: Any, frame: FrameType) -> Any:
        """`read(envoy, "output", frame)` in few steps, where the block alone drives the run.

        A call of a Python function costs more between two matrix products than in a loop, since
        nothing is in the caches; so the way of every plain read is written out here and in
        `Run.go_straight`, and leaves everything unusual to `read`.
        """
        run, driver = self.run, self.driver
        if run is None:
            return self.read(envoy, "output", frame)
        if run.serve is not None or driver.occurrence is not None:
            return worker_reads.read_output(self, run, envoy, frame)
        site, module = run.site, envoy._module
        line = (frame.f_code, frame.f_lasti)
        if site is None or site.module is not module or site.kind != "output":
            stood = site
            if module not in run.gated:
                run.open(envoy._gates())
                run.opened.append(envoy)
                module = envoy._module
            if not run.go_straight(module, "output"):
                run.go(module, "output")
            site = run.site
            if site is None:
                run = self._go_back(run, driver, envoy, "output", line, stood)
                site = run.site
                assert site is not None
            if driver.step is not None and run.passes > driver.step + 1:
                raise explain.passed_in_step(self, run, driver, envoy, "output", line)
            driver.last = (envoy, "output", line)
        site.line = line
        shown = site.whole_shown
        if shown is not UNSEEN:
            return shown
        view = site.value
        if site.version is None or view._is_view():
            view = site.view(driver)
        else:
            site.whole = view
        if self.handed is not None:
            self.handed.note(view, (envoy, "output", line))
        if not envoy._is_literal:
            view = envoy._show("output", view)
        site.whole_shown = view
        return view

    def read(self, envoy: Any, what: str, frame: FrameType) -> Any:
        """The value at a module, for the participant that asks."""
        site, participant = self._reach(envoy, what, frame)
        if what == "inputs":
            view = site.view(participant)
            site.count_contents()
            if self.handed is not None:
                self.handed.note(view, (envoy, what, site.line))
            return view
        shown = site.shown_to(participant, UNSEEN)
        if shown is not UNSEEN:
            return shown
        view = site.view(participant)
        if what == "input":
            view = first_of(view)
        if self.handed is not None:
            self.handed.note(view, (envoy, what, site.line))
        return site.show(participant, envoy._show(what, view))

    def write(self, envoy: Any, what: str, value: Any, frame: FrameType) -> None:
        """Replace the value at a module in the rows of the participant that asks."""
        site, participant = self._reach(envoy, what, frame)
        self._refuse_late(participant, envoy, what, site)
        current = site.view(participant)
        if what == "output":
            accepted = envoy._accept("output", current, value)
            shown = envoy._show("output", accepted)
            before, after = describe(current), describe(accepted)
        elif what == "input":
            if not current[0] and not current[1]:
                raise EditError(
                    f"`{envoy._path}` was called without arguments, so it has no input to set; "
                    f"write `{envoy._path}.inputs = ((x,), {{}})` to give it one."
                )
            first = envoy._accept("input", first_of(current), value)
            accepted = _with_first(current, first)
            shown = envoy._show("input", first)
            before, after = describe(first_of(current)), describe(first)
        else:
            accepted = explain.check_inputs(envoy, value)
            shown = first_of(accepted)
            before, after = describe(current), describe(accepted)
        if (ledger := ledger_of(self)) is not None:
            was, now = (first_of(current), first) if what == "input" else (current, accepted)
            # `module.output *= 2` changes the value in place and then assigns it: that is one edit.
            is_back = site.is_touched and list(map(id, tensors_in(was))) == list(map(id, tensors_in(now)))
            if site.is_touched:
                self.note_left(site, participant)
            if not is_back:
                ledger.assigned(participant, site, envoy, was, now, value)
        site.assign(participant, accepted, shown)
        if self.handed is not None:
            self.handed.note(accepted, (envoy, what, site.line))
        self._running(what).note_edit(site, before, after)

    def _refuse_late(self, participant: Any, envoy: Any, what: str, site: Site) -> None:
        run = self._running(what)
        if isinstance(run, Rerun) and run.behind is not None and not participant.is_kept:
            place = f"{envoy._path}.{what}".lstrip(".")
            raise run.refusal(site.line, place, "skipped" if what == "skip" else "written")

    def skip(self, envoy: Any, value: Any, frame: FrameType) -> None:
        """Replace the call of a module by a value."""
        site, participant = self._reach(envoy, "skip", frame)
        self._refuse_late(participant, envoy, "skip", site)
        if participant.rows is not None and not participant.rows.is_whole:
            raise InputError(
                f"`{envoy._path}.skip(...)` stops the module for the whole batch, and this invoke "
                "owns only some of its rows. Skip in an empty `with tracer.invoke():` block, or "
                "assign `.output` instead."
            )
        site.skip = value
        run = self._running("skip")
        run.skipped[envoy._module] = site.line
        run.skips = [*run.skips, (site, versions_of(value))]
        run.refuse_in_checkpoint(site, f"\n  {show_line(site.line)}")
        if (ledger := ledger_of(self)) is not None:
            ledger.skipped(site, value)

    def note_change(self, participant: Participant, site: Site, changed: list[Any]) -> None:
        """Tensors of a value were changed in place."""
        if changed and (ledger := ledger_of(self)) is not None and self.run is not None:
            ledger.changed(participant, self.run, site, changed)

    def note_left(self, site: Site, participant: Participant | None = None) -> None:
        """A value was changed by who acted last, or filled with other items by who holds it."""
        ledger = ledger_of(self)
        if ledger is not None and self.run is not None:
            ledger.left(participant or self.driver, self.run, site)

    def note_late(self, path: str, line: Line | None) -> None:
        """A value was changed in place when the model had gone on from it."""
        if (ledger := ledger_of(self)) is not None:
            ledger.too_late(path, line)


def first_of(inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    """Of what a module is given, (args, kwargs), the first."""
    args, kwargs = inputs
    if args:
        return args[0]
    return next(iter(kwargs.values()), None)


def _with_first(inputs: tuple[tuple[Any, ...], dict[str, Any]], value: Any) -> Any:
    args, kwargs = inputs
    if args:
        return ((value, *args[1:]), kwargs)
    name = next(iter(kwargs))
    return (args, {**kwargs, name: value})
