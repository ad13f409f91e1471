"""Attribution patching: every patch at once, estimated from gradients, and the best of them checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nbsight.analysis.growing import SITES, Point, stored_values
from nbsight.analysis.metrics import Answers, Metric
from nbsight.analysis.pairs import Align, Pair
from nbsight.analysis.patch_runs import Patch, PatchRuns
from nbsight.analysis.patching import PatchingSweep
from nbsight.analysis.unembedding import last_blocks
from nbsight.errors import InputError
from nbsight.models.language_model import LanguageModel
from nbsight.results.attribution import AttributionCheck, AttributionPatching
from nbsight.results.patching import Patching

__all__ = ["attribution_patching"]

Values = dict[tuple[int, str], torch.Tensor]


def attribution_patching(
    model: LanguageModel,
    clean: Any,
    corrupted: Any,
    *,
    answers: Answers | Sequence[Answers] | None = None,
    metric: Any = None,
    sites: Sequence[str] = ("resid_post",),
    layers: Sequence[int] | None = None,
    positions: Sequence[int | str | slice] | dict[str, Any] | None = None,
    heads: bool | Sequence[int] = True,
    align: Align = None,
    direction: str = "denoise",
    steps: int = 1,
) -> AttributionPatching:
    """Estimate what every patch would do: how far the two runs are apart, times the metric's gradient.

    Three forwards and one backward, however many places there are. It is a first-order estimate and may be
    far off where the model bends, as at early layers and in attention: `result.check(20)` really does the
    20 patches that look largest and says how well the two agree.

    Args:
        model: A language model.
        clean: As for `activation_patching`.
        corrupted: The same.
        answers: The same.
        metric: The same; it must be made of torch operations, so that it has a gradient.
        sites: Some of resid_pre, z, attn_out, resid_mid, mlp_out, resid_post.
        layers: Which blocks; all by default.
        positions: As for `activation_patching`.
        heads: The same.
        align: The same.
        direction: The same.
        steps: Over how many points between the two prompts' embeddings the gradient is averaged: 1 takes it
            in the run that is patched; with 5 to 10 it counts what saturates, at as many forwards. Needs
            prompts that line up position by position.

    Returns:
        The estimated metric of every patched run, with everything that activation patching returns.

    Raises:
        InputError: as `activation_patching`; a metric without a gradient.

    Source: Nanda, "Attribution patching: activation patching at industrial scale", 2023; Syed et al.,
        "Attribution patching outperforms automated circuit discovery", 2023; for the steps Hanna et al.,
        "Have faith in faithfulness", 2024.
    """
    if steps < 1:
        raise InputError(f"steps={steps} takes the gradient nowhere; write 1 or more.")
    sweep = PatchingSweep(
        model,
        clean,
        corrupted,
        answers=answers,
        metric=metric,
        sites=sites,
        layers=layers,
        positions=positions,
        heads=heads,
        align=align,
        direction=direction,
    )
    estimates, bases, ends = [], [], []
    for number, (pair, pair_metric) in enumerate(zip(sweep.pairs, sweep.metrics, strict=True)):
        if steps > 1 and pair.partner is not None:
            raise InputError(
                f"steps={steps} goes from one prompt's embeddings to the other's, and pair {number} is "
                "aligned in parts only; write steps=1, or choose prompts of equal length."
            )
        estimate, base, end = _estimate(sweep, pair, pair_metric, steps)
        estimates.append(sweep.chosen.arranged(estimate + base, pair.spots, len(pair.spans)))
        bases.append(base)
        ends.append(end)

    def check(top: int) -> AttributionCheck:
        return _check(sweep, result, top)

    by_head = [table for _, table in estimates if table is not None]
    denoise = direction == "denoise"
    plain = sweep.result()
    known = {own.name: getattr(plain, own.name) for own in fields(Patching) if own.init}
    result = AttributionPatching(
        **{
            **known,
            "values": np.stack([table for table, _ in estimates]),
            "head_values": np.stack(by_head) if by_head else None,
            "clean": np.array(ends if denoise else bases),
            "corrupted": np.array(bases if denoise else ends),
            "notes": sweep.notes,
            "resume": None,
            "runs": None,
            "provenance": {**plain.provenance, "steps": steps},
        },
        steps=steps,
        checker=check,
    )
    return result


def _estimate(
    sweep: PatchingSweep, pair: Pair, metric: Metric, steps: int
) -> tuple[NDArray[np.float64], float, float]:
    """The estimated effect of every point, and the metric of the patched run and of the donor."""
    model, chosen = sweep.model, sweep.chosen
    wanted = tuple(chosen.sites) if steps == 1 else tuple({*chosen.sites, "resid_pre"})
    layers = chosen.layers if steps == 1 else tuple({0, *chosen.layers})
    donor, logits = stored_values(model, pair.donor, wanted, layers)
    base, base_logits = stored_values(model, pair.base, wanted, layers)
    gradients: Values = {}
    for step in range(steps):
        start = None
        if steps > 1:
            share = (step + 0.5) / steps
            start = torch.lerp(base[0, "resid_pre"], donor[0, "resid_pre"], share)
        for key, gradient in _gradients(model, pair.base, chosen.sites, chosen.layers, metric, start).items():
            gradients[key] = gradient / steps + gradients.get(key, 0)
    found = [_of_point(point, pair, donor, base, gradients) for point in pair.points]
    return np.array(found), float(metric.numbers(base_logits)[0]), float(metric.numbers(logits)[0])


def _of_point(point: Point, pair: Pair, donor: Values, base: Values, gradients: Values) -> float:
    key = point.layer, point.site
    here = torch.tensor(point.positions)
    there = here if pair.partner is None else pair.partner[here]
    values = [table[key][place] for table, place in ((donor, there), (base, here), (gradients, here))]
    if point.heads is not None:
        values = [value[:, list(point.heads)] for value in values]
    apart = values[0].double() - values[1].double()
    return float((apart * values[2].to(apart)).sum())


def _gradients(
    model: LanguageModel,
    ids: torch.Tensor,
    sites: Sequence[str],
    layers: Sequence[int],
    metric: Metric,
    start: torch.Tensor | None,
) -> Values:
    """The metric's gradient at every site, (position, …), by layer and site; parameters get none."""
    blocks, values = last_blocks(model), Values()
    with model.trace(ids, grad=True, use_cache=False, receipts=False), torch.enable_grad():
        for layer in range(len(blocks)):
            if layer == 0:  # the graph begins here, also where no parameter asks for gradients
                stream = blocks[0].input.detach().clone() if start is None else start[None].clone()
                blocks[0].input = values[0, "resid_pre"] = stream.requires_grad_()
            for site in SITES if layer in layers else ():
                if site not in sites or (layer, site) == (0, "resid_pre"):
                    continue
                # A copy that the model goes on with, so that what was read is on the way to the logits.
                if site == "resid_pre":
                    blocks[layer].input = values[layer, site] = blocks[layer].input.clone()
                else:
                    values[layer, site] = model.std.get(site, layer).clone()
                    model.std.set(site, layer, values[layer, site])
        number = _differentiable(metric, model.output.logits[:, -1])
        keys = [key for key in values if key[1] in sites and key[0] in layers]
        found = torch.autograd.grad(number, [values[key] for key in keys], allow_unused=True)
        gradients = {
            key: torch.zeros_like(values[key][0]) if gradient is None else gradient[0].detach()
            for key, gradient in zip(keys, found, strict=True)
        }
    return gradients


