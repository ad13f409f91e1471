"""Brings jobs to workers and writes down what becomes of them.

All of it happens on the server's one loop, so nothing here is locked. What must survive is in the
store before anybody is told of it; what is only here can be found anew.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import replace
from typing import Any

import msgspec

from nbsight.server.fairness import Waiting, next_job
from nbsight.server.processes import ModelSpec, WorkerProcess
from nbsight.server.settings import Settings
from nbsight.server.store import JobRow, Store
from nbsight.wire.api import ErrorRecord, ModelInfo

__all__ = ["Dispatcher"]

#: How often a job is begun before its workers' deaths are taken for its own doing.
_ATTEMPTS = 2

#: Seconds for which a model that could not be loaded is not tried again.
_COOLING = 20.0

_STOPPED = {
    "cancelled": ("CANCELLED", ErrorRecord("cancelled", "the job was cancelled.")),
    "time": (
        "FAILED",
        ErrorRecord(
            "time_limit", "the job ran for longer than it may.", hint="Ask for more: `timeout=seconds`."
        ),
    ),
}


class Dispatcher:
    """The jobs and the workers of a server."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store = store
        self.settings = settings
        self.workers: list[WorkerProcess] = []
        #: The jobs that wait, by model and owner, in the order in which they came.
        self.waiting: dict[ModelSpec, dict[str, deque[Waiting]]] = defaultdict(lambda: defaultdict(deque))
        self.specs: dict[str, ModelSpec] = {}
        self.seconds: dict[str, float] = {}
        self.served: dict[str, float] = {}
        self.failed: dict[ModelSpec, tuple[float, str]] = {}
        self.about: OrderedDict[ModelSpec, dict[str, Any]] = OrderedDict()
        self.durations: deque[float] = deque(maxlen=50)
        self.counts: Counter[str] = Counter()
        self._listeners: dict[str, set[asyncio.Event]] = {}
        self._starting: set[asyncio.Task[None]] = set()
        self._closing = False

    # -- life ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take up what an earlier server left, start the models, and watch until cancelled."""
        for row in self.store.in_state("QUEUED", "LOADING", "RUNNING"):
            self._take_up(row)
        for name in self.settings.models:
            self._start(self.spec_of(name))
        self.assign()
        tidied = 0.0
        while True:
            await asyncio.sleep(0.25)
            self._watch(time.monotonic())
            if time.monotonic() - tidied > 600:
                tidied = time.monotonic()
                self.store.tidy(self.settings.limits.keep)

    def close(self) -> None:
        """End the workers; their jobs are taken up by the next server."""
        self._closing = True
        for worker in self.workers:
            worker.kill()

    def _take_up(self, row: JobRow) -> None:
        if row.stop is not None:
            self._finish(row.id, *_STOPPED[row.stop])
        elif row.state == "RUNNING" and row.attempt >= _ATTEMPTS:
            self._finish(row.id, "FAILED", _lost("the server", row.attempt))
        else:
            if row.state != "QUEUED":
                self.store.move(row.id, "QUEUED", {"why": "the server was started anew"}, lease=None)
            self.enqueue(row)

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
        self.waiting[spec][row.owner].append(Waiting(row.id, row.owner, row.created))

    def place(self, job: str) -> int:
        """A job's place among those that wait for the same model, from 1; 0 if it does not wait."""
        spec = self.specs.get(job)
        if spec is None:
            return 0
        turns = sorted(
            (turn, item.created, item.id)
            for queue in self.waiting[spec].values()
            for turn, item in enumerate(queue)
        )
        return next((place for place, (_, _, id_) in enumerate(turns, 1) if id_ == job), 0)

    def eta(self, place: int) -> float | None:
        """About how many seconds until a place is at the front; None when nothing is known."""
        if not self.durations or not place:
            return None
        return place * sum(self.durations) / len(self.durations) / max(self.settings.workers, 1)

    def cancel(self, row: JobRow) -> None:
        """End a job, whatever it is doing."""
        self.store.set([row.id], stop="cancelled")
        if self._forget_waiting(row.id, row.owner):
            self._finish(row.id, *_STOPPED["cancelled"])
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
        workers = [worker for worker in self.workers if worker.spec == spec]
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
            queued=sum(map(len, self.waiting[spec].values())) if spec in self.waiting else 0,
            workers=len(workers),
            lines=about.get("lines", []) if lines else [],
            error=self.failed[spec][1] if state == "failed" else "",
        )

    def load(self, spec: ModelSpec) -> None:
        """Start to load a model, unless it is there."""
        if not any(worker.spec == spec for worker in self.workers):
            self._start(spec)

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

    # -- jobs to workers -----------------------------------------------------------------------

    def assign(self) -> None:
        """Give a job to every worker that has none, and start workers where jobs wait for one."""
        for spec in [spec for spec, owners in self.waiting.items() if any(owners.values())]:
            workers = [worker for worker in self.workers if worker.spec == spec]
            for worker in workers:
                if worker.state == "idle":
                    self._give(worker, spec)
            waits = any(self.waiting[spec].values())
            loading = any(worker.state == "loading" for worker in workers)
            if waits and not loading and len(workers) < self.settings.workers:
                self._start(spec)

    def _give(self, worker: WorkerProcess, spec: ModelSpec) -> None:
        owners = self.waiting[spec]
        running = Counter(self.owner_of(other.job) for other in self.workers if other.job is not None)
        heads = [queue[0] for queue in owners.values() if queue]
        job = next_job(heads, running, self.served, self.settings.limits.running)
        row = None if job is None else self.store.get(job)
        if job is None or row is None:
            return
        owners[row.owner].popleft()
        self.served[row.owner] = time.monotonic()
        limits, now = self.settings.limits, time.monotonic()
        worker.state, worker.job, worker.began = "busy", job, now
        worker.deadline, worker.stop = now + self.seconds[job], None
        self.store.move(
            job,
            "RUNNING",
            {"attempt": row.attempt + 1},
            attempt=row.attempt + 1,
            started=time.time(),
            lease=time.time() + self.settings.lease,
        )
        worker.send(
            "run",
            job=job,
            request=str(self.store.request(job)),
            result=str(self.store.result(job)),
            memory=limits.memory,
            most=limits.result,
        )
        self.tell(job)

    def owner_of(self, job: str | None) -> str:
        """Whose job that is."""
        row = None if job is None else self.store.get(job)
        return "" if row is None else row.owner

    def _start(self, spec: ModelSpec) -> None:
        """Start a worker for a model; its jobs wait meanwhile."""
        failed = self.failed.get(spec)
        if failed is not None and time.monotonic() - failed[0] < _COOLING:
            self._refuse_all(spec, failed[1])
            return
        self._make_room(spec)
        self.failed.pop(spec, None)
        worker = WorkerProcess(spec, self.settings.tier, self._heard, self._lost)
        self.workers.append(worker)
        task = asyncio.create_task(worker.start())
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)
        for queue in self.waiting[spec].values():
            for item in queue:
                self.store.move(item.id, "LOADING", {"model": spec.id})
                self.tell(item.id)

    def _make_room(self, spec: ModelSpec) -> None:
        """Let the model go that has been idle for longest, if there are too many."""
        fixed = {self.spec_of(name) for name in self.settings.models} | {spec}
        loaded = {worker.spec for worker in self.workers} - fixed
        idle = [
            worker
            for worker in self.workers
            if worker.spec in loaded
            and worker.state == "idle"
            and not any(self.waiting[worker.spec].values())
        ]
        if len(loaded) >= self.settings.most_models and idle:
            oldest = min(idle, key=lambda worker: worker.used)
            for worker in idle:
                if worker.spec == oldest.spec:
                    worker.kill()

    # -- what workers say ----------------------------------------------------------------------

    def _heard(self, worker: WorkerProcess, message: dict[str, Any]) -> None:
        say, job = message["say"], message.get("job")
        if say == "ready":
            worker.state = "idle"
            self.about[worker.spec] = message
            self.assign()
        elif say == "unloadable":
            self.failed[worker.spec] = (time.monotonic(), message["why"])
            self._refuse_all(worker.spec, message["why"])
        elif job is None or job != worker.job:
            return  # of a job that was taken away from it
        elif say in ("log", "progress"):
            self._note(worker, job, say, message)
        else:
            self._ended(worker, job, say, message)

    def _note(self, worker: WorkerProcess, job: str, say: str, message: dict[str, Any]) -> None:
        data = {key: value for key, value in message.items() if key not in ("say", "job")}
        row = self.store.get(job)
        size = len(message.get("text", "")) + 50
        if row is None or row.logged > self.settings.limits.log:
            return
        if row.logged + size > self.settings.limits.log:
            say, data = "log", {"stream": "err", "text": "[the rest of the job's output is not kept]\n"}
        self.store.note(job, say, data, logged=size)
        self.tell(job)

    def _ended(self, worker: WorkerProcess, job: str, say: str, message: dict[str, Any]) -> None:
        why = worker.stop
        self._free(worker)
        if say == "done":
            self._finish(job, "COMPLETED", None, message["bytes"])
        elif why is not None:
            self._finish(job, *_STOPPED[why])
        elif say == "stopped":  # nobody asked: the block itself raised it
            self._finish(job, "FAILED", ErrorRecord("block_failed", "the block interrupted itself."))
        elif "error" in message:
            self._finish(job, "FAILED", msgspec.convert(message["error"], ErrorRecord))
        else:
            self._finish(
                job, "FAILED", ErrorRecord("block_failed", "the block failed; its message is too long.")
            )
        self.assign()

    def _free(self, worker: WorkerProcess) -> None:
        now = time.monotonic()
        self.durations.append(now - worker.began)
        worker.job, worker.stop, worker.used = None, None, now
        if worker.state == "busy":
            worker.state = "idle"

    def _lost(self, worker: WorkerProcess) -> None:
        """A worker is gone: its job goes back to the front, unless it was told to stop or has had its "
        "chances."""
        self.workers.remove(worker)
        job, why = worker.job, worker.stop
        if self._closing:
            return
        row = None if job is None else self.store.get(job)
        if job is not None and row is not None:
            self.counts["workers_lost"] += why is None
            if why is not None:
                self._finish(job, *_STOPPED[why])
            elif row.attempt >= _ATTEMPTS:
                self._finish(job, "FAILED", _lost("its worker", row.attempt))
            elif self.store.move(job, "QUEUED", {"why": "its worker was lost"}, lease=None):
                self.waiting[worker.spec][row.owner].appendleft(Waiting(job, row.owner, row.created))
                self.tell(job)
        fixed = worker.spec.id in self.settings.models and worker.spec not in self.failed
        if fixed and not any(other.spec == worker.spec for other in self.workers):
            self._start(worker.spec)
        self.assign()

    def _refuse_all(self, spec: ModelSpec, why: str) -> None:
        for queue in self.waiting.pop(spec, {}).values():
            for item in queue:
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

    def _forget_waiting(self, job: str, owner: str) -> bool:
        spec = self.specs.get(job)
        queue = self.waiting[spec][owner] if spec is not None and spec in self.waiting else deque()
        for item in queue:
            if item.id == job:
                queue.remove(item)
                return True
        return False

    # -- the clock -----------------------------------------------------------------------------

    def _watch(self, now: float) -> None:
        busy = []
        for worker in list(self.workers):
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


def _lost(what: str, attempts: int) -> ErrorRecord:
    return ErrorRecord(
        "lost_worker",
        f"{what} ended while the job ran, {attempts} times.",
        hint="It may take more memory than there is; the server's own output says more.",
        retryable=True,
    )


def _spec_from(name: str, dispatcher: Dispatcher) -> ModelSpec:
    """The model of a job that an earlier server accepted."""
    id_, kind, revision, dtype = [*name.split("\n"), "", "", ""][:4]
    return dispatcher.spec_of(id_, kind, revision, dtype)
