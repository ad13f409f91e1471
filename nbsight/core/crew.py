"""The crew of a run: resumes its workers while the model stands where they asked."""

from __future__ import annotations

from bisect import insort
from operator import attrgetter
from typing import Any

from greenlet import GreenletExit, getcurrent

from nbsight.core.participant import Key
from nbsight.core.run import Run
from nbsight.core.sites import show_text
from nbsight.core.workers import Worker, side_now
from nbsight.errors import CaptureError

__all__ = ["Crew"]

_place = attrgetter("place")


class Crew:
    """The workers of one run, in the order in which their blocks were written.

    Whoever waits is kept by what it waits for, so that a stop of the model costs only those who
    asked for that place.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.workers: list[Worker] = []
        self.failed: Worker | None = None
        #: Where the model stood when a body failed, for the message.
        self.failed_at: Any = None
        #: Whether a body asked the whole run to stop.
        self.was_stopped = False
        #: For each name, the places of the workers whose blocks bind it.
        self.binders: dict[str, list[int]] = {}
        # Who waits: for a place of the model, for another body's names, for anything else.
        self._at: dict[Key, list[Worker]] = {}
        self._for: dict[Worker, list[Worker]] = {}
        self._loose: list[Worker] = []
        #: The root's calls that they know of.
        self._passes = 0
        run.serve = self.serve

    def add(self, worker: Worker) -> None:
        """Add the next worker and connect its namespace to the others'."""
        place = worker.place = len(self.workers)
        worker.crew = self
        self.workers.append(worker)
        self._loose.append(worker)
        for name in worker.block.stores:
            self.binders.setdefault(name, []).append(place)
        if not worker.names.is_alone:
            worker.names.asker = worker

    def wait_at(self, worker: Worker, key: Key) -> None:
        """Let the model stop at `key` for a worker; where the run stands now is not meant."""
        site, worker.key = self.run.site, key
        # Held only where it matters: a site holds its value.
        stands_there = site is not None and site.module is key[0] and site.kind == key[1]
        worker.before = site if stands_there else None
        there = self._at.get(key)
        if there is None:
            self._at[key] = [worker]
            self.run.want(key)
        else:
            there.append(worker)

    def wait_for(self, worker: Worker, binder: Worker) -> None:
        """Let a worker act again when `binder` has acted (and it is ready then)."""
        self._for.setdefault(binder, []).append(worker)

    def wait_loosely(self, worker: Worker) -> None:
        """Let a worker act again at the first stop where it is ready."""
        self._loose.append(worker)

    def serve(self) -> None:
        """Let every worker act that can, in the order of their blocks, until none can."""
        able = self._able()
        if not able:
            return
        hub, home, run = getcurrent(), side_now(), self.run
        site = run.site
        while able:
            turn, able = able, []
            turn.sort(key=_place)
            acted = 0
            try:
                for worker in turn:  # it may grow while it is gone through
                    acted += 1
                    worker.key = None
                    worker.act(hub, home)
                    now = run.site
                    if now is not None and (
                        now.value._version != now.version if now.version is not None else now.is_touched
                    ):
                        worker.note_change(run, now)
                    if worker.stopped:
                        self.was_stopped = True
                    if worker.error is not None:
                        self._fail(worker)
                    freed = self._freed_by(worker) if self._for else []
                    if now is not site:  # a body has begun or ended a call of its own (watched.py)
                        site = now
                        self._park(turn[acted:] + able)
                        del turn[acted:]
                        freed, able = freed + self._able(), []
                    for other in freed:
                        if other.place > worker.place:
                            insort(turn, other, acted, key=_place)
                        else:
                            able.append(other)
            except BaseException:
                self._park(turn[acted:] + able)
                raise

    def _able(self) -> list[Worker]:
        """Take those out of the lists who may act where the run stands now."""
        run = self.run
        if run.ended:
            able = [worker for there in self._at.values() for worker in there]
            self._at.clear()
            able += [worker for binder in list(self._for) for worker in self._freed_by(binder)]
        else:
            site = run.site
            able = [] if site is None else self._waiting_at((site.module, site.kind), site)
            if run.passes != self._passes:
                self._passes = run.passes
                able += self._waiting_at((run.root, "pass"))
        if self._loose:
            loose, self._loose = self._loose, []
            for worker in loose:
                (able if worker.ready is None or worker.ready() else self._loose).append(worker)
        return able

    def _waiting_at(self, key: Key, site: Any = None) -> list[Worker]:
        there = self._at.get(key)
        if there is None:
            return []
        able = there if site is None else [worker for worker in there if worker.before is not site]
        if len(able) == len(there):
            del self._at[key]
            self.run.unwant(key)
        elif able:
            self._at[key] = [worker for worker in there if worker.before is site]
        return able

    def _freed_by(self, binder: Worker) -> list[Worker]:
        """Those who waited for a name of another body, and have it now."""
        there = self._for.pop(binder, [])
        waiting = [worker for worker in there if worker.ready is not None and not worker.ready()]
        if waiting:
            self._for[binder] = waiting
        return [worker for worker in there if worker not in waiting]

    def _park(self, workers: list[Worker]) -> None:
        """Let those wait again whose turn did not come."""
        for worker in workers:
            if worker.key is not None:
                self.wait_at(worker, worker.key)
                worker.before = None
            else:
                self._loose.append(worker)

    def _fail(self, worker: Worker) -> None:
        error, worker.error = worker.error, None
        assert error is not None
        self.failed, self.failed_at = worker, self.run.site
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    @property
    def is_late(self) -> bool:
        """Whether a body asks for another forward."""
        return any(worker.late is not None for worker in self.workers)

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
                worker.act(getcurrent(), side_now(), GreenletExit())
                worker.done = True
            # No cycles: what the bodies bound is freed when the user drops it.
            worker.names.asker = worker.is_stale = None
            worker.run = worker.crew = worker.got_from = None
            worker.held = worker.kept = ()
            worker.late = worker.ready = None
            worker.before = None
        self._at, self._for, self._loose = {}, {}, []
        self.run.serve = None


def _stuck(workers: list[Worker]) -> str:
    waits = "".join(
        f"\n  {show_text(worker.block.filename, worker.block.line)} waits for `{worker.awaited}`"
        for worker in workers
    )
    return (
        f"these blocks wait for each other:{waits}\nBind each name in one block, at a layer that "
        "comes before the layer where the other block uses it, or use two traces."
    )
