"""Brings jobs to workers and writes down what becomes of them.

All of it happens on the server's one loop, so nothing here is locked. What must survive is in the
store before anybody is told of it; what is only here can be found anew. What to do next is for the
scheduler to say; this carries it out.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict, deque
from dataclasses import replace
from typing import Any

import msgspec

from nbsight.server.endings import STOPPED, ended, lost
from nbsight.server.engines.base import Engine, ModelSpec, Worker
from nbsight.server.scheduling.scheduler import Give, Scheduler, Start, Stop
from nbsight.server.scheduling.turns import Turns, Waiting
from nbsight.server.settings import Settings
from nbsight.server.store import JobRow, Store
from nbsight.wire.api import ErrorRecord, ModelInfo

__all__ = ["Dispatcher"]

#: How often a job is begun before its workers' deaths are taken for its own doing.
_ATTEMPTS = 2

#: How often a model's worker may end while it loads before the model is taken for one that cannot be.
_LOADS = 3

#: Seconds for which a model that could not be loaded is not tried again.
_COOLING = 20.0

#: Seconds for which a model that fits on no machine waits for one that may yet come.
_ROOM = 20.0

#: Seconds between two looks at the machines.
_NODES = 2.0


class Dispatcher:
    """The jobs and the workers of a server.

    Args:
        store: The jobs.
        settings: What the server was told.
        engine: Where workers run.
    """

    def __init__(self, store: Store, settings: Settings, engine: Engine) -> None:
        self.store = store
        self.settings = settings
        self.engine = engine
        fixed = tuple(self.spec_of(name) for name in settings.models)
        turns = Turns(settings.limits.running, settings.shares)
        self.scheduler = Scheduler(turns, engine.policy(fixed))
        self.specs: dict[str, ModelSpec] = {}
        self.seconds: dict[str, float] = {}
        self.failed: dict[ModelSpec, tuple[float, str]] = {}
        self.about: OrderedDict[ModelSpec, dict[str, Any]] = OrderedDict()
        self.durations: deque[float] = deque(maxlen=50)
        self.counts: Counter[str] = Counter()
        self._stillborn: Counter[ModelSpec] = Counter()
        self._listeners: dict[str, set[asyncio.Event]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    @property
    def workers(self) -> list[Worker]:
        """All workers, on their way or there."""
        return [seat for seats in self.scheduler.seats.values() for seat in seats if isinstance(seat, Worker)]

    def workers_of(self, spec: ModelSpec) -> list[Worker]:
        """Those of a model."""
        return [seat for seat in self.scheduler.seats.get(spec, ()) if isinstance(seat, Worker)]

    # -- life ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take up what an earlier server left, start the models, and watch until cancelled."""
        for row in self.store.in_state("QUEUED", "LOADING", "RUNNING"):
            self._take_up(row)
        for name in self.settings.models:
            self._measure(self.spec_of(name))
        looked = tidied = float("-inf")
        while True:
            now = time.monotonic()
            if now - looked > _NODES:
                looked = now
                self._look(await asyncio.to_thread(self.engine.nodes))
            if now - tidied > 600:
                tidied = now
                self.store.tidy(self.settings.limits.keep)
            self._watch(now)
            await asyncio.sleep(0.25)

    def close(self) -> None:
        """End the workers; their jobs are taken up by the next server."""
        self._closing = True
        for worker in self.workers:
            worker.kill()

    def _take_up(self, row: JobRow) -> None:
        if row.stop is not None:
            self._finish(row.id, *STOPPED[row.stop])
        elif row.state == "RUNNING" and row.attempt >= _ATTEMPTS:
            self._finish(row.id, "FAILED", lost("the server", row.attempt))
        else:
            if row.state != "QUEUED":
                self.store.move(row.id, "QUEUED", {"why": "the server was started anew"}, lease=None)
            self.enqueue(row)

    def _look(self, found: list[Any]) -> None:
        """Know the machines that have come, and forget those that are gone and have no worker left."""
        nodes, scheduler = self.scheduler.nodes, self.scheduler
        for node in found:
            nodes.setdefault(node.id, node)
        there = {node.id for node in found}
        for id_ in [id_ for id_ in nodes if id_ not in there and not scheduler.on_node.get(id_)]:
            del nodes[id_]

    # -- what the routes ask -------------------------------------------------------------------

    def spec_of(self, name: str, kind: str = "", revision: str = "", dtype: str = "") -> ModelSpec:
        """What a worker for a model holds: of those that the server was started with, one each."""
        options = dict(self.settings.options)
        if name in self.settings.models:
            return ModelSpec(name, options=tuple(options.items()))
        options |= {key: value for key, value in (("revision", revision), ("dtype", dtype)) if value}
        spec = ModelSpec(name, options=tuple(options.items()))
        return replace(spec, kind=kind) if kind else spec

    def enqueue(self, row: JobRow, spec: ModelSpec | None = None) -> None:
        """Let an accepted job wait for its turn."""
        spec = spec or _spec_from(row.model, self)
        self.specs[row.id], self.seconds[row.id] = spec, row.seconds
        self.scheduler.turns.add(Waiting(row.id, row.owner, row.created), spec)
        self._measure(spec)

    def queued(self, owner: str) -> int:
        """How many jobs of an owner wait."""
        return self.scheduler.turns.queued(owner)

    def place(self, job: str) -> int:
        """A job's place among those that wait for the same model, from 1; 0 if it does not wait."""
        return self.scheduler.turns.place(job)

    def eta(self, place: int) -> float | None:
        """About how many seconds until a place is at the front; None when nothing is known."""
        if not self.durations or not place:
            return None
        there = sum(worker.state in ("idle", "busy") for worker in self.workers)
        return place * sum(self.durations) / len(self.durations) / max(there, 1)

    def cancel(self, row: JobRow) -> None:
        """End a job, whatever it is doing."""
        self.store.set([row.id], stop="cancelled")
        if self.scheduler.turns.remove(row.id):
            self._finish(row.id, *STOPPED["cancelled"])
            return
        for worker in self.workers:
            if worker.job == row.id:
                worker.ask_to_stop("cancelled")

    def models(self) -> list[ModelInfo]:
        """The models of this server: those it was started with and those that are loaded."""
        specs = dict.fromkeys([*(self.spec_of(name) for name in self.settings.models), *self.about])
        return [self.model(spec) for spec in specs]

    def model(self, spec: ModelSpec, lines: bool = False) -> ModelInfo:
        """One of them."""
        workers = self.workers_of(spec)
        about = self.about.get(spec, {})
        state: Any = "cold"
        if any(worker.state in ("idle", "busy") for worker in workers):
            state = "ready"
        elif workers:
            state = "loading"
        elif spec in self.failed:
            state = "failed"
        return ModelInfo(
            id=spec.id,
            state=state,
            tree=about.get("tree", ""),
            dtype=about.get("dtype", ""),
            queued=self.scheduler.turns.counts[spec],
            workers=len(workers),
            lines=about.get("lines", []) if lines else [],
            error=self.failed[spec][1] if state == "failed" else "",
        )

    def load(self, spec: ModelSpec) -> None:
        """Start to load a model, unless it is there."""
        if not self.workers_of(spec):
            self.scheduler.asked.add(spec)
            self._measure(spec)
            self.resize()

    def listen(self, job: str) -> asyncio.Event:
        """An event that is set whenever there is news of a job."""
        event = asyncio.Event()
        self._listeners.setdefault(job, set()).add(event)
        return event

    def unlisten(self, job: str, event: asyncio.Event) -> None:
        """Stop listening."""
        listeners = self._listeners.get(job, set())
        listeners.discard(event)
        if not listeners:
            self._listeners.pop(job, None)

    def tell(self, job: str) -> None:
        """Wake who listens for news of a job."""
        for event in self._listeners.get(job, ()):
            event.set()

    # -- what the scheduler says ---------------------------------------------------------------

    def assign(self) -> None:
        """Give a job to every worker that has none, and let workers come and go."""
        for give in self.scheduler.assign(time.monotonic()):
            self._give(give)
        self.resize()

    def resize(self) -> None:
        """Start the workers that are worth it and end those that are not."""
        for item in self.scheduler.resize(time.monotonic()):
            if isinstance(item, Start):
                self._start(item)
            elif isinstance(item, Stop) and isinstance(item.seat, Worker):
                item.seat.kill()

    def _give(self, give: Give) -> None:
        worker, job = give.seat, give.job.id
        assert isinstance(worker, Worker)
        row = self.store.get(job)
        assert row is not None, "a job that waits is in the store"
        worker.job, worker.stop = job, None
        worker.deadline = worker.began + self.seconds[job]
        self.store.move(
            job,
            "RUNNING",
            {"attempt": row.attempt + 1},
            attempt=row.attempt + 1,
            started=time.time(),
            lease=time.time() + self.settings.lease,
        )
        limits = self.settings.limits
        request, result = self.store.request(job), self.store.result(job)
        worker.run(job, request, result, memory=limits.memory, most=limits.result)
        self.tell(job)

    def _start(self, start: Start) -> None:
        """Start a worker for a model; its jobs wait meanwhile."""
        spec: ModelSpec = start.model  # type: ignore[assignment]
        now = time.monotonic()
        failed = self.failed.get(spec)
        if failed is not None and now - failed[0] < _COOLING:
            self._refuse_all(spec, failed[1])
            return
        self.failed.pop(spec, None)
        is_first = not self.scheduler.seats.get(spec)
        worker = self.engine.worker(start, self._heard, self._lost)
        worker.since = now
        self.scheduler.joined(worker)
        self._spawn(self._begin(worker))
        for item in self.scheduler.turns.jobs(spec) if is_first else ():
            self.store.move(item.id, "LOADING", {"model": spec.id})
            self.tell(item.id)

    async def _begin(self, worker: Worker) -> None:
        try:
            await worker.start()
        except OSError as error:  # no more processes, no more memory, no more files
            self._unloadable(worker.spec, f"no worker can be started: {error}")
            self._lost(worker)

    def _measure(self, spec: ModelSpec) -> None:
        """Find out what a model takes; it is started once that is known."""

        async def measure() -> None:
            self.scheduler.sizes[spec] = await asyncio.to_thread(self.engine.size, spec)
            self.assign()

        if spec not in self.scheduler.sizes:
            self._spawn(measure())

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- what workers say ----------------------------------------------------------------------

    def _heard(self, worker: Worker, message: dict[str, Any]) -> None:
        say, job = message["say"], message.get("job")
        if say == "ready":
            self.scheduler.ready(worker, time.monotonic())
            self.about[worker.spec] = message
            self._stillborn.pop(worker.spec, None)
            self.scheduler.broken.discard(worker.spec)
            self.assign()
        elif say == "unloadable":
            self._unloadable(worker.spec, message["why"])
        elif job is None or job != worker.job:
            return  # of a job that was taken away from it
        elif say in ("log", "progress"):
            self._note(job, say, message)
        else:
            self._ended(worker, job, say, message)

    def _note(self, job: str, say: str, message: dict[str, Any]) -> None:
        data = {key: value for key, value in message.items() if key not in ("say", "job")}
        row = self.store.get(job)
        size = len(message.get("text", "")) + 50
        if row is None or row.logged > self.settings.limits.log:
            return
        if row.logged + size > self.settings.limits.log:
            say, data = "log", {"stream": "err", "text": "[the rest of the job's output is not kept]\n"}
        self.store.note(job, say, data, logged=size)
        self.tell(job)

    def _ended(self, worker: Worker, job: str, say: str, message: dict[str, Any]) -> None:
        why, now = worker.stop, time.monotonic()
        self.durations.append(now - worker.began)
        worker.job, worker.stop = None, None
        self.scheduler.ended(worker, now)
        state, error = ended(say, message, why)
        self._finish(job, state, error, message["bytes"] if error is None else 0)
        self.assign()

    def _lost(self, worker: Worker) -> None:
        """A worker is gone; its job goes back to the front, if it has not had its chances."""
        now, was = time.monotonic(), worker.state
        if was == "gone":
            return
        self.scheduler.left(worker, now)
        if self._closing:
            return
        if worker.job is not None:
            self._lost_job(worker, worker.job)
        elif was == "loading" and not worker.is_leaving and worker.spec not in self.failed:
            self._stillborn[worker.spec] += 1
            if self._stillborn[worker.spec] >= _LOADS:
                del self._stillborn[worker.spec]
                why = f"its worker ended {_LOADS} times while it loaded; is there enough memory?"
                self._unloadable(worker.spec, why)
        self.assign()

    def _lost_job(self, worker: Worker, job: str) -> None:
        row, why = self.store.get(job), worker.stop
        worker.job = None
        if row is None:
            return
        self.counts["workers_lost"] += why is None
        if why is not None:
            self._finish(job, *STOPPED[why])
        elif row.attempt >= _ATTEMPTS:
            self._finish(job, "FAILED", lost("its worker", row.attempt))
        elif self.store.move(job, "QUEUED", {"why": "its worker was lost"}, lease=None):
            self.scheduler.turns.add(Waiting(job, row.owner, row.created), worker.spec, front=True)
            self.tell(job)

    def _unloadable(self, spec: ModelSpec, why: str) -> None:
        self.failed[spec] = (time.monotonic(), why)
        self.scheduler.broken.add(spec)
        self._refuse_all(spec, why)

    def _refuse_all(self, spec: ModelSpec, why: str) -> None:
        self.scheduler.asked.discard(spec)
        for item in self.scheduler.turns.drop(spec):
            self._finish(item.id, "FAILED", ErrorRecord("model_unavailable", why, kind="ModelLoadError"))

    def _finish(self, job: str, state: str, error: ErrorRecord | None, size: int = 0) -> None:
        data: dict[str, Any] = {"bytes": size} if error is None else {"error": msgspec.to_builtins(error)}
        text = None if error is None else msgspec.json.encode(error).decode()
        self.store.move(job, state, data, error=text, result_bytes=size)
        self.store.request(job).unlink(missing_ok=True)
        self.specs.pop(job, None)
        self.seconds.pop(job, None)
        self.counts[f"jobs_{state.lower()}"] += 1
        self.tell(job)

    # -- the clock -----------------------------------------------------------------------------

    def _watch(self, now: float) -> None:
        busy = []
        for worker in self.workers:
            patience = 10 if worker.state == "loading" else 1
            if now - worker.beat > patience * self.settings.lease:
                worker.kill()  # stopped, or so deep in one operation that it cannot be told to stop
            if worker.job is None:
                continue
            busy.append(worker.job)
            if now > worker.deadline:
                worker.ask_to_stop("time")
            if worker.stop is not None and now - worker.stopped > self.settings.grace:
                worker.kill()
        if busy:
            self.store.set(busy, lease=time.time() + self.settings.lease)
        self.assign()
        for spec, since in list(self.scheduler.wanting.items()):
            if now - since > _ROOM and self.scheduler.never_fits(spec):
                need = self.scheduler.sizes[spec].memory / 2**30
                why = f"{spec.id} takes about {need:.1f} GB, and no machine of this server has that much."  # type: ignore[attr-defined]
                self._unloadable(spec, why)  # type: ignore[arg-type]


def _spec_from(name: str, dispatcher: Dispatcher) -> ModelSpec:
    """The model of a job that an earlier server accepted."""
    id_, kind, revision, dtype = [*name.split("\n"), "", "", ""][:4]
    return dispatcher.spec_of(id_, kind, revision, dtype)
