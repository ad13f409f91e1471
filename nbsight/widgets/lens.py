"""The logit lens, live: a grid of top tokens; a click asks the model for a cell's ranking."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nbsight.analysis.lens import logit_lens
from nbsight.results.lens import Lens, LensCell
from nbsight.widgets.base import Widget
from nbsight.widgets.code import fill, literal, name_of
from nbsight.widgets.desk import Answer, Command
from nbsight.widgets.payload import Payload, encode, texts_of
from nbsight.widgets.worker import Job, worker_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LensWidget", "lens_payload"]

LARGEST_TOP_K = 100
STILL_POSITIONS = 24  # what one picture has room for

Detail = Callable[[int, int, int], LensCell]


def lens_payload(
    lens: Lens,
    *,
    live: bool,
    more: Lens | None = None,
    followed: Sequence[int] = (),
    model: str = "model",
) -> Payload:
    """The lens as its view reads it: every token's text once, and numbers in one buffer.

    Args:
        lens: The lens.
        live: Whether Python can be asked for more.
        more: The same lens with what was asked for since: statistics, followed tokens.
        followed: The ids of the tokens that `more` follows.
        model: What the model is called in code.
    """
    vocabulary, words = np.unique(lens.top_tokens.astype(str), return_inverse=True)
    small = len(vocabulary) <= np.iinfo(np.uint16).max
    arrays: dict[str, NDArray[Any]] = {
        "probs": lens.top_probs,
        "ids": lens.top_ids.astype(np.int32),
        "words": words.reshape(lens.top_probs.shape).astype(np.uint16 if small else np.uint32),
    }
    known = next((one for one in (more, lens) if one is not None and one.entropy is not None), None)
    if known is not None and known.entropy is not None and known.kl is not None:
        arrays |= {"entropy": known.entropy.astype(np.float32), "kl": known.kl.astype(np.float32)}
    names: Sequence[str] = ()
    if more is not None and more.track_probs is not None and more.track_ranks is not None:
        names = more.tracked
        arrays |= {
            "courses": more.track_probs.astype(np.float32),
            "ranks": more.track_ranks.astype(np.int32),
        }
    return encode(
        "lens",
        {
            "model": lens.model,
            "prompt": lens.prompt,
            "tokens": list(lens.tokens),
            "layers": [label if isinstance(label, str) else int(label) for label in lens.layers],
            "vocabulary": vocabulary.tolist(),
            "followed": [{"id": int(one), "token": name} for one, name in zip(followed, names, strict=False)],
            "provenance": texts_of(lens.provenance),
            "check": lens.check,
            "code": lens_code(lens, model),
            "live": live,
        },
        arrays,
    )


def lens_code(lens: Lens, model: str = "model") -> str:
    """A cell that makes the lens again; `$more` stands for what the view asks for beside."""
    call = f"nbsight.logit_lens({model}, {literal(lens.prompt)}, top_k={lens.top_k}$more)"
    return f"import nbsight\n\nlens = {call}"


class LensWidget(Widget):
    """A lens to look at, in which cells can be opened and tokens followed.

    Args:
        lens: What `logit_lens` returned.
        detail: How to get a cell's longer ranking, `detail(layer, position, top_k)`; by default
            the lens's own. Called on a worker thread, one call at a time per model.

    Attributes:
        result: The lens on show; assign another to show that.
        selection: `(layer, position)` of the opened cell, or None. Assigning opens a cell.
        state: `statistic` (top, entropy, kl, probability, rank) and `pins`, the tokens that are followed.
    """

    view = "lens"
    defaults: ClassVar[Mapping[str, Any]] = {"statistic": "top", "pins": []}

    def __init__(self, lens: Lens, detail: Detail | None = None, **kwargs: Any) -> None:
        self._lens = lens
        self._detail = detail or lens.detail
        self._more: Lens | None = None
        self._followed: tuple[int, ...] = ()
        model = getattr(self._detail, "model", None)
        super().__init__(self._payload(), worker_for(model or self), owner=model, **kwargs)

    @property
    def result(self) -> Lens:
        return self._lens

    @result.setter
    def result(self, lens: Lens) -> None:
        self._lens = lens
        self._detail = lens.detail
        self._more, self._followed = None, ()
        with self.hold_sync():
            self.selection = None
            self.state = {"pins": [], "statistic": "top"}
            self.show(self._payload())

    def _payload(self) -> Payload:
        return lens_payload(
            self._lens,
            live=self._detail is not None,
            more=self._more,
            followed=self._followed,
            model=name_of(getattr(self._detail, "model", None), "model"),
        )

    def chosen(self, selection: Any) -> tuple[int, int]:
        return self._lens.locate(*selection)

    def commands(self) -> dict[str, Command]:
        return {"cell": self._cell, "more": self._ask_more, "prompts": self._prompts}

    def _cell(self, params: dict[str, Any], job: Job) -> Answer:
        """The ranking of one cell, asked of the model."""
        layer, position = self._lens.locate(int(params["layer"]), int(params["position"]))
        top_k = max(1, min(int(params["top_k"]), LARGEST_TOP_K))
        if self._detail is None:
            raise LookupError("This lens has no model to ask; it was made or loaded without one.")
        cell = self._detail(layer, position, top_k)
        result = {"tokens": list(cell.tokens), "ids": [int(index) for index in cell.ids]}
        return result, [np.asarray(cell.probs, dtype="<f4").tobytes()]

    def _ask_more(self, params: dict[str, Any], job: Job) -> Answer:
        """Statistics and the course of tokens, which the view gets with its header."""
        ask = getattr(self._detail, "more", None)
        if ask is None:
            raise LookupError("This lens has no model to ask; it was made or loaded without one.")
        followed = tuple(int(token) for token in params["track"])
        statistics = bool(params["statistics"]) or (self._more is not None and self._more.entropy is not None)
        more = ask(followed, statistics)
        if not job.cancelled:
            self._more, self._followed = more, followed
            self.show(self._payload())
        return {}, []

    def _prompts(self, params: dict[str, Any], job: Job) -> Answer:
        """Read another prompt; the tokens that are followed stay."""
        model = getattr(self._detail, "model", None)
        if model is None:
            raise LookupError("This lens has no model to ask; it was made or loaded without one.")
        lens = logit_lens(model, str(params["prompt"]), top_k=self._lens.top_k)
        if not job.cancelled:
            self._lens, self._detail = lens, lens.detail
            self._more, self._followed = None, ()
            with self.hold_sync():
                self.selection = None
                self.show(self._payload())
        return {}, []

    def to_code(self) -> str:
        track = [int(pin["id"]) for pin in self.state["pins"]]
        more = f", track={track}" if track else ""
        more += ", statistics=True" if self.state["statistic"] in ("entropy", "kl") else ""
        code = fill(self.header["code"], {"more": more})
        if self.selection is None:
            return f"{code}\nlens"
        return f"{code}\nlens.at(layer={self.selection[0]}, position={self.selection[1]})"

    def table(self) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        lens = self._lens
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
        return self._lens.to_figure(positions=slice(STILL_POSITIONS))

    def still_text(self) -> str:
        return repr(self._lens)
