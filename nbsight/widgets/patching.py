"""Activation patching, live: drag or click a place from one prompt to the other and see the answer move."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from nbsight.analysis.patch_runs import Patch, PatchRuns
from nbsight.analysis.patching import DIRECTIONS, PatchingSweep
from nbsight.core.jobs import Job as WorkJob
from nbsight.models.language_model import LanguageModel
from nbsight.models.provenance import provenance
from nbsight.models.tokens import str_tokens
from nbsight.results.patching import Patching
from nbsight.widgets.base import Widget
from nbsight.widgets.code import fill
from nbsight.widgets.desk import Answer, Command, Steps
from nbsight.widgets.patching_code import METRICS, metric_code, prompts_code, run_code, sites_of, sweep_code
from nbsight.widgets.patching_payload import key_of, patching_payload
from nbsight.widgets.payload import texts_of
from nbsight.widgets.places import place_in
from nbsight.widgets.tops import number, tops_of
from nbsight.widgets.worker import Job, worker_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PatchingWidget"]

NO_EFFECT = 1e-6  # of the distance between the two runs


class PatchingWidget(Widget):
    """Two prompts, a heatmap of what each place carries, and single patches by mouse and keys.

        PatchingWidget(model, clean, corrupted, answers=(" Paris", " Rome"))
        PatchingWidget(result)               # a `Patching`, which the view can go on from

    Args:
        source: A language model, or a result of `activation_patching`.
        clean: The prompt that is answered rightly.
        corrupted: The other.
        answers: The right answer and the other one, each one token.
        metric: As for `activation_patching`.

    Attributes:
        result: The `Patching` on show; its values are NaN where nothing was run yet.
        patched: The single patched run on show, a dictionary; None before the first.
        selection: `(layer, position)` of the chosen cell, or None.
        state: `site`, `direction` and `metric` on show, and the `patches` of the single run: a list of
            `{"layer", "site", "source", "target"}`.
    """

    view = "patching"
    defaults: ClassVar[dict[str, Any]] = {
        "site": "resid_post",
        "direction": "denoise",
        "metric": "logit_difference",
        "patches": [],
        "cone": True,
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
        self._tables: dict[str, Patching] = {}
        self._sweeps: dict[str, PatchingSweep] = {}
        self.patched: dict[str, Any] | None = None
        state = dict(kwargs.pop("state", None) or {})
        if isinstance(source, Patching):
            self._runs: PatchRuns | None = source.runs
            first = self._keep(source)
            state = {**first, **state}
        else:
            self._runs = PatchRuns(source, clean, corrupted, answers=answers, metric=metric)
            if metric is not None and metric not in METRICS:
                state.setdefault("metric", "custom")
            elif metric is not None or answers is None:
                state.setdefault("metric", metric or "kl")
        self._model = None if self._runs is None else self._runs.model
        payload = patching_payload(self._about(), self._tables)
        super().__init__(payload, worker_for(self._model or self), owner=self._model, state=state, **kwargs)

    @property
    def result(self) -> Patching | None:
        """The result on show, as far as it is known; None before the first sweep."""
        return self._tables.get(self._key())

    def commands(self) -> dict[str, Command]:
        return {"patch": self._patch, "sweep": self._sweep, "prompts": self._prompts}

    def chosen(self, selection: Any) -> tuple[int, int]:
        return place_in(selection, self._shape(), begin="this view has")

    # --- what the page asks ---------------------------------------------------------------------

    def _patch(self, params: dict[str, Any], job: Job) -> Answer:
        """One run with all patches of the stack."""
        runs = self._live()
        patches = [_patch_of(one) for one in params["patches"]]
        direction, metric = _direction(params["direction"]), str(params["metric"])
        logits = runs.run(patches, direction)
        measure = runs.metric_named(None if metric == "custom" else metric)
        start, end = (float(measure(runs.plain(which))[0]) for which in _ends(direction))
        value = float(measure(logits)[0])
        probs = {"clean": runs.plain("clean"), "corrupted": runs.plain("corrupted"), "patched": logits}
        self.patched = {
            "patches": [_plain(patch) for patch in patches],
            "direction": direction,
            "metric": metric,
            "value": number(value),
            "base": number(start),
            "donor": number(end),
            "share": number((value - start) / (end - start)) if abs(end - start) > 1e-12 else None,
            "badges": self._badges(patches, direction, logits, value, start, end),
            "code": run_code(runs, patches, direction, metric),
            **tops_of(runs.model, probs),
        }
        return self.patched, []

    def _sweep(self, params: dict[str, Any], job: Job) -> Steps:
        """Run what is left of one sweep; what is known is told after every batch."""
        runs = self._live()
        site, direction, metric = (str(params[name]) for name in ("site", "direction", "metric"))
        key = key_of(site, direction, metric)
        sweep = self._sweeps.get(key)
        if sweep is None:
            sweep = self._sweeps[key] = PatchingSweep(
                runs.model,
                runs.clean,
                runs.corrupted,
                answers=runs.answers,
                metric=runs.metric if metric == "custom" else metric,
                sites=(site,),
                heads=False,
                direction=direction,
                batch=self._batch(),
            )
        # Listed beside those of cells. The page takes a sweep back by closing this generator, which the job
        # hears as an end before its end; somebody else's stop is looked for after each batch.
        listed = WorkJob(f"patching {site}", total=len(sweep), model=str(runs.model._name))
        listed.start(sweep.done)
        with listed:
            for partial in sweep:
                self._tables[key] = partial
                listed.keep(partial)
                listed.advance(to=sweep.done)
                if listed.is_cancelled:
                    listed.stopped()
                    break
                yield (
                    {"key": key, "done": sweep.done, "runs": len(sweep), **_scale(partial)},
                    [_bytes(partial)],
                )
        self._tables[key] = result = sweep.result()
        listed.keep(result)
        if sweep.is_complete:
            self._sweeps.pop(key)
        self.show(patching_payload(self._about(), self._tables))
        return _part(key, sweep, result)

    def _batch(self) -> int:
        """Runs in one step: a dozen steps, each at least one layer's."""
        rows, columns = self._shape()
        return max(columns, -(-rows * columns // 12))

    def _prompts(self, params: dict[str, Any], job: Job) -> Answer:
        """Take other prompts, if they can be run; what was known of the old ones goes."""
        old = self._live()
        runs = PatchRuns(
            old.model, str(params["clean"]), str(params["corrupted"]), answers=old.answers, metric=old.metric
        )
        before, self._runs = self._runs, runs
        try:
            about = self._about()
        except Exception:
            self._runs = before
            raise
        if job.cancelled:
            self._runs = before
            return {}, []
        self._tables, self._sweeps, self.patched = {}, {}, None
        with self.hold_sync():
            self.selection = None
            self.state = {"patches": []}
            self.show(patching_payload(about, {}))
        return {}, []

    # --- for the header -------------------------------------------------------------------------

    def _about(self) -> dict[str, Any]:
        runs = self._runs
        if runs is None:
            return self._about_saved()
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
        texts = [text if isinstance(text, str) else "".join(words[w]) for w, text in _given(runs)]
        return {
            "model": str(runs.model._name),
            "clean": {"prompt": texts[0], "tokens": words["clean"]},
            "corrupted": {"prompt": texts[1], "tokens": words["corrupted"]},
            "layers": list(range(runs.n_layers)),
            "sites": list(sites_of(runs.model)),
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

    def _about_saved(self) -> dict[str, Any]:
        """What can be said of a result whose model is out of reach."""
        key, result = next(iter(self._tables.items()))
        metric = key.split("|")[2]
        named = list(result.positions)
        return {
            "model": str(result.provenance.get("model", "")),
            "clean": {"prompt": result.clean_prompts[0], "tokens": named},
            "corrupted": {"prompt": result.corrupted_prompts[0], "tokens": named},
            "layers": [int(layer) for layer in result.layers],
            "sites": sorted({each.split("|")[0] for each in self._tables}),
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

    def _keep(self, result: Patching) -> dict[str, Any]:
        """Take what a result knows, site by site; the state that shows it."""
        named = {"logit": "logit_difference", "probability": "probability", "KL": "kl"}
        metric = named.get(result.metric.split()[0] if result.metric else "", "custom")
        if result.runs is not None and isinstance(result.runs.metric, str):
            metric = result.runs.metric
        elif result.runs is not None and result.runs.metric is not None:
            metric = "custom"
        for site in result.sites:
            if site != "z" or result.head_values is None:
                self._tables[key_of(site, result.direction, metric)] = _of_site(result, site)
        site = next(iter(self._tables), "resid_post").split("|")[0]
        return {"site": site, "direction": result.direction, "metric": metric}

    def _live(self) -> PatchRuns:
        if self._runs is None:
            raise LookupError(
                "this result was loaded or saved without its model, so nothing can be run. Write "
                "`PatchingWidget(model, clean, corrupted, answers=…)`."
            )
        return self._runs

    def _badges(
        self,
        patches: Sequence[Patch],
        direction: str,
        logits: torch.Tensor,
        value: float,
        start: float,
        end: float,
    ) -> list[str]:
        """What a reader must know before believing this run."""
        runs = self._live()
        found = []
        base = runs.ids[_ends(direction)[0]]
        stream: dict[tuple[int, str], set[int]] = {}
        for patch in patches:
            if patch.site in ("resid_pre", "resid_post") and patch.source == patch.target:
                stream.setdefault((patch.layer, patch.site), set()).add(patch.target)
        whole = [place for place, targets in stream.items() if len(targets) == base.shape[1]]
        if whole:
            found.append("The whole stream is replaced: the result equals the donor's by construction.")
        if not torch.isfinite(logits).all():
            found.append("The logits hold NaN or infinite numbers.")
        elif patches and abs(value - start) <= NO_EFFECT * max(abs(end - start), 1e-6):
            found.append("Nothing changed: this place holds the same in both runs, or nothing reads it.")
        if any(patch.source != patch.target for patch in patches):
            found.append("Moved to another position: a position's encoding comes with it.")
        return found

    # --- copies ---------------------------------------------------------------------------------

    def kept(self) -> dict[str, Any]:
        return {"shown": self.patched}

    def to_code(self) -> str:
        """The cell of the single run on show, or of the sweep."""
        if self.patched is not None and self.state["patches"]:
            return str(self.patched["code"])
        metric = self.header["code_metric"].get(self.state["metric"], "None")
        values = {"site": self.state["site"], "direction": self.state["direction"], "metric": metric}
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
        columns = ("site", "layer", "position", "token", "value", "share")
        result = self.result
        if result is None:
            return columns, []
        shares = result.recovered[0]
        return columns, (
            (
                site,
                layer,
                position,
                token,
                float(result.values[0, s, row, position]),
                float(shares[s, row, position]),
            )
            for s, site in enumerate(result.sites)
            for row, layer in enumerate(result.layers)
            for position, token in enumerate(result.positions)
        )

    def _key(self) -> str:
        return key_of(self.state["site"], self.state["direction"], self.state["metric"])

    def _shape(self) -> tuple[int, int]:
        base = "corrupted" if self.state["direction"] == "denoise" else "clean"
        return len(self.header["layers"]), len(self.header[base]["tokens"])


def _patch_of(given: dict[str, Any]) -> Patch:
    return Patch(int(given["layer"]), str(given["site"]), int(given["source"]), int(given["target"]))


def _plain(patch: Patch) -> dict[str, Any]:
    return {"layer": patch.layer, "site": patch.site, "source": patch.source, "target": patch.target}


def _direction(name: Any) -> str:
    if name not in DIRECTIONS:
        raise LookupError(f"there is no direction {name!r}; there are {', '.join(DIRECTIONS)}.")
    return str(name)


def _ends(direction: str) -> tuple[str, str]:
    """The run that is patched and the donor."""
    return ("corrupted", "clean") if direction == "denoise" else ("clean", "corrupted")


def _given(runs: PatchRuns) -> tuple[tuple[str, Any], tuple[str, Any]]:
    return ("clean", runs.clean), ("corrupted", runs.corrupted)


def _part(key: str, sweep: PatchingSweep, result: Patching) -> Answer:
    """What the page is told of a sweep."""
    return {"key": key, "done": sweep.done, "runs": len(sweep), **_scale(result)}, [_bytes(result)]


def _scale(result: Patching) -> dict[str, Any]:
    start, end = result.corrupted[0], result.clean[0]
    if result.direction == "noise":
        start, end = end, start
    return {"base": number(float(start)), "donor": number(float(end))}


def _bytes(result: Patching) -> bytes:
    return np.ascontiguousarray(result.values[0, 0], "<f4").tobytes()


def _of_site(result: Patching, site: str) -> Patching:
    from dataclasses import replace

    where = list(result.sites).index(site)
    return replace(result, sites=(site,), values=result.values[:, [where]], head_values=None, heads=())
