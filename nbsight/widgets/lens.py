"""The logit lens, live: a grid of top tokens; a click asks the model for a cell's ranking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nbsight.analysis.lens import logit_lens
from nbsight.analysis.unembedding import last_blocks
from nbsight.errors import InputError
from nbsight.models.tokens import str_tokens
from nbsight.results.component_lens import ComponentLens
from nbsight.results.lens import Lens
from nbsight.widgets.base import Widget, read_module
from nbsight.widgets.desk import Answer, Command
from nbsight.widgets.inspecting import Inspecting
from nbsight.widgets.inspection import Inspection, largest_at
from nbsight.widgets.lens_payload import full_code, lens_payload, template_of
from nbsight.widgets.lens_readings import Detail, Key, Readings
from nbsight.widgets.payload import Payload
from nbsight.widgets.worker import Job, worker_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LensWidget"]

LARGEST_TOP_K = 100
STILL_POSITIONS = 24  # what one picture has room for
NO_MODEL = "This lens has no model to ask; it was made or loaded without one."


class LensWidget(Widget):
    """A lens to look at, in which cells can be opened, tokens followed and set against each other.

    Args:
        lens: What `logit_lens` or `component_lens` returned, or several of one prompt by name.
        detail: How to get a cell's longer ranking, `detail(layer, position, top_k)`; by default
            the lens's own. Called on a worker thread, one call at a time per model.

    Attributes:
        result: The lens on show; assign another to show that.
        selection: `(layer, position)` of the opened cell, or None. Assigning opens a cell.
        state: `statistic` (top, entropy, kl, probability, rank, logit_difference, probability_difference);
            `pins`, the tokens that are followed; `contrast`, the two tokens whose difference is shown;
            `component` (stream, attn_out, mlp_out, …, head_3); `lens`, which of several; and `stride`: every
            how many layers a row is shown, the last one always.
    """

    view = "lens"
    defaults: ClassVar[Mapping[str, Any]] = {
        "statistic": "top",
        "pins": [],
        "contrast": [],
        "component": "",
        "lens": "",
        "stride": 1,
    }

    def __init__(
        self,
        lens: Lens | ComponentLens | Mapping[str, Lens | ComponentLens],
        detail: Detail | None = None,
        **kwargs: Any,
    ) -> None:
        state = dict(kwargs.pop("state", None) or {})
        self._take(Readings(lens, detail))
        self._inspecting = Inspecting(self._inspection_of, read_module)
        model = self._readings.model(self._key[0])
        state = {**self._first_state(), **state}
        super().__init__(self._payload(), worker_for(model or self), owner=model, state=state, **kwargs)

    def _take(self, readings: Readings, key: Key | None = None) -> None:
        """Show one of these from now on, with what it was made with."""
        self._readings, self._key = readings, key or readings.first
        lens = readings.get(self._key)
        self._followed = readings.followed(self._key)
        self._more: Lens | None = lens if self._followed else None

    def _first_state(self) -> dict[str, Any]:
        lens, (name, component) = self.result, self._key
        pins = [{"id": token, "token": lens.tracked[at]} for at, token in self._followed]
        return {**self.defaults, "pins": pins, "lens": name, "component": component}

    @property
    def result(self) -> Lens:
        return self._readings.get(self._key)

    @result.setter
    def result(self, lens: Lens | ComponentLens | Mapping[str, Lens | ComponentLens]) -> None:
        self._take(Readings(lens))
        with self.hold_sync():
            self.selection = None
            self.state = {**self._first_state(), "stride": self.state["stride"]}
            self.show(self._payload())

    def _payload(self) -> Payload:
        readings, key = self._readings, self._key
        others = len(readings.names) > 1 or len(readings.components(key[0])) > 1
        live = others or readings.detail(key) is not None
        return lens_payload(readings, key, live=live, more=self._more, followed=self._followed)

    def chosen(self, selection: Any) -> tuple[int, int]:
        return self.result.locate(*selection)

    def commands(self) -> dict[str, Command]:
        return {
            "cell": self._cell,
            "more": self._ask_more,
            "prompts": self._prompts,
            "token": self._token,
            **self._inspecting.commands(),
        }

    # --- what the page asks -----------------------------------------------------------------------

    def _cell(self, params: dict[str, Any], job: Job) -> Answer:
        """The ranking of one cell, asked of the model."""
        layer, position = self.result.locate(int(params["layer"]), int(params["position"]))
        top_k = max(1, min(int(params["top_k"]), LARGEST_TOP_K))
        detail = self._readings.detail(self._key)
        if detail is None:
            raise LookupError(NO_MODEL)
        cell = detail(layer, position, top_k)
        result = {"tokens": list(cell.tokens), "ids": [int(index) for index in cell.ids]}
        return result, [np.asarray(cell.probs, dtype="<f4").tobytes()]

    def _ask_more(self, params: dict[str, Any], job: Job) -> Answer:
        """Another lens or component, statistics and courses of tokens; they come with the header."""
        key = str(params.get("lens", self._key[0])), str(params.get("component") or self._key[1])
        readings = self._readings
        lens = readings.get(key)
        track = tuple(dict.fromkeys(int(token) for token in params["track"]))
        known = self._more if key == self._key else None
        more, followed = known, self._followed
        if known is None:
            followed = readings.followed(key)
            more = lens if followed else None
        needs = not set(track) <= {token for _, token in followed}
        statistics = bool(params["statistics"]) or (known is not None and known.entropy is not None)
        if needs or (statistics and all(one is None or one.entropy is None for one in (more, lens))):
            ask = getattr(readings.detail(key), "more", None)
            if ask is None:
                raise LookupError(NO_MODEL)
            more, followed = ask(track, statistics), list(enumerate(track))
        if not job.cancelled:
            self._key, self._more, self._followed = key, more, followed
            with self.hold_sync():
                if self.selection is not None and self.selection[0] >= len(lens.layers):
                    self.selection = None
                self.show(self._payload())
        return {}, []

    def _prompts(self, params: dict[str, Any], job: Job) -> Answer:
        """Read another prompt; the tokens that are followed stay."""
        model = None if self._readings.is_many else self._readings.model(self._key[0])
        if model is None:
            raise LookupError(NO_MODEL)
        lens = logit_lens(model, str(params["prompt"]), top_k=self.result.top_k)
        if not job.cancelled:
            self._take(Readings(lens))
            with self.hold_sync():
                self.selection = None
                self.show(self._payload())
        return {}, []

    def _token(self, params: dict[str, Any], job: Job) -> Answer:
        """The token that a text is, or else the one that it is with a space before it."""
        model = self._readings.model(self._key[0])
        if model is None:
            raise LookupError(NO_MODEL)
        text = str(params["text"])
        try:
            token = model.to_single_token(text)
        except InputError:
            if text.startswith(" "):
                raise
            try:
                token = model.to_single_token(f" {text}")
            except InputError:
                token = model.to_single_token(text)  # raises: what is said is of the text as it was typed
        return {"id": int(token), "token": str_tokens(model.tokenizer, [token])[0]}, []

    def _inspection_of(self, params: Mapping[str, Any]) -> tuple[Inspection, tuple[int, ...] | None]:
        """The stream that a cell reads, and what else the model's modules give for the prompt."""
        layer, position = self.result.locate(int(params["layer"]), int(params["position"]))
        detail = self._readings.detail(self._key)
        model = getattr(detail, "model", None)
        if model is None:
            raise LookupError(NO_MODEL)
        block = last_blocks(model)[int(self.result.layers[layer])]
        inspection = Inspection(model, getattr(detail, "ids", self.result.prompt), path=block._path)
        return inspection, largest_at(inspection.shown, position)

    # --- copies -----------------------------------------------------------------------------------

    def to_code(self) -> str:
        key = self.state["lens"], self.state["component"]
        return full_code(template_of(self._readings, key), self.state, self.selection)

    def table(self) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        lens = self.result
        columns = ("layer", "position", "token", "rank", "id", "prediction", "probability")
        return columns, (
            (
                label,
                position,
                token,
                rank,
                int(lens.top_ids[row, position, rank]),
                str(lens.top_tokens[row, position, rank]),
                float(lens.top_probs[row, position, rank]),
            )
            for row, label in reversed(list(enumerate(lens.layers)))
            for position, token in enumerate(lens.tokens)
            for rank in range(lens.top_k)
        )

    def figure(self) -> Figure:
        last = len(self.result.layers) - 1
        rows = sorted({*range(0, last, max(1, int(self.state["stride"]))), last})
        return self.result.to_figure(positions=slice(STILL_POSITIONS), layers=rows)

    def still_text(self) -> str:
        return repr(self.result)
