"""Collecting activations to disk, beside a loop that does the same with hooks and keeps no account."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.measure import measure
from benchmarks.subjects import LAYERS, Subject, subject
from benchmarks.table import Row
from nbsight.analysis.collecting import collect

__all__ = ["collecting"]

TEXTS, POSITIONS, ROWS = 64, 64, 16


def collecting(rounds: int) -> list[Row]:
    """Time to collect one layer's stream: of the last layer, and of an early one."""
    it = subject(256, tokens=POSITIONS)
    vocabulary = it.raw.config.vocab_size
    texts = torch.randint(1, vocabulary, (TEXTS, POSITIONS), generator=torch.Generator().manual_seed(0))
    rows = []
    for layer in (LAYERS - 1, 2):
        folder = Path(tempfile.mkdtemp(prefix="nbsight-collecting-"))
        try:
            times = measure(_contestants(it, texts, layer, folder), rounds=rounds, warm=1)
        finally:
            shutil.rmtree(folder)
        name = f"collecting {TEXTS * POSITIONS} tokens after layer {layer} of {LAYERS}"
        rows += [
            Row(name, times.median("nbsight") * 1e3, unit="ms"),
            Row(f"{name} / hooks", times.ratio("nbsight", "hooks"), 1.10),
        ]
    return rows


def _contestants(
    it: Subject, texts: torch.Tensor, layer: int, folder: Path
) -> dict[str, Callable[[], object]]:
    listed = texts.tolist()

    def ours() -> object:
        shutil.rmtree(folder / "ours", ignore_errors=True)
        return collect(
            it.ours,
            listed,
            ("resid_post", layer),
            folder / "ours",
            batch_tokens=ROWS * POSITIONS,
            progress=False,
        )

    def hooks() -> None:
        found: list[torch.Tensor] = []

        def keep(module: torch.nn.Module, args: object, out: object) -> None:
            value = out[0] if isinstance(out, tuple) else out
            assert isinstance(value, torch.Tensor)
            found.append(value.flatten(0, 1).clone())

        handle = it.raw.transformer.h[layer].register_forward_hook(keep)
        with torch.no_grad():
            for start in range(0, TEXTS, ROWS):
                # without the unembedding, which nobody who collects would compute
                it.raw.transformer(torch.tensor(listed[start : start + ROWS]), use_cache=False)
        handle.remove()
        save_file({"ids": texts.flatten(), "values": torch.cat(found)}, folder / "hooks.safetensors")

    return {"nbsight": ours, "hooks": hooks}
