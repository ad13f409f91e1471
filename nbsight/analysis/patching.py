"""Activation patching: which places of a model carry what makes two prompts differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from nbsight.analysis.chosen import Chosen
from nbsight.analysis.growing import stored_values
from nbsight.analysis.metrics import Answers, metric_of, notes_on
from nbsight.analysis.pairs import (
    Align,
    answers_for,
    check_labels,
    is_list_of_text,
    make_pair,
    notes_on_pair,
    prompts_of,
)
from nbsight.analysis.patch_runs import PatchRuns
from nbsight.analysis.stoppable import Stoppable
from nbsight.analysis.sweep import Sweep
from nbsight.errors import InputError
from nbsight.models.language_model import LanguageModel
from nbsight.models.provenance import provenance
from nbsight.results.patching import Patching, has_share

__all__ = ["PatchingSweep", "activation_patching"]

DIRECTIONS = ("denoise", "noise")


def activation_patching(
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
    batch: int | None = None,
    progress: bool | None = None,
    on_batch: Callable[[Patching], None] | None = None,
) -> Patching:
    """Give one place of a run at a time what it holds in the other run, and measure the prediction.

    Args:
        model: A language model.
        clean: The prompt that is answered rightly, or a list of prompts.
        corrupted: The same prompt with something else in it, with as many tokens unless `align` is given; or
            a list.
        answers: The right answer and the other one, each one token; or such a pair for each pair of prompts.
        metric: What is measured of the last position's logits, (row, d_vocab) to (row,): a function, a
            `Metric`, or "logit_difference" (the default), "probability" or "kl".
        sites: Some of resid_pre, z, attn_out, resid_mid, mlp_out, resid_post.
        layers: Which blocks; all by default.
        positions: Which positions, each on its own; all by default. A string of either prompt or a slice
            is a span that is patched as a whole: `["Eiffel Tower", -1]`. A dictionary names spans:
            `{"subject": [1, 2, 3], "last": -1}`, or a list of spans, one for each pair.
        heads: For `z`: True patches head by head, False all heads at once, or a list of heads.
        align: For prompts of different lengths, which positions correspond: "diff" finds what they have in
            common, `{"Eiffel Tower": "Colosseum"}` says which strings stand for each other, clean first; or
            one of these for each pair. Positions are then those of the prompt that is run.
        direction: "denoise" runs the corrupted prompt and patches from the clean one; "noise" the other way.
        batch: Runs in one batch; by default as many as fit the free memory.
        progress: Whether to show a bar; by default when it takes longer than half a second.
        on_batch: Called with what is known so far after every batch.

    Returns:
        The metric of every run and the two runs it lies between. After a KeyboardInterrupt it holds what was
        done, and `result.resume()` does the rest.

    Raises:
        InputError: prompts that do not line up, answers of several tokens, a layer, head or position that is
            not there, a metric that does not give one number for each row.

    Source: Vig et al., "Investigating gender bias in language models using causal mediation analysis", 2020;
        Meng et al., "Locating and editing factual associations in GPT", 2022; for the directions Heimersheim
        and Nanda, "How to use and interpret activation patching", 2024.
    """
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
        batch=batch,
    )
    return sweep.run(progress=progress, on_batch=on_batch)


class PatchingSweep(Stoppable[Patching]):
    """Activation patching that can be watched, stopped and gone on with.

        sweep = PatchingSweep(model, clean, corrupted, answers=(" Paris", " Rome"))
        for partial in sweep:                # a `Patching` after each batch
            ...

    Args: as for `activation_patching`.
    """

    what = "patching"

    def __init__(
        self,
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
        batch: int | None = None,
    ) -> None:
        if direction not in DIRECTIONS:
            raise InputError(
                f'direction is "denoise" (run corrupted, patch from clean) or "noise"; not {direction!r}.'
            )
        self.model, self.direction, self.batch = model, direction, batch
        self.chosen = Chosen(model, sites, layers, heads)
        prompts = prompts_of(model, clean, corrupted)
        self._answers = answers_for(answers, len(prompts))
        self.pairs = [
            make_pair(self.chosen, number, *ids, direction=direction, positions=positions, align=align)
            for number, ids in enumerate(prompts)
        ]
        check_labels(self.pairs)
        #: Where the pairs differ, the first one's stands for all.
        self.labels = tuple(
            first if all(label == first for label in others) else f"{first} …"
            for first, *others in zip(*(pair.labels for pair in self.pairs), strict=True)
        )
        self.metrics = [
            metric_of(model, metric, None if self._answers is None else self._answers[number], clean_ids)
            for number, (clean_ids, _) in enumerate(prompts)
        ]
        given = list(zip(clean, corrupted, strict=True)) if is_list_of_text(clean) else [(clean, corrupted)]
        self.runs = tuple(
            PatchRuns(
                model,
                *pair,
                answers=None if self._answers is None else self._answers[number],
                metric=metric,
            )
            for number, pair in enumerate(given)
        )
        spoken = self._answers if metric is None or isinstance(metric, str) else None
        said = [note for answers in spoken or () for note in notes_on(model, answers)]
        self.notes = [*dict.fromkeys(said)]
        for number, pair in enumerate(self.pairs):
            self.notes += notes_on_pair(pair, self._of(number), self.chosen.sites)
        self._sweeps: list[Sweep | None] = [None] * len(self.pairs)
        self._ends = [np.nan] * len(self.pairs)
        self._provenance = provenance(
            self.model, [text for pair in self.pairs for text in (pair.clean_text, pair.corrupted_text)]
        )

    def __len__(self) -> int:
        """The number of patched runs."""
        return sum(len(pair.points) for pair in self.pairs)

    @property
    def done(self) -> int:
        """How many of them are done."""
        return sum(int(sweep.done.sum()) for sweep in self._sweeps if sweep is not None)

    @property
    def is_complete(self) -> bool:
        """Whether all are."""
        return all(sweep is not None and sweep.is_complete for sweep in self._sweeps)

    def _batches(self) -> Iterator[int]:
        for number in range(len(self.pairs)):
            yield from self._sweep(number)

    def result(self) -> Patching:
        """What is known so far."""
        tables, bases, ends = [], [], []
        for pair, sweep, end in zip(self.pairs, self._sweeps, self._ends, strict=True):
            known = None if sweep is None else sweep.values
            tables.append(self.chosen.arranged(known, pair.spots, len(pair.spans)))
            bases.append(np.nan if sweep is None or sweep.base is None else float(sweep.base))
            ends.append(end)
        by_head = [table for _, table in tables if table is not None]
        denoise = self.direction == "denoise"
        complete = self.is_complete
        return Patching(
            clean_prompts=[pair.clean_text for pair in self.pairs],
            corrupted_prompts=[pair.corrupted_text for pair in self.pairs],
            sites=self.chosen.sites,
            layers=self.chosen.layers,
            positions=self.labels,
            heads=self.chosen.heads,
            values=np.stack([table for table, _ in tables]),
            head_values=np.stack(by_head) if by_head else None,
            clean=np.array(ends if denoise else bases),
            corrupted=np.array(bases if denoise else ends),
            metric=self._metric_name(),
            unit=self.metrics[0].unit,
            direction=self.direction,
            notes=(*self.notes, *self._notes_on_ends(*((ends, bases) if denoise else (bases, ends)))),
            provenance={**self._provenance, "batch": self._sweeps[0].rows if self._sweeps[0] else None},
            resume=None if complete else self.run,
            runs=self.runs,
        )

    # -- preparing -----------------------------------------------------------------------------

    def _metric_name(self) -> str:
        first = self.metrics[0]
        return first.name if len({metric.name for metric in self.metrics}) == 1 else first.kind or first.name

    def _of(self, number: int) -> str:
        return f" of pair {number}" if len(self.pairs) > 1 else ""

    def _notes_on_ends(self, clean: Sequence[float], corrupted: Sequence[float]) -> Iterator[str]:
        """What the two runs that every patch lies between say, once they are known."""
        for number, (high, low) in enumerate(zip(clean, corrupted, strict=True)):
            of, metric = self._of(number), self.metrics[number]
            if not (np.isfinite(high) and np.isfinite(low)):
                continue
            if not has_share(high, low):
                yield (
                    f"the {metric.name}{of} is {high:.3g} in the clean run and {low:.3g} in the corrupted "
                    "one: there is no way between them to recover a share of; look at `effect`."
                )
            elif metric.rises and high < low:
                yield (
                    f"the {metric.name}{of} is lower in the clean run ({high:.3g}) than in the corrupted one "
                    f"({low:.3g}). Are the prompts or the answers the wrong way round?"
                )

    # -- running -------------------------------------------------------------------------------

    def _sweep(self, number: int) -> Sweep:
        sweep = self._sweeps[number]
        if sweep is None:
            pair, metric = self.pairs[number], self.metrics[number]
            stored, logits = stored_values(self.model, pair.donor, self.chosen.sites, self.chosen.layers)
            self._ends[number] = float(metric.numbers(logits)[0])

            def change(layer: int, site: str, where: Any, current: torch.Tensor) -> torch.Tensor:
                places = where[0] if pair.partner is None else pair.partner.to(where[0].device)[where[0]]
                index = (places, *where[1:])
                return stored[layer, site][index].to(current.device)

            sweep = self._sweeps[number] = Sweep(
                self.model,
                pair.base,
                pair.points,
                change,
                lambda logits: metric.numbers(logits[:, 0]),
                batch=self.batch,
            )
        return sweep
