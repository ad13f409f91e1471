"""The logit lens of a GPT-2 of its real size: nbsight, all logits at once, and nnsight."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import measure
from benchmarks.subjects import LAYERS, Subject, nnsight, subject
from benchmarks.table import Row
from nbsight.analysis.lens import logit_lens

__all__ = ["contestants", "lens", "peak"]

POSITIONS, VOCABULARY, TOP = 32, 50257, 5


def real_size() -> Subject:
    """d_model 768, 12 layers, 50,257 tokens."""
    return subject(768, tokens=POSITIONS, vocabulary=VOCABULARY)


def contestants(it: Subject) -> dict[str, Callable[[], Any]]:
    """Top tokens and their probabilities for every layer and position, several ways."""
    raw, ids = it.raw, it.ids

    def ranked(stream: list[torch.Tensor]) -> Any:
        logits = raw.lm_head(raw.transformer.ln_f(torch.stack(stream)))
        return logits.softmax(-1).topk(TOP)

    def naive() -> Any:
        stream: list[torch.Tensor] = []
        handles = [
            block.register_forward_hook(lambda module, args, out: stream.append(out))
            for block in raw.transformer.h
        ]
        with torch.no_grad():
            raw(ids)
            found = ranked(stream)
        for handle in handles:
            handle.remove()
        return found

    def nbsight() -> Any:
        return logit_lens(it.ours, ids, top_k=TOP)

    found: dict[str, Callable[[], Any]] = {"nbsight": nbsight, "naive": naive}
    if it.theirs is not None:

        def theirs() -> Any:
            with torch.no_grad():
                with it.theirs.trace(ids):
                    stream = nnsight.save(
                        [nnsight.save(it.theirs.transformer.h[layer].output) for layer in range(LAYERS)]
                    )
                return ranked(stream)

        found["nnsight"] = theirs
    return found


def lens(rounds: int, peaks: dict[str, float | None]) -> list[Row]:
    """Time and peak memory of the lens beside the naive way.

    Args:
        rounds: How often each is timed.
        peaks: Bytes that each needs at most, from processes of their own; empty where that is not known.
    """
    times = measure(contestants(real_size()), rounds=rounds, warm=1)
    peer = times.ratio("nnsight", "naive") if "nnsight" in times else None
    name = f"lens, {LAYERS} layers × {POSITIONS} positions × {VOCABULARY} tokens"
    rows = [
        Row(name, times.median("nbsight") * 1e3, unit="ms"),
        Row(f"{name} / naive", times.ratio("nbsight", "naive"), 0.70, 0.60, peer),
    ]
    ours, naive, theirs = (peaks.get(who) for who in ("nbsight", "naive", "nnsight"))
    if ours is not None and naive is not None:
        rows.append(Row(f"{name}: peak memory", ours / 2**20, unit="MiB"))
        rows.append(Row(f"{name}: peak memory / naive", ours / naive, 0.12, None, theirs and theirs / naive))
    return rows


def peak(who: str) -> float:
    """Bytes that this process needs at most for one lens, beyond what it holds before and after a forward."""
    it = real_size()
    run = contestants(it).get(who)
    if run is None:
        raise SystemExit(f"{who} is not installed")
    with torch.no_grad():
        it.raw(it.ids)  # buffers that any forward makes and keeps
    if who == "nbsight":
        logit_lens(it.ours, it.ids[:, :2], top_k=TOP)  # finds the way to the logits, once per model
    status = Path("/proc/self/status")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = _kilobytes(status, "VmRSS")
    run()
    return (_kilobytes(status, "VmHWM") - before) * 1024


def _kilobytes(status: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(name))
