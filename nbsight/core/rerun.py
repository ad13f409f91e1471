"""A second forward, for a place that the first has passed.

    late = model.h[5].output
    early = model.h[2].output     # passed by now: one extra forward, said on one line

A run keeps nothing unasked, so what it has passed is not in it any more. Where the same forward can
be run once more, a `Rerun` takes the place of the first run: the same arguments and torch switches,
the edits that the model keeps, and what the block has written, put back where it was written. It
stands where it was asked to and goes on from there like any run, so what is read next in the
model's order costs nothing more.

Until it comes to where the first run stood it only repeats it. What is read there must not be
changed: the values that were read before would not show the change.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from nbsight.core import explain
from nbsight.core.batching import tensors_in
from nbsight.core.edits import replay
from nbsight.core.extra import Extra, Late
from nbsight.core.finite import watch_finite
from nbsight.core.participant import Key, Participant, Reached, place_of
from nbsight.core.quiet import are_same, quietly
from nbsight.core.randomness import restore, states
from nbsight.core.repeatable import is_stateful, why_not
from nbsight.core.run import Run
from nbsight.core.scan import fake_call
from nbsight.core.sites import UNSEEN, Line, Site, show_line, versions_of
from nbsight.core.source import Operation
from nbsight.core.torch_state import snapshot, switch_to
from nbsight.errors import NbsightError, OutOfOrderError

if TYPE_CHECKING:
    from nbsight.core.crew import Crew
    from nbsight.core.tracer import Tracer

__all__ = ["Rerun", "begin_again", "go_back"]

#: Writes what the block has written in the first run.
_BLOCK = Participant()


class Rerun(Run):
    """The forward of a run, once more.

    Attributes:
        behind: While it only repeats: one entry, what had been reached before it (None at the end).
    """

    def __init__(self, tracer: Tracer, first: Run, late: list[Late], crew: Crew | None) -> None:
        super().__init__(
            _call(tracer, first), first.root, grad=first.grad, name=first.name, spares=first.spares
        )
        self.explain, self.model, self.repeat = first.explain, first.model, first.repeat
        self.owner = first.owner
        self.edits, self.skips, self.skipped = first.edits, first.skips, first.skipped
        self.opened = first.opened
        if tracer.finish_asked:
            self.result, self.finished = first.result, first.finished
        self.late = replace(late[0], stood=None)
        self.crew = crew
        self.kept: Crew | None = None
        #: Where the first run stood: there the two are compared. Otherwise what they return.
        self.proofs: dict[tuple[Any, str, int], Site] = {}
        self.final: tuple[Any, list[tuple[Any, Any]]] | None = None
        #: The same for a block in place; a change of what it was shown there is lost by now.
        self.frontier: tuple[Any, str, int] | None = None
        self.left: list[tuple[Site, Reached | None]] = []
        #: These three as they were until the frontier was reached: a search may only have passed by it.
        self.past: tuple[Any, Any, list[tuple[Site, Reached | None]]] | None = None
        for one in late:
            self._note_stand(one)
        self._find_frontier(tracer, first, late[0].stood)
        if self.frontier is None and not self.proofs and first.finished:
            self.final = (first.result, versions_of(first.result))
        # The last value at each place is the one that the model went on with.
        self._writes = {_place(edit.site): edit.site for edit in first.edits if edit.site is not None}
        self._skips = {_place(site): site.skip for site, _ in first.skips}
        #: Where this run itself has something to do, and the stops that nobody else wants.
        self._places = {*self._writes, *self._skips, *self.proofs, self.frontier}
        self._own: list[Key] = []

    def _note_stand(self, late: Late) -> None:
        stood = late.stood
        if stood is None:
            return
        if not stood.is_touched:  # otherwise the model has changed it in place since
            self.proofs[_place(stood)] = stood
        stood.recount()
        if self.crew is None:
            self.left.append((stood, late.last))

    def _find_frontier(self, tracer: Tracer, first: Run, stood: Site | None) -> None:
        if isinstance(first, Rerun) and first.behind is None and first.past and stood and stood.is_repeated:
            first.behind, first.frontier, first.left = first.past  # the block has not come as far again
        if isinstance(first, Rerun) and first.behind is not None:
            self.behind, self.frontier = first.behind, first.frontier
            self.left = [*first.left, *self.left]
            self.proofs = {**first.proofs, **self.proofs}
            return
        self.behind = (self.late.last,)
        if self.crew is None and stood is not None and not tracer.has_caches:
            self.frontier = _place(stood)

    def begin(self, tracer: Tracer, first: Run, asked: list[Any]) -> None:
        """Start the model as the first run had started; it comes to stand at the root's input.

        Args:
            asked: The envoys of what is asked for.
        """
        self.open([tracer.root._module, self.root])
        for place in self._places:
            if place is not None:
                self.open(_gates_of(tracer, place[0]))
                self._own.append(place[:2])
        for envoy in (*asked, *first.opened, *first.rewrites.values()):
            self.open(envoy._gates())
        key = (self.root, "input")
        self._own.append(key)
        for own in self._own:
            self.want(own)
        try:
            with _switches_of(first):
                self._states = states()
                if self.kept is not None:
                    self.kept.serve()
                self.advance()
        finally:
            self.unwant(key)
            self._own.remove(key)

    def advance(self) -> None:
        """Go on, if nothing was changed that must not be."""
        self.check()
        self._states = states()
        super().advance()

    def go(self, module: Any, kind: str) -> None:
        """Drive the model to where the block asked; from beyond the frontier there is no way back to it."""
        super().go(module, kind)
        if self.behind is None and self.site is not None:
            self.past = None

    def act(self) -> None:
        """What is done wherever the model stops: kept edits, then the block's, then the bodies."""
        if self.kept is not None:
            self.kept.serve()
        site = self.site
        if site is not None:
            self._put_back(site)
            site.is_repeated = self.behind is not None
        if states() != self._states:
            restore(self._states)
            why = "the model draws random numbers, so it would be another one"
            self._give_up(_error(self.late, self, why))
        if self.crew is not None:
            self.crew.serve()

    def _put_back(self, site: Site) -> None:
        place = _place(site)
        if place not in self._places:
            return
        self._places.remove(place)
        written, stood = self._writes.pop(place, None), self.proofs.pop(place, None)
        if written is not None and written.is_replaced:
            site.assign(_BLOCK, written.value, UNSEEN)
        elif written is not None:
            self._change(site.view(_BLOCK), written.value)
        if place in self._skips:
            site.skip = self._skips.pop(place)
        site.recount()
        self._own.remove(place[:2])
        self.unwant(place[:2])
        if stood is not None:
            self._compare(site.value, stood)
        if place == self.frontier:
            self.past = self.behind, self.frontier, self.left
            self.behind, self.frontier, self.left = None, None, []
            self._forget_writes()

    def _forget_writes(self) -> None:
        """What was written beyond where the block stood is of kept edits: they act anew, on what it does."""
        for place in {*self._writes, *self._skips} & self._places:
            self._places.remove(place)
            self._own.remove(place[:2])
            self.unwant(place[:2])
        self._writes, self._skips = {}, {}

    def _change(self, value: Any, written: Any) -> None:
        """Change a value in place, as the block has: what shares its memory changes too."""
        with quietly():
            for tensor, numbers in zip(tensors_in(value), tensors_in(written), strict=True):
                if not are_same(tensor, numbers):
                    tensor.copy_(numbers)

    def _compare(self, value: Any, stood: Site) -> None:
        """Raise if the run is not the first one once more."""
        # A body that is done with it may have changed it.
        if not stood.is_touched and not _are_alike(value, stood.value):
            self._differs(stood)

    def _differs(self, stood: Site | None) -> None:
        asked = self.late.asked
        if stood is None:
            where = "they return something else"
        else:
            place = f"{self.name(stood.module)}.{stood.kind}"
            where = f"they differ at `{place}`, or that is called several times"
        self._give_up(
            OutOfOrderError(
                f"`{place_of(asked)}` was read in a second forward, which is not the same as the first: "
                f"{where}.\n  {show_line(asked[2])}\n"
                "Between the two, a weight or a value that had been read before was changed in place, or the "
                "model does not compute the same twice.\n" + explain.order_of(asked[2], self.late.last)
            )
        )

    def check(self) -> None:
        """Raise if something was changed in place that was read out of order, or before such a read."""
        for site, reached in self.left:
            if site.is_touched:
                self._give_up(self._lost(site, reached))
        site_now = self.site
        if self.behind is not None and site_now is not None and site_now.is_touched:
            place = f"{self.name(site_now.module)}.{site_now.kind}"
            self._give_up(self.refusal(site_now.line, place, "changed"))

    def close(self) -> None:
        """Unwind the call, take the gates off, and let go of what was held for putting back."""
        super().close()
        self.kept = self.crew = None
        self.left, self.proofs, self.final, self._writes, self._skips = [], {}, None, {}, {}
        self.past = None

    def conclude(self) -> None:
        """Go on to where the first run stood, to see that this one is the same."""
        self.check()
        while (self.proofs or self.final is not None) and not self.ended:
            self.advance()
        for stood in self.proofs.values():
            self._differs(stood)
        if self.final is not None:
            result, versions = self.final
            untouched = all(thing._version == count for thing, count in versions)
            if untouched and not _are_alike(self.result, result):
                self._differs(None)

    def _give_up(self, error: NbsightError) -> None:
        self.close()  # nobody may go on to read from it
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    def _lost(self, site: Site, reached: Reached | None) -> NbsightError:
        asked = self.late.asked
        return OutOfOrderError(
            f"`{self.name(site.module)}.{site.kind}` was changed in place after the model had gone on from "
            f"it, so the change is lost.\n  {show_line(site.line)}\nThis line had sent the model on, to read "
            f"`{place_of(asked)}` in a second forward:\n  {show_line(asked[2])}\n"
            + explain.order_of(asked[2], reached)
            + " To change a value of your own, change a `.clone()`."
        )

    def refusal(self, line: Line | None, place: str, done: str) -> NbsightError:
        """The error for a change of what is only repeated."""
        last = self.behind[0] if self.behind else None
        text = (
            f"`{place}` was {done} too late: the model had passed it, and a second forward is only there "
            f"to read.\n  {show_line(line)}\n"
        )
        if last is not None:
            text += f"Before that, `{place_of(last)}` had been read without it:\n  {show_line(last[2])}\n"
        text += explain.order_of(line, last) if line is not None else ""
        text += " A value for it that comes from a later place has to be saved in a trace of its own first."
        return OutOfOrderError(text)

    @property
    def is_wanted(self) -> bool:
        """Whether somebody else waits for any place."""
        return sum(sum(wanted.values()) for wanted in self.wanted.values()) > len(self._own)


