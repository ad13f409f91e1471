"""The logit lens, live: a grid of top tokens; a click asks the model for a cell's ranking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import traitlets

from nbsight.display.figures import figure_png
from nbsight.results.lens import Lens, LensCell
from nbsight.widgets.base import Command, Widget
from nbsight.widgets.payload import Payload, encode
from nbsight.widgets.worker import Job, worker_for

__all__ = ["LensWidget", "lens_payload"]

LARGEST_TOP_K = 100
STILL_POSITIONS = 24  # what one picture has room for

Detail = Callable[[int, int, int], LensCell]


def lens_payload(lens: Lens, *, live: bool) -> Payload:
    """The lens as its view reads it: every token's text once, and numbers in one buffer."""
    vocabulary, words = np.unique(lens.top_tokens.astype(str), return_inverse=True)
    small = len(vocabulary) <= np.iinfo(np.uint16).max
    return encode(
        "lens",
        {
            "model": lens.model,
            "prompt": lens.prompt,
            "tokens": list(lens.tokens),
            "layers": [label if isinstance(label, str) else int(label) for label in lens.layers],
            "vocabulary": vocabulary.tolist(),
            "provenance": {name: str(value) for name, value in lens.provenance.items()},
            "code": lens_code(lens),
            "live": live,
        },
        {
            "probs": lens.top_probs,
            "ids": lens.top_ids.astype(np.int32),
            "words": words.reshape(lens.top_probs.shape).astype(np.uint16 if small else np.uint32),
        },
    )


def lens_code(lens: Lens) -> str:
    """A cell that makes the lens again, given the model under the name `model`."""
    return f"import nbsight\n\nlens = nbsight.logit_lens(model, {lens.prompt!r}, top_k={lens.top_k})"


class LensWidget(Widget):
    """A lens to look at, in which cells can be opened.

    Args:
        lens: What `logit_lens` returned.
        detail: How to get a cell's longer ranking, `detail(layer, position, top_k)`; by default
            the lens's own. Called on a worker thread, one call at a time per model.

    Attributes:
        result: The lens on show; assign another to show that.
        selection: `(layer, position)` of the opened cell, or None. Assigning opens a cell.
    """

    view = "lens"

    selection: Any = traitlets.Tuple(
        traitlets.Int(), traitlets.Int(), default_value=None, allow_none=True
    ).tag(
        sync=True,
        # JSON has lists only
        from_json=lambda value, widget: value if value is None else tuple(value),
    )

    def __init__(self, lens: Lens, detail: Detail | None = None, **kwargs: Any) -> None:
        self._lens = lens
        self._detail = detail or lens.detail
        owner = getattr(self._detail, "model", None) or self
        payload = lens_payload(lens, live=self._detail is not None)
        super().__init__(payload, worker_for(owner), **kwargs)

    @property
    def result(self) -> Lens:
        return self._lens

    @result.setter
    def result(self, lens: Lens) -> None:
        self._lens = lens
        self._detail = lens.detail
        payload = lens_payload(lens, live=self._detail is not None)
        with self.hold_sync():
            self.selection = None
            self.data = payload.data
            self.header = payload.header

    @traitlets.validate("selection")
    def _inside(self, proposal: Any) -> tuple[int, int] | None:
        if proposal["value"] is None:
            return None
        try:
            return self._lens.locate(*proposal["value"])
        except IndexError as error:
            raise traitlets.TraitError(str(error)) from None

    def commands(self) -> dict[str, Command]:
        return {"cell": self._cell}

    def _cell(self, params: dict[str, Any], job: Job) -> tuple[dict[str, Any], list[bytes]]:
        """The ranking of one cell, asked of the model."""
        layer, position = self._lens.locate(int(params["layer"]), int(params["position"]))
        top_k = max(1, min(int(params["top_k"]), LARGEST_TOP_K))
        if self._detail is None:
            raise LookupError("This lens has no model to ask; it was made or loaded without one.")
        cell = self._detail(layer, position, top_k)
        result = {"tokens": list(cell.tokens), "ids": [int(index) for index in cell.ids]}
        return result, [np.asarray(cell.probs, dtype="<f4").tobytes()]

    def still_png(self) -> bytes:
        return figure_png(self._lens.to_figure(positions=slice(STILL_POSITIONS)))

    def still_text(self) -> str:
        return repr(self._lens)