def _differentiable(metric: Metric, logits: torch.Tensor) -> torch.Tensor:
    number = metric.of(logits)
    if not isinstance(number, torch.Tensor) or not number.requires_grad:
        raise InputError(
            f"attribution patching needs the gradient of the metric, and `{metric.name}` gave a "
            f"{type(number).__name__} without one. Make it of torch operations on the logits, without "
            "`.item()`, `.detach()` or numpy; or use `activation_patching`, which needs no gradient."
        )
    return number.sum()


def _check(sweep: PatchingSweep, result: AttributionPatching, top: int) -> AttributionCheck:
    """Do the patches that look largest, one forward for each and for each pair."""
    estimates = []
    for number, pair in enumerate(sweep.pairs):
        effect, by_head = result.effect[number], result.head_effect
        estimates.append(
            [
                effect[site, layer, position]
                if head is None or by_head is None
                else by_head[number, layer, position, head]
                for site, layer, position, head in pair.spots
            ]
        )
    mean = np.mean(estimates, axis=0)
    chosen = np.argsort(-np.abs(mean))[:top]
    exact = np.zeros((len(sweep.pairs), len(chosen)))
    for number, (pair, metric) in enumerate(zip(sweep.pairs, sweep.metrics, strict=True)):
        clean, corrupted = (
            (pair.donor, pair.base) if sweep.direction == "denoise" else (pair.base, pair.donor)
        )
        runs = PatchRuns(sweep.model, clean, corrupted)
        plain = metric.numbers(runs.run([], sweep.direction))[0]
        for column, index in enumerate(chosen):
            patches = list(_patches(pair.points[index], pair))
            exact[number, column] = metric.numbers(runs.run(patches, sweep.direction))[0] - plain
    places = [_name(sweep, pair.points[index], pair.spots[index][2]) for index in chosen]
    return AttributionCheck(
        places=places,
        estimate=mean[chosen],
        exact=exact.mean(0),
        metric=result.metric,
        unit=result.unit,
        provenance=result.provenance,
    )


def _patches(point: Point, pair: Pair) -> Sequence[Patch]:
    heads: Sequence[int | None] = (None,) if point.heads is None else point.heads
    partner = pair.partner
    return [
        Patch(point.layer, point.site, target if partner is None else int(partner[target]), target, head)
        for target in point.positions
        for head in heads
    ]


def _name(sweep: PatchingSweep, point: Point, column: int) -> str:
    head = "" if point.heads is None else f" head {point.heads[0]}"
    return f"{point.site} {point.layer}{head} at {sweep.labels[column].strip()} ({column})"
