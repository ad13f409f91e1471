"""Any tensor, live: a map of two of its axes, its statistics, and the modules of a model to take it from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from nbsight.analysis.summary import blocks_of
from nbsight.widgets.base import Widget
from nbsight.widgets.code import fill
from nbsight.widgets.desk import Answer, Command
from nbsight.widgets.inspection import Inspection, words_of
from nbsight.widgets.worker import Job, worker_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["InspectorWidget"]


class InspectorWidget(Widget):
    """A tensor, several by name, or whatever the modules of a model give for a prompt.

        InspectorWidget(hidden)
        InspectorWidget(activations)                  # a dictionary of tensors
        InspectorWidget(model, "The Eiffel Tower")    # any module: its output is traced when it is opened

    Only what is looked at is sent: blocks of the plane on show, each with the number farthest from 0.

    Args:
        source: A tensor or array, a dictionary of them, or a language model.
        prompt: With a model: what it is run on.
        axes: Names of the axes; with a dictionary, of all its tensors.
        tokens: Texts along the axis called "position".
        path: Which tensor or module is opened first.

    Attributes:
        result: The tensor on show.
        selection: One index for each of its axes, or None.
        state: `path`; which axes go down and across, `rows` and `columns`; and the index `at` which each of
            the others is held.
    """

    view = "inspector"
    defaults: ClassVar[Mapping[str, Any]] = {"path": "", "rows": 0, "columns": 1, "at": []}

    def __init__(
        self,
        source: Any,
        prompt: Any = None,
        *,
        axes: Sequence[str] | None = None,
        tokens: Sequence[str] | None = None,
        path: str | None = None,
        **kwargs: Any,
    ) -> None:
        is_made = isinstance(source, Inspection)
        self._inspection = (
            source if is_made else Inspection(source, prompt, axes=axes, tokens=tokens, path=path)
        )
        model = self._inspection.model
        super().__init__(self._inspection.payload(), worker_for(model or self), owner=model, **kwargs)
        self.state = self._inspection.first_state()

    @property
    def result(self) -> torch.Tensor:
        return self._inspection.shown

    def chosen(self, selection: Any) -> tuple[int, ...]:
        return self._inspection.chosen(selection)

    def commands(self) -> dict[str, Command]:
        return {"open": self._open, "tile": self._tile}

    def _open(self, params: dict[str, Any], job: Job) -> Answer:
        """Show another tensor, which a model is run for."""
        path = str(params["path"])
        value = self._inspection.fetch(path)
        if not job.cancelled:
            self._inspection.open(path, value)
            with self.hold_sync():
                self.selection = None
                self.state = self._inspection.first_state()
                self.show(self._inspection.payload())
        return {}, []

    def _tile(self, params: dict[str, Any], job: Job) -> Answer:
        return self._inspection.tile(params)

    # --- copies ---------------------------------------------------------------------------------------

    def to_code(self) -> str:
        code: str = self.header["code"]
        if self.selection is None:
            return f"{code}\nvalue"
        values = {str(axis): index for axis, index in enumerate(self.selection)}
        return f"{code}\n{fill(self.header['code_at'], values)}"

    def figure(self) -> Figure:
        from nbsight.display.heatmaps import heatmaps

        plane, names = self._inspection.plane(self.state)
        blocks = blocks_of(plane, (0, plane.shape[0], 0, plane.shape[1]), 32, 48)
        rows = [str(row * blocks.size[0]) for row in range(len(blocks.peak))]
        columns = [str(column * blocks.size[1]) for column in range(blocks.peak.shape[1])]
        what = "value" if blocks.size == (1, 1) else f"farthest from 0 of {blocks.size[0]} × {blocks.size[1]}"
        title = f"{self._inspection.path} · {words_of(self.result)}"
        return heatmaps([("", blocks.peak, rows, columns)], title=title, value_title=what, row_title=names[0])

    def still_text(self) -> str:
        known = self.header["statistics"]
        told = ", ".join(f"{name} {value:.4g}" for name, value in known.items() if value is not None)
        return f"{self._inspection.path}: {words_of(self.result)}\n{told}"

    def table(self) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        plane, names = self._inspection.plane(self.state)
        return (*names, "value"), (
            (row, column, float(plane[row, column]))
            for row in range(plane.shape[0])
            for column in range(plane.shape[1])
        )
