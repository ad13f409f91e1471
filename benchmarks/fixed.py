"""What a trace costs by itself: on a module that does nothing, repeated and for the first time."""

from __future__ import annotations

import itertools
import linecache
import statistics
import time
from typing import Any

import torch

from benchmarks.measure import measure
from benchmarks.subjects import Two, nnsight, twin
from benchmarks.table import Row
from nbsight.core.model import wrap
from nbsight.core.saving import save

__all__ = ["first_run", "repeated"]

_numbers = itertools.count()

PLAIN = """
with model.trace(x):
    kept = save(model.a.output)
"""
INVOKE = """
with model.trace() as tracer:
    with tracer.invoke(x):
        kept = save(model.a.output)
"""


def repeated(rounds: int) -> list[Row]:
    """Microseconds that a trace with one and with two saves adds to the call."""
    raw, x = Two(), torch.ones(2)
    ours = wrap(twin(raw))

    def plain() -> None:
        with torch.no_grad():
            raw(x)

    def one() -> None:
        with ours.trace(x):
            ours.a.output.save()

    def two() -> None:
        with ours.trace(x):
            ours.a.output.save()
            ours.b.output.save()

    contestants = {"plain": plain, "one": one, "two": two}
    if nnsight is not None:
        theirs = nnsight.NNsight(twin(raw))

        def theirs_one() -> None:
            with theirs.trace(x):
                kept = nnsight.save(theirs.a.output)

        def theirs_two() -> None:
            with theirs.trace(x):
                kept = nnsight.save(theirs.a.output)
                other = nnsight.save(theirs.b.output)

        contestants |= {"nnsight one": theirs_one, "nnsight two": theirs_two}
    times = measure(contestants, rounds=rounds, calls=50, warm=60)

    def micro(name: str) -> float | None:
        return times.added(name, "plain") * 1e6 if name in times else None

    return [
        Row("two Identities, 1 save: added", micro("one") or 0.0, 15, 8, micro("nnsight one"), unit="µs"),
        Row(
            "two Identities, 2 saves: added", micro("two") or 0.0, None, None, micro("nnsight two"), unit="µs"
        ),
    ]


def first_run(rounds: int) -> list[Row]:
    """The same in a cell that is run for the first time, as in a notebook."""
    raw, x = Two(), torch.ones(2)
    models: dict[str, tuple[Any, Any]] = {"nbsight": (wrap(twin(raw)), save)}
    if nnsight is not None:
        models["nnsight"] = (nnsight.NNsight(twin(raw)), nnsight.save)
    rows = []
    for what, text, goal, stretch in (("plain", PLAIN, 60, 30), ("invoke", INVOKE, 200, None)):
        found = {}
        for name, (model, keep) in models.items():
            names = {"model": model, "x": x, "save": keep}
            found[name] = _first(text, names, rounds) - _first("model._module(x)", names, rounds)
        peer = found.get("nnsight")
        rows.append(
            Row(f"first run of a new cell, {what}: added", found["nbsight"] * 1e6, goal, stretch,
                None if peer is None else peer * 1e6, unit="µs")
        )  # fmt: skip
    return rows


def _first(text: str, names: dict[str, Any], rounds: int) -> float:
    """Median seconds of the first execution of a cell that nobody has seen."""
    seconds = []
    for _ in range(rounds):
        filename = f"<cell {next(_numbers)}>"
        linecache.cache[filename] = (len(text), None, text.splitlines(True), filename)
        code = compile(text, filename, "exec")
        space = dict(names)
        start = time.process_time()
        exec(code, space)
        seconds.append(time.process_time() - start)
    return statistics.median(seconds[len(seconds) // 5 :])
