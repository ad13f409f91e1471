"""Measures that need a process of their own: importing, memory, threads that may fail.

Run as `python -m benchmarks.processes WHAT LIBRARY ...`, a child prints one number.
"""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.table import Row

__all__ = ["importing", "lens_peaks", "memory", "threads"]

TRACES = 40


def _child(*words: str, **variables: str) -> float | None:
    """The number that a child prints; None when it cannot (a peer that is missing, a crash)."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.processes", *words],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
    )
    try:
        return float(done.stdout.split()[-1])
    except (IndexError, ValueError):
        return None


# -- the rows --------------------------------------------------------------------------------------


def importing(rounds: int) -> list[Row]:
    """CPU time of imports in fresh processes, of compiled files: an installer leaves them compiled."""
    words = ("torch", "nbsight", "nbsight all", "nnsight")
    found: dict[str, list[float]] = {word: [] for word in words}
    with tempfile.TemporaryDirectory() as folder:
        compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": folder}
        for turn in range(rounds + 1):  # the first one compiles
            for word in words:
                value = _child("import", *word.split(), **compiled)
                if value is not None and turn:
                    found[word].append(value)
    median = {word: statistics.median(values) for word, values in found.items() if values}
    torch = median["torch"]
    peer = (median["nnsight"] - torch) / torch if "nnsight" in median else None
    return [
        Row("import nbsight, by itself", median["nbsight"] * 1000, None, 60, unit="ms"),
        Row("import torch, nbsight and its core: added / import torch",
            (median["nbsight all"] - torch) / torch, 0.10, None, peer),
    ]  # fmt: skip


def memory(quick: bool) -> list[Row]:
    """What the process grows by when a default trace saves twelve blocks, over the blocks' bytes."""
    if not Path("/proc/self/statm").exists():
        return []
    # With a fixed threshold every large tensor is a mapping of its own and leaves at once.
    options = ("256" if quick else "768",)
    ours = _child("memory", "nbsight", *options, MALLOC_MMAP_THRESHOLD_="65536")
    theirs = _child("memory", "nnsight", *options, MALLOC_MMAP_THRESHOLD_="65536")
    if ours is None:
        raise RuntimeError("the child that measures memory failed; run it by hand to see why")
    return [Row("memory kept by saves / their bytes", ours, 2, 1.1, theirs)]


def lens_peaks() -> dict[str, float | None]:
    """Bytes that a logit lens needs at most, by who computes it; empty where the system does not tell."""
    if not Path("/proc/self/clear_refs").exists():
        return {}
    return {
        who: _child("peak", who, MALLOC_MMAP_THRESHOLD_="65536") for who in ("nbsight", "naive", "nnsight")
    }


def threads(counts: tuple[int, ...] = (2, 4)) -> list[Row]:
    """Traces that fail or read wrong numbers when threads share one model."""
    rows = []
    for count in counts:
        ours = _child("threads", "nbsight", str(count))
        theirs = _child("threads", "nnsight", str(count))
        if ours is None:
            raise RuntimeError("the child with threads died; run it by hand to see why")
        rows.append(Row(f"failing traces, {count} threads on one model", ours, 0, 0, theirs, unit="%"))
    return rows


# -- the children ----------------------------------------------------------------------------------


def _import(what: str, all_of_it: bool) -> float:
    start = time.process_time()
    if what == "torch":
        import torch
    elif what == "nnsight":
        import nnsight  # noqa: F401
    elif all_of_it:
        import torch  # noqa: F401

        import nbsight

        _ = nbsight.wrap, nbsight.save
    else:
        import nbsight
    return time.process_time() - start


def _need(library: str, peer: Any) -> None:
    if library == "nnsight" and peer is None:
        sys.exit("nnsight is not installed")


def _pages() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _memory(library: str, d_model: int) -> float:
    from benchmarks.subjects import LAYERS, nnsight, subject

    _need(library, nnsight)
    it = subject(d_model, tokens=256)
    ids = it.ids

    def ours() -> Any:
        with it.ours.trace(ids):
            hidden = [it.ours.transformer.h[layer].output[0].save() for layer in range(LAYERS)]
        return hidden

    def theirs() -> Any:
        with it.theirs.trace(ids):
            hidden = nnsight.save(
                [nnsight.save(it.theirs.transformer.h[layer].output) for layer in range(LAYERS)]
            )
        return hidden

    run = ours if library == "nbsight" else theirs
    for _ in range(3):
        run()
    gc.collect()
    before = _pages()
    kept = run()
    gc.collect()
    return (_pages() - before) / sum(tensor.nbytes for tensor in kept)


def _threads(library: str, count: int) -> float:
    import torch

    from benchmarks.subjects import LAYERS, nnsight, subject

    _need(library, nnsight)
    it = subject(64)
    bad = 0
    lock = threading.Lock()
    prompts = [torch.randint(1, 1000, (1, 9)) for _ in range(count)]
    expected = []
    for ids in prompts:
        with torch.no_grad():
            expected.append(it.raw(ids, output_hidden_states=True).hidden_states)

    def once(ids: Any) -> list[Any]:
        if library == "nbsight":
            with it.ours.trace(ids):
                ours = [it.ours.transformer.h[layer].output.save() for layer in range(LAYERS)]
            return ours
        with torch.no_grad():
            with it.theirs.trace(ids):
                theirs = nnsight.save(
                    [nnsight.save(it.theirs.transformer.h[layer].output) for layer in range(LAYERS)]
                )
        return theirs

    def work(number: int) -> None:
        nonlocal bad
        for _ in range(TRACES):
            try:
                found = once(prompts[number])
                # The last hidden state that Hugging Face returns is after the final norm.
                right = all(
                    torch.equal(a, b) for a, b in zip(found[:-1], expected[number][1:-1], strict=True)
                )
            except Exception:  # whatever it is, this trace failed
                right = False
            if not right:
                with lock:
                    bad += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return 100 * bad / (count * TRACES)


def _main() -> None:
    what, library, *options = sys.argv[1:]
    if what == "import":
        print(_import(library, bool(options)))
    elif what == "memory":
        print(_memory(library, int(options[0])))
    elif what == "peak":
        from benchmarks.lens import peak

        print(peak(library))
    else:
        print(_threads(library, int(options[0])))


if __name__ == "__main__":
    _main()
