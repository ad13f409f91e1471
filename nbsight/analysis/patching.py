"""Activation patching: which places of a model carry what makes two prompts differ."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nbsight.analysis.metrics import Metric, as_metric, kl_divergence, logit_difference, probability
from nbsight.analysis.provenance import provenance
from nbsight.analysis.sweep import SITES, Point, Sweep
from nbsight.analysis.unembedding import last_blocks
from nbsight.errors import InputError, NbsightWarning
from nbsight.models.language_model import LanguageModel
from nbsight.models.tokens import describe_lengths, str_tokens
from nbsight.results.patching import Patching

__all__ = ["PatchingSweep", "activation_patching"]

DIRECTIONS = ("denoise", "noise")

Answers = tuple[str | int, str | int]


def activation_patching(
    model: LanguageModel,
    clean: Any,
    corrupted: Any,
    *,
    answers: Answers | Sequence[Answers] | None = None,
    metric: Any = None,
    sites: Sequence[str] = ("resid_post",),
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | dict[str, Any] | None = None,
    heads: bool | Sequence[int] = True,
    direction: str = "denoise",
    batch: int | None = None,
    progress: bool | None = None,
    on_batch: Callable[[Patching], None] | None = None,
) -> Patching:
    """Give one place of a run at a time what it holds in the other run, and measure the prediction.

    Args:
        model: A language model.
        clean: The prompt that is answered rightly, or a list of prompts.
        corrupted: The same prompt with something else in it, with as many tokens; or a list.
        answers: The right answer and the other one, each one token; or such a pair for each pair of prompts.
        metric: What is measured of the last position's logits, (row, d_vocab) to (row,): a function, a
            `Metric`, or "logit_difference" (the default), "probability" or "kl".
        sites: Some of resid_pre, z, attn_out, resid_mid, mlp_out, resid_post.
        layers: Which blocks; all by default.
        positions: Which positions, each on its own; all by default. A dictionary names spans that are
            patched as a whole: `{"subject": [1, 2, 3], "last": -1}`, or a list of spans, one for each pair.
        heads: For `z`: True patches head by head, False all heads at once, or a list of heads.
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
        direction=direction,
        batch=batch,
    )
    return sweep.run(progress=progress, on_batch=on_batch)


@dataclass(frozen=True)
class _Pair:
    """One pair of prompts, ready to run."""

    base: torch.Tensor
    donor: torch.Tensor
    clean_text: str
    corrupted_text: str
    metric: Metric
    spans: tuple[tuple[int, ...], ...]


