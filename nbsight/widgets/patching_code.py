"""The cells that the patching view offers: a sweep, and one patched run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nbsight.analysis.growing import SITES
from nbsight.analysis.patch_runs import Patch, PatchRuns
from nbsight.analysis.unembedding import last_blocks
from nbsight.errors import NbsightError
from nbsight.widgets.code import literal, name_of
from nbsight.widgets.patching_places import BY_HEAD

__all__ = ["METRICS", "compare_code", "metric_code", "prompts_code", "run_code", "sites_of", "sweep_code"]

METRICS = ("logit_difference", "probability", "kl")


def sites_of(model: Any) -> tuple[str, ...]:
    """The sites that this model can be patched at: all where its standard names are known."""
    known = [site for site in SITES if site in ("resid_pre", "resid_post") or _is_named(model, site)]
    if "z" in known:
        known.insert(known.index("z") + 1, BY_HEAD)
    return tuple(known)


def prompts_code(runs: PatchRuns) -> str:
    """The two prompts, under the names that the other cells use."""
    return f"import nbsight\n\nclean = {_prompt(runs.clean)}\ncorrupted = {_prompt(runs.corrupted)}\n"


def sweep_code(runs: PatchRuns) -> str:
    """A template of the sweep: `$site`, `$places`, `$direction` and `$metric` are chosen in the view."""
    given = [name_of(runs.model, "model"), "clean", "corrupted"]
    if runs.answers is not None:
        given.append(f"answers={literal(tuple(runs.answers))}")
    given.append("metric=$metric")
    lines = ",\n    ".join([", ".join(given), 'sites=["$site"]', "$places", 'direction="$direction"'])
    return f"patching = nbsight.activation_patching(\n    {lines},\n)\npatching"


def metric_code(runs: PatchRuns, metric: str) -> str:
    """A metric as it is given to a sweep."""
    return repr(metric) if metric in METRICS else name_of(runs.metric, "metric")


def run_code(runs: PatchRuns, patches: Sequence[Patch], direction: str, metric: str) -> str:
    """A cell that does one patched run and prints what the model says next."""
    donor, base = ("clean", "corrupted") if direction == "denoise" else ("corrupted", "clean")
    model = name_of(runs.model, "model")
    ordered = sorted(patches, key=lambda patch: (patch.layer, SITES.index(patch.site)))
    lines = [prompts_code(runs), *([f"with {model}.trace({donor}):"] if ordered else [])]
    lines += [
        f"    value_{number} = {_place(runs.model, model, patch, patch.source)}.clone()"
        for number, patch in enumerate(ordered)
    ]
    lines.append(f"with {model}.trace({base}):")
    lines += [
        f"    {_place(runs.model, model, patch, patch.target)} = value_{number}"
        for number, patch in enumerate(ordered)
    ]
    lines.append(f"    logits = {model}.output.logits[:, -1].save()")
    if metric == "kl":
        lines += [f"with {model}.trace(clean):", f"    reference = {model}.output.logits[0, -1].save()"]
    lines += [
        "",
        f"measured = float({_metric(runs, model, metric)}(logits)[0])",
        f'print({metric_title(metric)!r}, f"{{measured:.3f}}")',
        "probs = logits[0].float().softmax(-1)",
        "for token in probs.topk(6).indices.tolist():",
        f'    print(f"{{probs[token]:.3f}} {{{model}.to_string(token)!r}}")',
    ]
    return "\n".join(lines)


def metric_title(metric: str) -> str:
    return {"logit_difference": "logit difference", "kl": "KL divergence from the clean run"}.get(
        metric, metric
    )


def _metric(runs: PatchRuns, model: str, metric: str) -> str:
    if metric == "kl":
        return "nbsight.kl_divergence(reference)"
    if metric in METRICS and runs.answers is not None:
        answers = runs.answers if metric == "logit_difference" else runs.answers[:1]
        return f"nbsight.{metric}({model}, {', '.join(repr(answer) for answer in answers)})"
    return name_of(runs.metric, "metric")


def compare_code(frozen: str, now: str) -> str:
    """A cell that does two patched runs of the same prompts and says how far they are apart.

    Args:
        frozen: The cell of the one, as `run_code` writes it.
        now: That of the other.
    """
    _, begin, rest = now.partition("\nwith ")
    return "\n".join(
        [
            frozen,
            "frozen, frozen_probs = measured, probs",
            f"{begin.lstrip()}{rest}",
            'print("difference", f"{measured - frozen:.3f}")',
            "changes = probs - frozen_probs",
            "for token in changes.abs().topk(6).indices.tolist():",
            f'    print(f"{{changes[token]:+.3f}} {{{_model_in(now)}.to_string(token)!r}}")',
        ]
    )


def _model_in(code: str) -> str:
    return code.partition("\nwith ")[2].partition(".trace(")[0]


def _place(model: Any, name: str, patch: Patch, position: int | None) -> str:
    at = ":" if position is None else str(position)
    if not _is_named(model, patch.site):
        path = last_blocks(model)[patch.layer]._path
        value = f"{name}.{path}.input" if patch.site == "resid_pre" else f"{name}.{path}.output[0]"
        return f"{value}[0, {at}]"
    own = hasattr(model._model, "layers")  # there the model's own is meant
    layer = f"{name}.std.layers[{patch.layer}]" if own else f"{name}.layers[{patch.layer}]"
    if patch.site == "z":
        return f"{layer}.attn.z[0, {at}{'' if patch.head is None else f', {patch.head}'}]"
    return f"{layer}.{patch.site}[0, {at}]"


def _is_named(model: Any, site: str) -> bool:
    try:
        model.std.place(site, 0)
    except NbsightError:
        return False
    return True


def _prompt(prompt: Any) -> str:
    return repr(prompt.tolist() if hasattr(prompt, "tolist") else prompt)