# -- beginning ------------------------------------------------------------------------------------------


def go_back(
    tracer: Tracer, run: Run, participant: Any, envoy: Any, what: str, line: Line, stood: Site | None
) -> Run:
    """The run that now stands at a place which the present one has passed.

    Raises:
        NeverCalledError: this forward does not come to the place.
        OutOfOrderError: it does, and no second forward can be made to read it.
        ModelRunError: the second forward failed.
    """
    last = None if stood is None else participant.last
    late = Late(participant, (envoy, what, line), last, stood)
    explain.refuse_hopeless(run, late.asked)
    why = why_not(tracer, run, participant)
    if why is not None:
        raise _error(late, run, why, _look(tracer, run, late))
    key = (envoy._module, "output" if what == "output" else "input")
    if participant is tracer.driver:
        again = _begin(tracer, run, [late], None)
    else:
        participant.wait_for_rerun(run, late)
        assert isinstance(tracer.run, Rerun)
        again = tracer.run
    if not again.stands_at(key):
        participant.wait(again, key)
    if again.ended:
        raise _error(late, run, "", again)
    tracer.extra = [*tracer.extra, Extra(replace(late, stood=None), again.late)]
    return again


def begin_again(tracer: Tracer, crew: Crew) -> None:
    """Begin another forward for the bodies that ask for places which this one has passed."""
    assert tracer.run is not None
    late = [worker.late for worker in crew.workers if worker.late is not None]
    _begin(tracer, tracer.run, late, crew)