class PatchingSweep:
    """Activation patching that can be watched, stopped and gone on with.

        sweep = PatchingSweep(model, clean, corrupted, answers=(" Paris", " Rome"))
        for partial in sweep:                # a `Patching` after each batch
            ...

    Args: as for `activation_patching`.
    """

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
        positions: Sequence[int] | dict[str, Any] | None = None,
        heads: bool | Sequence[int] = True,
        direction: str = "denoise",
        batch: int | None = None,
    ) -> None:
        if direction not in DIRECTIONS:
            raise InputError(
                f'direction is "denoise" (run corrupted, patch from clean) or "noise"; not {direction!r}.'
            )
        self.model, self.direction, self.batch = model, direction, batch
        self.sites = _checked_sites(sites)
        self.layers = _checked_layers(layers, len(last_blocks(model)))
        self.heads = _checked_heads(model, heads) if "z" in self.sites else ()
        pairs = _prompts(model, clean, corrupted)
        self._answers = _answers_for(answers, len(pairs))
        self.labels: tuple[str, ...] = ()
        self.notes: list[str] = []
        self.pairs = [
            self._pair(number, clean_ids, other_ids, metric, positions)
            for number, (clean_ids, other_ids) in enumerate(pairs)
        ]
        self._check_notes()
        self._sweeps: list[Sweep | None] = [None] * len(self.pairs)
        self._ends: list[float] = []
        count = (len(self.sites) - bool(self.heads)) * len(self.labels)
        self._shape = (len(self.pairs), len(self.sites), len(self.layers), len(self.labels))
        self._count = len(self.layers) * (count + len(self.heads) * len(self.labels))

    def __len__(self) -> int:
        """The number of patched runs."""
        return self._count * len(self.pairs)

    @property
    def done(self) -> int:
        """How many of them are done."""
        return sum(int(sweep.done.sum()) for sweep in self._sweeps if sweep is not None)

    @property
    def is_complete(self) -> bool:
        """Whether all are."""
        return all(sweep is not None and sweep.is_complete for sweep in self._sweeps)

    def __iter__(self) -> Iterator[Patching]:
        for number in range(len(self.pairs)):
            sweep = self._sweep(number)
            for _ in sweep:
                yield self.result()

    def run(
        self, *, progress: bool | None = None, on_batch: Callable[[Patching], None] | None = None
    ) -> Patching:
        """Do what is left and return the result; a KeyboardInterrupt returns what is there.

        Args:
            progress: Whether to show a bar; by default when it takes longer than half a second.
            on_batch: Called with what is known so far after every batch.
        """
        from tqdm.auto import tqdm

        bar = tqdm(
            total=len(self),
            desc="patching",
            disable=progress is False,
            delay=0 if progress else 0.5,
            leave=False,
        )
        try:
            with bar:
                for number in range(len(self.pairs)):
                    for _ in self._sweep(number):
                        bar.update(self.done - bar.n)
                        if on_batch is not None:
                            on_batch(self.result())
        except KeyboardInterrupt:
            warnings.warn(
                f"stopped after {self.done} of {len(self)} runs; the rest are NaN. `result.resume()` goes "
                "on.",
                NbsightWarning,
                stacklevel=3,
            )
        return self.result()

    def result(self) -> Patching:
        """What is known so far."""
        values = np.full(self._shape, np.nan)
        heads = np.full((*self._shape[:1], *self._shape[2:], len(self.heads)), np.nan) if self.heads else None
        bases = np.full(len(self.pairs), np.nan)
        ends = np.full(len(self.pairs), np.nan)
        for number, sweep in enumerate(self._sweeps):
            if sweep is None:
                continue
            ends[number] = self._ends[number]
            if sweep.base is not None and sweep.values is not None:
                bases[number] = float(sweep.base)
                for (where, head), value in zip(self._places(), sweep.values, strict=True):
                    site, layer, position = where
                    if head is None:
                        values[number, site, layer, position] = value
                    elif heads is not None:
                        heads[number, layer, position, head] = value
        denoise = self.direction == "denoise"
        complete = self.is_complete
        return Patching(
            clean_prompts=[pair.clean_text for pair in self.pairs],
            corrupted_prompts=[pair.corrupted_text for pair in self.pairs],
            sites=self.sites,
            layers=self.layers,
            positions=self.labels,
            heads=self.heads,
            values=values,
            head_values=heads,
            clean=ends if denoise else bases,
            corrupted=bases if denoise else ends,
            metric=self.pairs[0].metric.name,
            unit=self.pairs[0].metric.unit,
            direction=self.direction,
            notes=tuple(self.notes),
            provenance=provenance(
                self.model,
                [text for pair in self.pairs for text in (pair.clean_text, pair.corrupted_text)],
                batch=None if not self._sweeps[0] else self._sweeps[0]._rows,
            ),
            resume=None if complete else self.run,
        )

    # -- preparing -----------------------------------------------------------------------------

    def _pair(
        self, number: int, clean: torch.Tensor, corrupted: torch.Tensor, metric: Any, positions: Any
    ) -> _Pair:
        if clean.shape != corrupted.shape:
            raise InputError(
                "patching position by position needs prompts of equal length. "
                f"{describe_lengths(self.model.tokenizer, clean[0].tolist(), corrupted[0].tolist())}"
            )
        base, donor = (corrupted, clean) if self.direction == "denoise" else (clean, corrupted)
        words = _words(self.model, base)
        labels, spans = _spans(positions, number, len(words))
        if not self.labels:
            self.labels = tuple(labels if labels is not None else (words[span[0]] for span in spans))
        elif len(spans) != len(self.labels):
            raise InputError(
                f"the first pair of prompts has {len(self.labels)} positions and pair {number} has "
                f"{len(spans)}, so they have no common axis. Name spans, one for each pair: "
                '`positions={"subject": [[1, 2], [1, 2, 3]], "last": -1}`.'
            )
        return _Pair(
            base,
            donor,
            "".join(_words(self.model, clean)),
            "".join(_words(self.model, corrupted)),
            self._metric(number, metric, clean),
            tuple(spans),
        )

    def _metric(self, number: int, metric: Any, clean: torch.Tensor) -> Metric:
        if metric == "kl":
            with self.model.trace(clean, grad=False):
                reference = self.model.output.logits[0, -1]
            return kl_divergence(reference)
        if metric is not None and not isinstance(metric, str):
            return as_metric(metric)
        if metric not in (None, "logit_difference", "probability"):
            raise InputError(
                f'there is no metric {metric!r}; there are "logit_difference", "probability" and "kl", and '
                "any function of logits (row, d_vocab)."
            )
        if self._answers is None:
            raise InputError(
                'patching needs to know what to measure. Write `answers=(" Paris", " Rome")`, the right '
                "answer and the other one, or `metric=` a function of logits (row, d_vocab)."
            )
        right, wrong = self._answers[number]
        if metric == "probability":
            return probability(self.model, right)
        return logit_difference(self.model, right, wrong)

    def _check_notes(self) -> None:
        for number, pair in enumerate(self.pairs):
            of = f" of pair {number}" if len(self.pairs) > 1 else ""
            whole = [
                label
                for label, span in zip(self.labels, pair.spans, strict=True)
                if len(set(span)) == pair.base.shape[1]
            ]
            if whole and any(site.startswith("resid") for site in self.sites):
                self.notes.append(
                    f"`{whole[0]}`{of} is every position: patching the whole stream there gives the donor's "
                    "prediction by construction."
                )
            if torch.equal(pair.base, pair.donor):
                self.notes.append(f"both prompts{of} are the same, so no patch can change anything.")

    # -- running -------------------------------------------------------------------------------

    def _sweep(self, number: int) -> Sweep:
        sweep = self._sweeps[number]
        if sweep is None:
            pair = self.pairs[number]
            stored, logits = _stored(self.model, pair.donor, self.sites, self.layers)
            end = float(pair.metric(logits))
            points = [
                Point(
                    self.layers[where[1]],
                    self.sites[where[0]],
                    pair.spans[where[2]],
                    None if head is None else (self.heads[head],),
                )
                for where, head in self._places()
            ]

            def change(layer: int, site: str, where: Any, current: torch.Tensor) -> torch.Tensor:
                return stored[layer, site][where].to(current.device)

            sweep = self._sweeps[number] = Sweep(
                self.model,
                pair.base,
                points,
                change,
                lambda logits: pair.metric(logits[:, 0]),
                batch=self.batch,
            )
            self._ends.append(end)
        return sweep

    def _places(self) -> Iterator[tuple[tuple[int, int, int], int | None]]:
        """Every run: site, layer and position in the result, and the head if it is one head's."""
        for site, name in enumerate(self.sites):
            for layer in range(len(self.layers)):
                for position in range(len(self.labels)):
                    if name == "z" and self.heads:
                        for head in range(len(self.heads)):
                            yield (site, layer, position), head
                    else:
                        yield (site, layer, position), None


