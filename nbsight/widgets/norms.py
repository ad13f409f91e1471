"""Norms of the stream and of what is written into it, live: lines by layer, and every token on a map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nbsight.results.norms import STREAM_OF, Norms
from nbsight.widgets.base import Widget, read_module
from nbsight.widgets.code import fill, literal, name_of
from nbsight.widgets.desk import Command
from nbsight.widgets.inspecting import Inspecting
from nbsight.widgets.inspection import Inspection, largest_at
from nbsight.widgets.payload import Payload, encode, texts_of
from nbsight.widgets.places import place_in
from nbsight.widgets.worker import worker_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["NormsWidget", "norms_payload"]

CODE_AT = {
    "norm": 'norms.of("$component")[$layer, $position]',
    "ratio": 'norms.ratio("$component")[$layer, $position]',
    "cosine": "norms.turn[$layer, $position]",
}


def norms_payload(norms: Norms, model: str = "model") -> Payload:
    """What the view draws: all norms, cosines and outlier channels, and a cell that makes them again.

    Args:
        norms: The norms.
        model: What the model is called in code.
    """
    return encode(
        "norms",
        {
            "model": norms.model,
            "prompt": norms.prompt,
            "tokens": list(norms.tokens),
            "layers": [int(layer) for layer in norms.layers],
            "components": list(norms.components),
            "ratios": {
                name: stream if stream in norms.components else "resid_pre"
                for name, stream in STREAM_OF.items()
                if name in norms.components
            },
            "channels": [int(channel) for channel in norms.channels],
            "notes": list(norms.notes),
            "provenance": texts_of(norms.provenance),
            "code": f"import nbsight\n\nnorms = nbsight.stream_norms({model}, {literal(norms.prompt)})",
            "code_at": CODE_AT,
            "live": norms.detail is not None,
        },
        {
            "norm": norms.norm.astype(np.float32),
            "cosine": norms.turn.astype(np.float32),
            "channel_size": norms.channel_size.astype(np.float32),
        },
    )


class NormsWidget(Widget):
    """The sizes of the stream and of what each part of a model writes into it.

    Args:
        norms: What `stream_norms` returned.

    Attributes:
        result: The norms on show; assign others to show those.
        selection: `(layer, position)` of the chosen place, or None.
        state: `what` (norm, ratio, cosine), the `component` on the map, and the switches `log`, `first`
            (whether the first token is shown) and `robust` (whether outliers may leave the scale).
    """

    view = "norms"
    defaults: ClassVar[Mapping[str, Any]] = {
        "what": "norm",
        "component": "resid_post",
        "log": False,
        "first": True,
        "robust": True,
    }

    def __init__(self, norms: Norms, **kwargs: Any) -> None:
        self._norms = norms
        self._inspecting = Inspecting(self._inspection_of, read_module)
        model = self._model
        super().__init__(self._payload(), worker_for(model or self), owner=model, **kwargs)

    @property
    def _model(self) -> Any:
        return getattr(self._norms.detail, "model", None)

    def _payload(self) -> Payload:
        return norms_payload(self._norms, self._called())

    def _called(self) -> str:
        return "model" if self._model is None else name_of(self._model, "model")

    def commands(self) -> dict[str, Command]:
        return self._inspecting.commands()

    def _inspection_of(self, params: Mapping[str, Any]) -> tuple[Inspection, tuple[int, ...] | None]:
        """The parts of a block whose norms were taken, with the chosen one first."""
        norms, name = self._norms, str(params["component"])
        layer, position = self.chosen((params["layer"], params["position"]))
        norms.of(name)  # a KeyError says which there are
        if norms.detail is None:
            raise LookupError("These norms have no model to ask; they were made or loaded without one.")
        block, model = int(norms.layers[layer]), self._called()

        def code(path: str) -> str:
            prompt, part = literal(norms.prompt), path.partition(" ")[0]
            return f"with {model}.trace({prompt}):\n    value = {model}.std.get({part!r}, {block}).save()"

        inspection = Inspection(
            {f"{part} · layer {block}": value for part, value in norms.detail(block).items()},
            axes=("batch", "position", "d_model"),
            tokens=norms.tokens,
            path=f"{name} · layer {block}",
            code=code,
            origin={**norms.provenance, "layer": block},
            model_name=norms.model,
        )
        return inspection, largest_at(inspection.shown, position)

    @property
    def result(self) -> Norms:
        return self._norms

    @result.setter
    def result(self, norms: Norms) -> None:
        self._norms = norms
        self.selection = None
        self.show(self._payload())

    def chosen(self, selection: Any) -> tuple[int, int]:
        return place_in(selection, (len(self._norms.layers), len(self._norms.tokens)))

    def to_code(self) -> str:
        code: str = self.header["code"]
        if self.selection is None:
            return f"{code}\nnorms"
        layer, position = self.selection
        values = {"component": self.state["component"], "layer": layer, "position": position}
        return f"{code}\n{fill(CODE_AT[self.state['what']], values)}"

    def figure(self) -> Figure:
        return self._norms.plot()

    def still_text(self) -> str:
        return repr(self._norms)

    def table(self) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        norms = self._norms
        return ("layer", "position", "token", *norms.components, "cosine"), (
            (
                layer,
                position,
                token,
                *(float(part[row, position]) for part in norms.norm),
                float(norms.turn[row, position]),
            )
            for row, layer in reversed(list(enumerate(norms.layers)))
            for position, token in enumerate(norms.tokens)
        )
