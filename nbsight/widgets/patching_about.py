"""What the patching view is told of two prompts before anything is patched."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nbsight.analysis.patch_runs import Patch, PatchRuns
from nbsight.models.provenance import provenance
from nbsight.models.tokens import str_tokens
from nbsight.results.patching import Patching
from nbsight.widgets.patching_code import METRICS, metric_code, prompts_code, sites_of, sweep_code
from nbsight.widgets.payload import texts_of
from nbsight.widgets.tops import number, tops_of

__all__ = ["about_live", "about_saved", "badges_of", "ends_of"]

NO_EFFECT = 1e-6  # of the distance between the two runs


def about_live(runs: PatchRuns) -> dict[str, Any]:
    """The header of a pair that can be run."""
    words = {which: str_tokens(runs.model.tokenizer, ids[0].tolist()) for which, ids in runs.ids.items()}
    metrics = [name for name in METRICS if name == "kl" or runs.answers is not None]
    if runs.metric is not None and runs.metric not in METRICS:
        metrics.insert(0, "custom")
    plain = {which: runs.plain(which) for which in ("clean", "corrupted")}
    started = time.perf_counter()
    with runs.model.trace(runs.ids["clean"], grad=False):
        runs.model.output.logits[:, -1]
    seconds = time.perf_counter() - started
    ends, units = {}, {}
    for name in metrics:
        measure = runs.metric_named(None if name == "custom" else name)
        ends[name] = [number(float(measure(plain[which])[0])) for which in ("clean", "corrupted")]
        units[name] = measure.name
    given = {"clean": runs.clean, "corrupted": runs.corrupted}
    texts = {which: text if isinstance(text, str) else "".join(words[which]) for which, text in given.items()}
    sites = sites_of(runs.model)
    return {
        "model": str(runs.model._name),
        **{which: {"prompt": texts[which], "tokens": words[which]} for which in given},
        "layers": list(range(runs.n_layers)),
        "heads": int(runs.model.std.n_heads) if "z" in sites else 0,
        "sites": list(sites),
        "metrics": metrics,
        "names": units,
        "ends": ends,
        "seconds": seconds,
        "tops": tops_of(runs.model, plain),
        "code": prompts_code(runs),
        "code_at": sweep_code(runs),
        "code_metric": {name: metric_code(runs, name) for name in metrics},
        "provenance": texts_of(provenance(runs.model)),
        "live": True,
    }


def about_saved(tables: Mapping[str, Patching]) -> dict[str, Any]:
    """The header of a pair whose model is out of reach."""
    key, result = next(iter(tables.items()))
    metric = key.split("|")[2]
    plain = [one for one in tables.values() if one.head_values is None] or [result]
    named = list(plain[0].positions)
    return {
        "model": str(result.provenance.get("model", "")),
        "clean": {"prompt": result.clean_prompts[0], "tokens": named},
        "corrupted": {"prompt": result.corrupted_prompts[0], "tokens": named},
        "layers": [int(layer) for layer in result.layers],
        "heads": 1 + max(result.heads, default=-1),
        "sites": sorted({each.split("|")[0].split("@")[0] for each in tables}),
        "metrics": [metric],
        "names": {metric: result.metric},
        "ends": {metric: [number(float(result.clean[0])), number(float(result.corrupted[0]))]},
        "seconds": 0,
        "tops": None,
        "code": "import nbsight\n",
        "code_at": "# The model and the prompts of this result are not known here; load it with\n"
        "# `nbsight.load_result(path)` and run `activation_patching` again with its model.",
        "code_metric": {metric: repr(metric)},
        "provenance": texts_of(result.provenance),
        "live": False,
    }


def badges_of(
    runs: PatchRuns,
    patches: Sequence[Patch],
    direction: str,
    logits: torch.Tensor,
    moved: float,
    apart: float,
) -> list[str]:
    """What a reader must know before believing a patched run.

    Args:
        runs: The pair.
        patches: What was patched.
        direction: "denoise" or "noise".
        logits: What came out, (1, d_vocab).
        moved: How far the metric went from the plain run's.
        apart: How far the two runs are from each other.
    """
    found = []
    base = runs.ids[ends_of(direction)[0]]
    stream: dict[tuple[int, str], set[int]] = {}
    for patch in patches:
        is_stream = patch.site in ("resid_pre", "resid_post") and patch.source == patch.target
        if is_stream and patch.target is not None:
            stream.setdefault((patch.layer, patch.site), set()).add(patch.target)
    if any(len(targets) == base.shape[1] for targets in stream.values()):
        found.append("The whole stream is replaced: the result equals the donor's by construction.")
    if not torch.isfinite(logits).all():
        found.append("The logits hold NaN or infinite numbers.")
    elif patches and abs(moved) <= NO_EFFECT * max(abs(apart), 1e-6):
        found.append("Nothing changed: this place holds the same in both runs, or nothing reads it.")
    if any(patch.source != patch.target for patch in patches):
        found.append("Moved to another position: a position's encoding comes with it.")
    return found


def ends_of(direction: str) -> tuple[str, str]:
    """The run that is patched and the donor."""
    return ("corrupted", "clean") if direction == "denoise" else ("clean", "corrupted")