def _begin(tracer: Tracer, first: Run, late: list[Late], crew: Crew | None) -> Rerun:
    again = Rerun(tracer, first, late, crew)
    tracer.run = again
    plays_edits = crew is not None or tracer._crew is not None
    if tracer._crew is not None:
        tracer._crew.close()
        tracer._crew = None
    if plays_edits:
        again.kept = tracer._crew = replay(tracer, again)
    if crew is not None:
        crew.run = again
        for worker in crew.workers:
            if not worker.done:
                worker.run = again
    again.serve = again.act
    if tracer.checked is not None:
        watch_finite(tracer, again, tracer.checked)
    again.begin(tracer, first, [one.asked[0] for one in late])
    first.repeat = first.result = None
    first.close()  # lets go of what it still held
    return again


def _call(tracer: Tracer, run: Run) -> Any:
    assert run.repeat is not None
    args, kwargs, _ = run.repeat
    module = tracer.root._module
    return fake_call(module, args, kwargs) if tracer.scan else lambda: module(*args, **kwargs)


@contextmanager
def _switches_of(run: Run) -> Iterator[None]:
    """Torch's switches as they were on the model's side of a run that has ended."""
    mine = snapshot()
    guards: list[Any] = []
    switch_to(run.model_state, mine, guards)
    try:
        yield
    finally:
        switch_to(mine, snapshot(), guards)


def _are_alike(one: Any, other: Any) -> bool:
    """Whether two values hold the same tensors."""
    here, there = tensors_in(one), tensors_in(other)
    with quietly():
        return len(here) == len(there) and all(map(are_same, here, there))


def _place(site: Site) -> tuple[Any, str, int]:
    return site.module, site.kind, site.visit


def _gates_of(tracer: Tracer, module: Any) -> list[Any]:
    """What must be gated for a run to stop at a module or an operation."""
    if isinstance(module, nn.Module):
        root: Any = tracer.root
        path = root._paths.get(id(module))
        return [module] if path is None else root._at(path)._gates()
    return module._gates()


# -- where there is none --------------------------------------------------------------------------------


def _error(late: Late, run: Run, why: str, seen: Run | None = None) -> NbsightError:
    return explain.missed(run, late.participant, late.asked, late.last, late.stood, seen, why)


def _look(tracer: Tracer, run: Run, late: Late) -> Run | None:
    """A forward like that of the run, as far as the place that was asked for, to see if it gets there."""
    envoy, what, _ = late.asked
    known = not isinstance(envoy, Operation) and run.was_called(envoy._module)
    if known or run.repeat is None or is_stateful(tracer.root):
        return None
    seen = Run(_call(tracer, run), run.root, grad=False, name=run.name, spares=run.spares)
    before = states()
    try:
        seen.open([tracer.root._module, run.root, *envoy._gates()])
        with _switches_of(run):
            seen.go(envoy._module, "output" if what == "output" else "input")
    except Exception:  # the forward fails before it gets there: then it does not get there
        pass
    finally:
        seen.close()
        restore(before)
    return seen
