"""What a server costs: the way there and back, the request, a hundred clients, a large result.

Round trips are wall time, since three processes take part; they want a machine that is otherwise idle.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.table import Row
from nbsight.models.language_model import LanguageModel
from nbsight.remote.client import Client
from nbsight.remote.job import RemoteJob
from nbsight.server.programs.surface import check_options
from nbsight.server.sandbox import missing
from nbsight.server.sandbox.jail import Jail, limits_of
from nbsight.server.store import JobRow, Store
from nbsight.wire import jobs
from nbsight.wire.jobs import pack_job
from nbsight.wire.messages import frame
from nbsight.wire.results import decode_names
from tests.server.running import KEYS, RunningServer, server

__all__ = ["remote"]

PROMPT = "The capital of France is"
CLIENTS = 100
_WARM = 3


class _Keep:
    """A backend that keeps the job."""

    job: Any = None

    def run(self, job: Any) -> dict[str, Any]:
        self.job = job
        return {}


def remote(rounds: int) -> list[Row]:
    """All rows.

    Args:
        rounds: Round trips that are timed.
    """
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as running, _chosen(running):
        rows = [*_request(rounds), *_round_trip(running, rounds), *_many(running), *_large(running)]
    return [*rows, *_walls(rounds), _listing()]


@contextlib.contextmanager
def _chosen(running: RunningServer) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in ("NBSIGHT_HOST", "NBSIGHT_API_KEY")}
    os.environ |= {"NBSIGHT_HOST": running.url, "NBSIGHT_API_KEY": KEYS["ada"]}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def _median(call: Callable[[], object], rounds: int, clock: Callable[[], float]) -> float:
    """Seconds that a call takes."""
    found = []
    for turn in range(rounds + _WARM):
        begun = clock()
        call()
        if turn >= _WARM:
            found.append(clock() - begun)
    return statistics.median(found)


def _request(rounds: int) -> list[Row]:
    model, keep = LanguageModel("nbsight/demo"), _Keep()
    with model.trace(PROMPT, remote=keep):
        a0 = model.transformer.h[0].output[0].save()
        a1 = model.transformer.h[1].output[0].save()
        a2 = model.transformer.h[2].output[0].save()
        a3 = model.transformer.h[3].output[0].save()
        a4 = model.transformer.h[4].output[0].save()
        a5 = model.transformer.h[5].output[0].save()
        a6 = model.transformer.h[6].output[0].save()
        a7 = model.transformer.h[7].output[0].save()
        a8 = model.transformer.h[8].output[0].save()
        a9 = model.transformer.h[9].output[0].save()
        a10 = model.transformer.h[10].output[0].save()
        a11 = model.transformer.h[11].output[0].save()
        m0 = model.transformer.h[0].mlp.output.save()
        m1 = model.transformer.h[1].mlp.output.save()
        m2 = model.transformer.h[2].mlp.output.save()
        m3 = model.transformer.h[3].mlp.output.save()
        m4 = model.transformer.h[4].mlp.output.save()
        m5 = model.transformer.h[5].mlp.output.save()
        m6 = model.transformer.h[6].mlp.output.save()
        m7 = model.transformer.h[7].mlp.output.save()
        m8 = model.transformer.h[8].mlp.output.save()
        m9 = model.transformer.h[9].mlp.output.save()
        m10 = model.transformer.h[10].mlp.output.save()
        m11 = model.transformer.h[11].mlp.output.save()

    def make() -> bytes:
        header, blob, _, _ = pack_job(keep.job)
        return frame(header, blob, deflate=True)

    def make_first() -> bytes:
        jobs._texts.clear()
        return make()

    seconds = _median(make, rounds * 5, time.process_time)
    first = _median(make_first, rounds, time.process_time)
    return [
        Row("request of 24 saves, compressed", len(make()), 600, 200, unit="B"),
        Row("the same: making it", seconds * 1e6, 500, 50, unit="µs"),
        Row("the same: making it for the first time", first * 1e6, None, unit="µs"),
    ]


def _round_trip(running: RunningServer, rounds: int) -> list[Row]:
    model = LanguageModel("nbsight/demo", dispatch=True)

    def there() -> None:
        with model.trace(PROMPT, remote=True, verbose=False):
            hidden = model.transformer.h[8].output[0].save()

    def here() -> None:
        with model.trace(PROMPT):
            hidden = model.transformer.h[8].output[0].save()

    pids = [running.process.pid, *running.workers()] if running.process is not None else []
    plain = _median(here, rounds, time.perf_counter)
    before = _cpu(pids)
    added = _median(there, rounds, time.perf_counter) - plain
    others = (_cpu(pids) - before) / (rounds + _WARM)
    own = _median(there, rounds, time.process_time) - _median(here, rounds, time.process_time)
    name = "submit to result of one activation, beyond the trace"
    return [
        Row(name, added * 1e6, 10_000, 5_000, unit="µs"),
        Row("the same: CPU time of client, server and worker", (own + others) * 1e6, 10_000, unit="µs"),
    ]


def _cpu(pids: list[int]) -> float:
    """Seconds of CPU time of other processes, where the system tells."""
    files = [file for pid in pids for file in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


def _many(running: RunningServer) -> list[Row]:
    model, keep = LanguageModel("nbsight/demo"), _Keep()
    with model.trace(PROMPT, remote=keep):
        hidden = model.transformer.h[8].output[0].save()
    header, blob, _, _ = pack_job(keep.job)
    data = frame(header, blob)

    def one(number: int) -> bool:
        client = Client(running.url, KEYS["ada" if number % 2 else "bob"])
        stream = client.submit(data)
        job = RemoteJob(client, next(stream).data["id"], None, stream)
        return job.result(120, verbose=False)["hidden"].shape == (1, 5, 64)

    begun = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        fine = sum(pool.map(one, range(CLIENTS)))
    each = (time.perf_counter() - begun) / CLIENTS
    return [
        Row(
            f"jobs that fail of {CLIENTS} clients at once", 100.0 * (CLIENTS - fine) / CLIENTS, 0, 0, unit="%"
        ),
        Row("the same: one job", each * 1e6, None, unit="µs"),
    ]


def _large(running: RunningServer) -> list[Row]:
    assert running.process is not None
    status = Path(f"/proc/{running.process.pid}/status")
    if not status.exists():
        return []

    def peak() -> float:
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) / 1024

    model, before = LanguageModel("nbsight/demo"), peak()
    with model.trace(PROMPT, remote=True, verbose=False):
        large = torch.zeros(64 * 2**20).save()
    return [Row("what the server grows by for a result of 256 MB", peak() - before, 20, 2, unit="MB")]


def _walls(rounds: int) -> list[Row]:
    """What the tier `sandbox` adds: a process for each job, and a value of 3 MB that goes to it and back."""
    if missing():
        return []
    model = LanguageModel("nbsight/demo", dispatch=True)
    jail = Jail(model, "nbsight.models.language_model:LanguageModel")
    keep = _Keep()
    with model.trace(PROMPT, remote=keep):
        import time as clock

        inner = model.transformer.h[3].mlp
        given = torch.randn(1, 12288, 64)
        taken = []
        for _ in range(40):
            begun = clock.perf_counter()
            inner.dropout(given)
            taken.append(clock.perf_counter() - begun)
        there_and_back = sorted(taken)[20]
    header, blob, _, _ = pack_job(keep.job)

    def once() -> dict[str, Any]:
        with jail.runner(limits_of(0, 0)) as runner:
            answer = runner.run(model, (header, blob), lambda *_, **__: None, 2**30, check_options)
        return decode_names(*answer)

    try:
        trip = once()["there_and_back"]
        fork = _median(lambda: jail.runner(limits_of(0, 0)).__exit__(), rounds, time.perf_counter)
    finally:
        jail.close()
    return [
        Row("sandbox: 3 MB to a module and back", trip * 1e6, 1_000, 200, unit="µs"),
        Row("sandbox: a fresh process", fork * 1e6, 30_000, unit="µs"),
    ]


def _listing() -> Row:
    fields = JobRow.__struct_fields__
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        row = dict.fromkeys(fields) | {
            "owner": "ada",
            "model": "m",
            "kind": "forward",
            "label": "x",
            "state": "COMPLETED",
            "attempt": 1,
            "seconds": 1.0,
            "digest": "",
            "request_bytes": 1,
            "result_bytes": 1,
            "logged": 0,
        }
        marks = ", ".join("?" * len(fields))
        with store._together():
            store._db.executemany(
                f"INSERT INTO jobs ({', '.join(fields)}) VALUES ({marks})",
                [
                    [({**row, "id": f"{n:016x}", "created": n})[name] for name in fields]
                    for n in range(10_000)
                ],
            )
        seconds = _median(lambda: store.owned("ada", 50), 20, time.perf_counter)
        store.close()
    return Row("the newest 50 of 10,000 jobs", seconds * 1e6, 50_000, 1_000, unit="µs")
