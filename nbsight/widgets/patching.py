"""Activation patching, live: drag or click a place from one prompt to the other and see the answer move."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import traitlets

from nbsight.analysis.pairs import answers_for, is_list_of_text, prompts_of
from nbsight.analysis.patch_runs import Patch, PatchRuns
from nbsight.analysis.patching import DIRECTIONS, PatchingSweep
from nbsight.core.jobs import Job as WorkJob
from nbsight.errors import InputError
from nbsight.models.language_model import LanguageModel
from nbsight.results.patching import Patching
from nbsight.widgets.base import Widget
from nbsight.widgets.code import fill
from nbsight.widgets.desk import Answer, Command, Steps
from nbsight.widgets.patching_about import about_live, about_saved, badges_of, ends_of
from nbsight.widgets.patching_code import METRICS, compare_code, run_code
from nbsight.widgets.patching_payload import patching_payload
from nbsight.widgets.patching_places import (
    BY_HEAD,
    engine_sites,
    key_of,
    patch_of,
    places_code,
    plain_of,
    tables_of,
    values_of,
)
from nbsight.widgets.payload import Payload
from nbsight.widgets.places import place_in
from nbsight.widgets.tops import number, tops_of
from nbsight.widgets.worker import Job, worker_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PatchingWidget"]


@dataclass
class Pair:
    """Two prompts, what is known of them, and sweeps that are under way."""

    runs: PatchRuns | None
    tables: dict[str, Patching]
    sweeps: dict[str, PatchingSweep]


class PatchingWidget(Widget):
    """Two prompts, a heatmap of what each place carries, and single patches by mouse and keys.

        PatchingWidget(model, clean, corrupted, answers=(" Paris", " Rome"))
        PatchingWidget(result)               # a `Patching`, which the view can go on from

    Args:
        source: A language model, or a result of `activation_patching`.
        clean: The prompt that is answered rightly, or a list of prompts.
        corrupted: The other, or a list.
        answers: The right answer and the other one, each one token; or such a pair for each pair of prompts.
        metric: As for `activation_patching`.

    Attributes:
        result: The `Patching` on show; its values are NaN where nothing was run yet.
        patched: The single patched run on show, a dictionary; None before the first.
        selection: `(layer, position)` of the chosen cell, or None.
        state: `site`, `direction`, `metric` and `pair` on show (`z_by_head` has a head in each column, at one
            `position` or, None, at all); the `patches` of the single run, a list of `{"layer", "site",
            "source", "target"}` and perhaps `"head"`; and `frozen`, the `patches` and `direction` of another
            run to compare it with.
    """

    view = "patching"
    defaults: ClassVar[dict[str, Any]] = {
        "site": "resid_post",
        "direction": "denoise",
        "metric": "logit_difference",
        "position": None,
        "patches": [],
        "frozen": None,
        "cone": True,
        "pair": 0,
    }

    def __init__(
        self,
        source: LanguageModel | Patching,
        clean: Any = None,
        corrupted: Any = None,
        *,
        answers: Any = None,
        metric: Any = None,
        **kwargs: Any,
    ) -> None:
        self.patched: dict[str, Any] | None = None
        state = dict(kwargs.pop("state", None) or {})
        if isinstance(source, Patching):
            named = _metric_in(source)
            every = source.runs or (None,) * len(source.clean)
            self._pairs = [Pair(runs, tables_of(source, at, named), {}) for at, runs in enumerate(every)]
            site, _, position = next(iter(self._pairs[0].tables)).split("|")[0].partition("@")
            at = int(position) if position.isdecimal() else None
            state = {"site": site, "position": at, "direction": source.direction, "metric": named, **state}
        else:
            self._pairs = [Pair(runs, {}, {}) for runs in _runs_of(source, clean, corrupted, answers, metric)]
            if metric is not None and metric not in METRICS:
                state.setdefault("metric", "custom")
            elif metric is not None or answers is None:
                state.setdefault("metric", metric or "kl")
        number = int(state.get("pair", 0))
        if not 0 <= number < len(self._pairs):
            raise InputError(f"there are {len(self._pairs)} pairs of prompts; there is no pair {number}.")
        shown = self._pairs[number]
        self._model = None if shown.runs is None else shown.runs.model
        payload = self._payload(shown, number)
        super().__init__(payload, worker_for(self._model or self), owner=self._model, state=state, **kwargs)

    @property
    def result(self) -> Patching | None:
        """The result on show, as far as it is known; None before the first sweep."""
        return self._pair.tables.get(self._key())

    def commands(self) -> dict[str, Command]:
        return {
            "patch": self._patch,
            "sweep": self._sweep,
            "prompts": self._prompts,
            "pair": self._choose_pair,
        }

    def chosen(self, selection: Any) -> tuple[int, int]:
        return place_in(selection, self._shape(), begin="this view has")

    @traitlets.validate("state")
    def _check_state(self, proposal: Any) -> dict[str, Any]:
        state = super()._check_state(proposal)
        if not 0 <= state["pair"] < len(self._pairs):
            raise traitlets.TraitError(
                f"there are {len(self._pairs)} pairs of prompts, counted from 0; there is no {state['pair']}."
            )
        return state

    @traitlets.observe("state")
    def _follow_pair(self, change: Any) -> None:
        if self.header.get("pair", 0) != self.state["pair"]:
            self._show_pair(self.state["pair"])

    # --- what the page asks ---------------------------------------------------------------------

    def _patch(self, params: dict[str, Any], job: Job) -> Answer:
        """One run with all patches of the stack; where another stack is frozen, that one too."""
        runs, metric = self._live(), str(params["metric"])
        patches, direction = [patch_of(one) for one in params["patches"]], _direction(params["direction"])
        frozen = params.get("frozen")
        logits, said = _measured(runs, patches, direction, metric)
        probs = {"clean": runs.plain("clean"), "corrupted": runs.plain("corrupted"), "patched": logits}
        if frozen:
            other = [patch_of(one) for one in frozen["patches"]], _direction(frozen["direction"])
            probs["frozen"], said["frozen"] = _measured(runs, *other, metric)
            said["code"] = compare_code(said["frozen"].pop("code"), said["code"])
        self.patched = {**said, **tops_of(runs.model, probs)}
        return self.patched, []

    def _sweep(self, params: dict[str, Any], job: Job) -> Steps:
        """Run what is left of one sweep; what is known is told after every batch."""
        runs, pair = self._live(), self._pair
        site, direction, metric = (str(params[name]) for name in ("site", "direction", "metric"))
        position = params.get("position") if site == BY_HEAD else None
        key = key_of(site, direction, metric, position)
        sweep = pair.sweeps.get(key)
        if sweep is None:
            sweep = pair.sweeps[key] = PatchingSweep(
                runs.model,
                runs.clean,
                runs.corrupted,
                answers=runs.answers,
                metric=runs.metric if metric == "custom" else metric,
                direction=direction,
                batch=self._batch(site),
                **engine_sites(site, position),
            )
        # Listed beside those of cells. The page takes a sweep back by closing this generator, which the job
        # hears as an end before its end; somebody else's stop is looked for after each batch.
        listed = WorkJob(
            f"patching {site.replace('_', ' ') if site == BY_HEAD else site}",
            total=len(sweep),
            model=str(runs.model._name),
        )
        listed.start(sweep.done)
        with listed:
            for partial in sweep:
                pair.tables[key] = partial
                listed.keep(partial)
                listed.advance(to=sweep.done)
                if listed.is_cancelled:
                    listed.stopped()
                    break
                yield _part(key, sweep, partial)
        pair.tables[key] = result = sweep.result()
        listed.keep(result)
        if sweep.is_complete:
            pair.sweeps.pop(key)
        if pair is self._pair:
            self.show(self._payload(pair))
        return _part(key, sweep, result)

    def _batch(self, site: str) -> int:
        """Runs in one step: a dozen steps, each at least one layer's."""
        rows = len(self.header["layers"])
        columns = self.header["heads"] if site == BY_HEAD else len(self.header["clean"]["tokens"])
        return max(columns, -(-rows * columns // 12))

    def _prompts(self, params: dict[str, Any], job: Job) -> Answer:
        """Take other prompts, if they can be run; what was known of the old ones goes."""
        old = self._live()
        runs = PatchRuns(
            old.model, str(params["clean"]), str(params["corrupted"]), answers=old.answers, metric=old.metric
        )
        pair = Pair(runs, {}, {})
        payload = self._payload(pair)
        if not job.cancelled:
            self._pairs[self.state["pair"]] = pair
            self._put(payload, self.state["pair"])
        return {}, []

    def _choose_pair(self, params: dict[str, Any], job: Job) -> Answer:
        """Show another pair of prompts."""
        number = int(params["pair"])
        payload = self._payload(self._pairs[number], number)
        if not job.cancelled:
            self._put(payload, number)
        return {}, []

    def _show_pair(self, number: int) -> None:
        self._put(self._payload(self._pairs[number], number), number)

    def _put(self, payload: Payload, number: int) -> None:
        """Show another pair, with no patch and nothing chosen."""
        self.patched = None
        with self.hold_sync():
            self.selection = None
            self.show(payload)
            self.state = {"patches": [], "frozen": None, "position": None, "pair": number}

    # --- for the header -------------------------------------------------------------------------

    @property
    def _pair(self) -> Pair:
        return self._pairs[self.state["pair"]]

    def _payload(self, pair: Pair, number: int | None = None) -> Payload:
        about = about_saved(pair.tables) if pair.runs is None else about_live(pair.runs)
        shown = self.state["pair"] if number is None else number
        texts = [
            one.runs.clean if one.runs is not None else next(iter(one.tables.values())).clean_prompts[0]
            for one in (pair if at == shown else one for at, one in enumerate(self._pairs))
        ]
        named = [text if isinstance(text, str) else f"pair {at + 1}" for at, text in enumerate(texts)]
        return patching_payload({**about, "pairs": named, "pair": shown}, pair.tables)

    def _live(self) -> PatchRuns:
        if self._pair.runs is None:
            raise LookupError(
                "this result was loaded or saved without its model, so nothing can be run. Write "
                "`PatchingWidget(model, clean, corrupted, answers=…)`."
            )
        return self._pair.runs

    # --- copies ---------------------------------------------------------------------------------

    def kept(self) -> dict[str, Any]:
        return {"shown": self.patched}

    def to_code(self) -> str:
        """The cell of the single run on show, or of the sweep."""
        if self.patched is not None and (self.state["patches"] or self.state["frozen"]):
            return str(self.patched["code"])
        metric = self.header["code_metric"].get(self.state["metric"], "None")
        places = places_code(self.state["site"], self.state["position"])
        values = {**places, "direction": self.state["direction"], "metric": metric}
        return f"{self.header['code']}\n{fill(self.header['code_at'], values)}"

    def figure(self) -> Figure:
        from nbsight.display.heatmaps import heatmaps

        result = self.result
        if result is not None:
            return result.plot(sites=list(result.sites))
        rows, columns = self._shape()
        tokens = self.header["corrupted"]["tokens"]
        empty = np.full((rows, columns), np.nan)
        labels = [str(layer) for layer in self.header["layers"]]
        title = f"Activation patching · {self.header['model']} · not run yet"
        return heatmaps(
            [(self.state["site"], empty, labels, tokens)], title=title, value_title="share recovered"
        )

    def still_text(self) -> str:
        result = self.result
        if result is not None:
            return repr(result)
        about = self.header
        return (
            f"Patching view of {about['model']}, no sweep run yet\n  clean     {about['clean']['prompt']!r}\n"
            f"  corrupted {about['corrupted']['prompt']!r}"
        )

    def table(self) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        result = self.result
        heads = self.state["site"] == BY_HEAD
        columns = ("site", "layer", "head" if heads else "position", "token", "value", "share")
        if result is None:
            return columns, []
        values = values_of(result)
        shares = (
            result.head_recovered[0, :, 0] if result.head_recovered is not None else result.recovered[0, 0]
        )
        places = [(head, "") for head in result.heads] if heads else list(enumerate(result.positions))
        return columns, (
            (self.state["site"], layer, place, token, float(values[row, column]), float(shares[row, column]))
            for row, layer in enumerate(result.layers)
            for column, (place, token) in enumerate(places)
        )

    def _key(self) -> str:
        state = self.state
        return key_of(state["site"], state["direction"], state["metric"], state["position"])

    def _shape(self) -> tuple[int, int]:
        rows = len(self.header["layers"])
        if self.state["site"] == BY_HEAD:
            return rows, int(self.header["heads"])
        return rows, len(self.header[ends_of(self.state["direction"])[0]]["tokens"])


def _runs_of(source: LanguageModel, clean: Any, corrupted: Any, answers: Any, metric: Any) -> list[PatchRuns]:
    """What can run each pair of prompts."""
    if not is_list_of_text(clean):
        return [PatchRuns(source, clean, corrupted, answers=answers, metric=metric)]
    prompts_of(source, clean, corrupted)  # says what is wrong with lists that are no pairs
    own = answers_for(answers, len(clean))
    return [
        PatchRuns(source, *pair, answers=None if own is None else own[number], metric=metric)
        for number, pair in enumerate(zip(clean, corrupted, strict=True))
    ]


def _metric_in(result: Patching) -> str:
    """What the view calls a result's metric."""
    if result.runs and result.runs[0].metric is not None:
        own = result.runs[0].metric
        return own if isinstance(own, str) else "custom"
    named = {"logit": "logit_difference", "probability": "probability", "KL": "kl"}
    return named.get(result.metric.split()[0] if result.metric else "", "custom")


def _measured(
    runs: PatchRuns, patches: Sequence[Patch], direction: str, metric: str
) -> tuple[torch.Tensor, dict[str, Any]]:
    """One patched run: its last logits, and what the page is told of it."""
    logits = runs.run(patches, direction)
    measure = runs.metric_named(None if metric == "custom" else metric)
    start, end = (float(measure(runs.plain(which))[0]) for which in ends_of(direction))
    value = float(measure(logits)[0])
    return logits, {
        "patches": [plain_of(patch) for patch in patches],
        "direction": direction,
        "metric": metric,
        "value": number(value),
        "base": number(start),
        "donor": number(end),
        "share": number((value - start) / (end - start)) if abs(end - start) > 1e-12 else None,
        "badges": badges_of(runs, patches, direction, logits, value - start, end - start),
        "code": run_code(runs, patches, direction, metric),
    }


def _direction(name: Any) -> str:
    if name not in DIRECTIONS:
        raise LookupError(f"there is no direction {name!r}; there are {', '.join(DIRECTIONS)}.")
    return str(name)


def _part(key: str, sweep: PatchingSweep, result: Patching) -> Answer:
    """What the page is told of a sweep."""
    start, end = (result.corrupted[0], result.clean[0])
    if result.direction == "noise":
        start, end = end, start
    said = {"base": number(float(start)), "donor": number(float(end))}
    values = np.ascontiguousarray(values_of(result), "<f4").tobytes()
    return {"key": key, "done": sweep.done, "runs": len(sweep), **said}, [values]