def _stored(
    model: LanguageModel, ids: torch.Tensor, sites: Sequence[str], layers: Sequence[int]
) -> tuple[dict[tuple[int, str], torch.Tensor], torch.Tensor]:
    """What the sites hold in a run of their own, each (position, ...), and its last logits (1, d_vocab)."""
    blocks, stored = last_blocks(model), {}
    with model.trace(ids, grad=False):
        for layer in sorted(layers):
            for site in SITES:
                if site not in sites:
                    continue
                if site == "resid_pre":
                    value = blocks[layer].input
                elif site == "resid_post":
                    value = blocks[layer].output[0]
                elif site == "z":
                    value = model.std.layers[layer].attn.z
                else:
                    value = getattr(model.std.layers[layer], site)
                stored[layer, site] = value[0].clone()
        logits = model.output.logits[:, -1].clone()
    return stored, logits


# -- what was asked for ------------------------------------------------------------------------------


def _prompts(model: LanguageModel, clean: Any, corrupted: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    many = [
        isinstance(prompts, (list, tuple)) and all(isinstance(p, str) for p in prompts)
        for prompts in (clean, corrupted)
    ]
    if many[0] != many[1]:
        raise InputError("give one clean and one corrupted prompt, or a list of each.")
    pairs = list(zip(clean, corrupted, strict=False)) if many[0] else [(clean, corrupted)]
    if many[0] and (len(clean) != len(corrupted) or not clean):
        raise InputError(
            f"there are {len(clean)} clean prompts and {len(corrupted)} corrupted ones; give pairs."
        )
    found = []
    for one, other in pairs:
        ids = model.to_tokens(one), model.to_tokens(other)
        if any(len(part) != 1 for part in ids):
            raise InputError(
                "each clean and each corrupted prompt is one prompt; for several give lists of text."
            )
        found.append(ids)
    return found


def _answers_for(answers: Any, count: int) -> list[Answers] | None:
    if answers is None:
        return None
    if len(answers) == 2 and all(isinstance(answer, (str, int)) for answer in answers):
        return [tuple(answers)] * count
    if len(answers) != count or any(isinstance(pair, str) or len(pair) != 2 for pair in answers):
        raise InputError(
            'answers are the right one and the other one, `(" Paris", " Rome")`, or such a pair for each of '
            f"the {count} pairs of prompts; these are {answers!r}."
        )
    return [tuple(pair) for pair in answers]


def _checked_sites(sites: Sequence[str]) -> tuple[str, ...]:
    sites = (sites,) if isinstance(sites, str) else tuple(dict.fromkeys(sites))
    unknown = [site for site in sites if site not in SITES]
    if unknown or not sites:
        raise InputError(
            f"there is no site {unknown[0] if unknown else sites!r}; there are {', '.join(SITES)}."
        )
    return sites


def _checked_layers(layers: Sequence[int] | None, count: int) -> tuple[int, ...]:
    chosen = range(count) if layers is None else layers
    for layer in chosen:
        if not -count <= layer < count:
            raise InputError(f"the model has {count} layers, 0 to {count - 1}; there is no {layer}.")
    return tuple(dict.fromkeys(int(layer) % count for layer in chosen))


def _checked_heads(model: LanguageModel, heads: bool | Sequence[int]) -> tuple[int, ...]:
    if heads is False:
        return ()
    count = int(model.std.n_heads)
    chosen = range(count) if heads is True else heads
    for head in chosen:
        if not 0 <= head < count:
            raise InputError(f"the model has {count} heads, 0 to {count - 1}; there is no {head}.")
    return tuple(dict.fromkeys(int(head) for head in chosen))


def _spans(positions: Any, number: int, count: int) -> tuple[list[str] | None, list[tuple[int, ...]]]:
    """The names and the positions of what is patched as a whole, for one pair of prompts."""
    if positions is None:
        return None, [(position,) for position in range(count)]
    if not isinstance(positions, dict):
        return None, [_span([position], count) for position in positions]
    spans = []
    for span in positions.values():
        if isinstance(span, (list, tuple)) and span and isinstance(span[0], (list, tuple)):
            span = span[number]
        spans.append(_span([span] if isinstance(span, int) else span, count))
    return list(positions), spans


def _span(span: Any, count: int) -> tuple[int, ...]:
    span = range(count)[span] if isinstance(span, slice) else span
    for position in span:
        if not -count <= position < count:
            raise InputError(f"the prompt has {count} positions, 0 to {count - 1}; there is no {position}.")
    if not len(span):
        raise InputError("a span of positions is empty; give at least one position.")
    return tuple(int(position) % count for position in span)


def _words(model: LanguageModel, ids: torch.Tensor) -> list[str]:
    found = ids[0].tolist()
    return [f"<{one}>" for one in found] if model.tokenizer is None else str_tokens(model.tokenizer, found)
