"""Ablation: what a prediction loses when one place of a model is silenced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from nbsight.analysis.chosen import Chosen, words_of
from nbsight.analysis.growing import Change, stored_values
from nbsight.analysis.metrics import Answers, metric_of, notes_on
from nbsight.analysis.stoppable import Stoppable
from nbsight.analysis.sweep import Sweep
from nbsight.errors import InputError
from nbsight.models.language_model import LanguageModel
from nbsight.models.provenance import provenance
from nbsight.results.ablation import Ablation

__all__ = ["AblationSweep", "ablation"]

METHODS = ("zero", "mean", "resample")


def ablation(
    model: LanguageModel,
    prompt: Any,
    *,
    method: str = "mean",
    reference: str | Sequence[str] = (),
    answers: Answers | None = None,
    metric: Any = None,
    sites: Sequence[str] = ("attn_out", "mlp_out"),
    layers: Sequence[int] | None = None,
    positions: Sequence[int | str | slice] | dict[str, Any] | None = None,
    heads: bool | Sequence[int] = True,
    seed: int = 0,
    batch: int | None = None,
    progress: bool | None = None,
    on_batch: Callable[[Ablation], None] | None = None,
) -> Ablation:
    """Silence one place at a time and measure the prediction.

    Args:
        model: A language model.
        prompt: One prompt.
        method: "zero" writes zeros; "mean" the mean over all positions of the reference prompts; "resample"
            what a position of a reference prompt, drawn at random, holds there.
        reference: Prompts that say what is ordinary there; needed for "mean" and "resample".
        answers: The right answer and the other one, each one token.
        metric: As for `activation_patching`.
        sites: Some of resid_pre, z, attn_out, resid_mid, mlp_out, resid_post.
        layers: Which blocks; all by default.
        positions: As for `activation_patching`.
        heads: For `z`: True ablates head by head, False all heads at once, or a list of heads.
        seed: Of the drawing for "resample".
        batch: Runs in one batch; by default as many as fit the free memory.
        progress: Whether to show a bar; by default when it takes longer than half a second.
        on_batch: Called with what is known so far after every batch.

    Returns:
        The metric of every ablated run and of the plain one. After a KeyboardInterrupt it holds what was
        done, and `result.resume()` does the rest.

    Raises:
        InputError: a method without what it needs, several prompts, a place that is not there.

    Source: for mean and resample against zero, Wang et al., "Interpretability in the wild", 2022, and Chan et
        al., "Causal scrubbing", 2022.
    """
    sweep = AblationSweep(
        model,
        prompt,
        method=method,
        reference=reference,
        answers=answers,
        metric=metric,
        sites=sites,
        layers=layers,
        positions=positions,
        heads=heads,
        seed=seed,
        batch=batch,
    )
    return sweep.run(progress=progress, on_batch=on_batch)


class AblationSweep(Stoppable[Ablation]):
    """Ablation that can be watched, stopped and gone on with.

        sweep = AblationSweep(model, prompt, method="zero", answers=(" Paris", " Rome"))
        for partial in sweep:                # an `Ablation` after each batch
            ...

    Args: as for `ablation`.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompt: Any,
        *,
        method: str = "mean",
        reference: str | Sequence[str] = (),
        answers: Answers | None = None,
        metric: Any = None,
        sites: Sequence[str] = ("attn_out", "mlp_out"),
        layers: Sequence[int] | None = None,
        positions: Sequence[int | str | slice] | dict[str, Any] | None = None,
        heads: bool | Sequence[int] = True,
        seed: int = 0,
        batch: int | None = None,
    ) -> None:
        if method not in METHODS:
            raise InputError(f"there is no ablation {method!r}; there are {', '.join(METHODS)}.")
        if method != "zero" and not reference:
            raise InputError(
                f"{method} ablation puts in what is ordinary, so it needs prompts that show what that is: "
                '`reference=["...", "..."]`. For none at all write `method="zero"`.'
            )
        ids = model.to_tokens(prompt)
        if len(ids) != 1:
            raise InputError(f"ablation takes one prompt and was given {len(ids)}; call it for each.")
        self.model, self.method, self.what = model, method, f"{method} ablation"
        self.chosen = Chosen(model, sites, layers, heads)
        self.labels, spans = self.chosen.spans(positions, 0, ids)
        points, self._spots = self.chosen.points(spans)
        self.metric = metric_of(model, metric, answers, ids)
        self.notes = notes_on(model, answers if metric is None or isinstance(metric, str) else None)
        reference = [reference] if isinstance(reference, str) else list(reference)
        change = _change(model, method, reference, self.chosen, ids.shape[1], seed)
        self._sweep = Sweep(
            model, ids, points, change, lambda logits: self.metric.numbers(logits[:, 0]), batch=batch
        )
        self.prompt = prompt if isinstance(prompt, str) else "".join(words_of(model, ids))
        self._provenance = provenance(
            model,
            [self.prompt],
            seed=seed if method == "resample" else None,
            **({"reference": reference} if reference else {}),
        )

    def __len__(self) -> int:
        return len(self._sweep)

    @property
    def done(self) -> int:
        """How many runs are done."""
        return int(self._sweep.done.sum())

    @property
    def is_complete(self) -> bool:
        """Whether all are."""
        return self._sweep.is_complete

    def _batches(self) -> Iterator[int]:
        return iter(self._sweep)

    def result(self) -> Ablation:
        """What is known so far."""
        values, head_values = self.chosen.arranged(self._sweep.values, self._spots, len(self.labels))
        base = self._sweep.base
        return Ablation(
            prompt=self.prompt,
            sites=self.chosen.sites,
            layers=self.chosen.layers,
            positions=self.labels,
            heads=self.chosen.heads,
            values=values,
            head_values=head_values,
            baseline=float("nan") if base is None else float(base),
            method=self.method,
            metric=self.metric.name,
            unit=self.metric.unit,
            notes=self.notes,
            provenance={**self._provenance, "batch": self._sweep.rows},
            resume=None if self.is_complete else self.run,
        )


def _change(
    model: LanguageModel, method: str, reference: list[str], chosen: Chosen, count: int, seed: int
) -> Change:
    if method == "zero":
        return lambda layer, site, where, current: torch.zeros_like(current)
    pools: dict[tuple[int, str], torch.Tensor] = {}
    for text in reference:
        stored, _ = stored_values(model, model.to_tokens(text), chosen.sites, chosen.layers)
        for key, value in stored.items():
            pools[key] = torch.cat([pools[key], value]) if key in pools else value
    if method == "mean":
        means = {key: value.mean(0) for key, value in pools.items()}

        def mean(layer: int, site: str, where: Any, current: torch.Tensor) -> torch.Tensor:
            value = means[layer, site]
            return value[where[1]] if site == "z" else value.expand_as(current)

        return mean
    # One donor position for each place of the prompt, drawn now, so that batches do not matter.
    generator = torch.Generator().manual_seed(seed)
    size = next(iter(pools.values())).shape[0]
    draws = {key: torch.randint(size, (count,), generator=generator) for key in sorted(pools)}

    def resample(layer: int, site: str, where: Any, current: torch.Tensor) -> torch.Tensor:
        pool = pools[layer, site]
        rows = draws[layer, site].to(pool.device)[where[0]]
        return pool[rows, where[1]] if site == "z" else pool[rows]

    return resample
