"""Any tensor, live: a map of two of its axes, its statistics, and the modules of a model to take it from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from nbsight.analysis.summary import blocks_of, plane_of, summarise
from nbsight.errors import InputError
from nbsight.models.axes import axis_names
from nbsight.models.provenance import provenance
from nbsight.models.tokens import str_tokens
from nbsight.widgets.base import Widget
from nbsight.widgets.code import fill, name_of
from nbsight.widgets.desk import Answer, Command
from nbsight.widgets.payload import Payload, encode, texts_of
from nbsight.widgets.tops import number
from nbsight.widgets.worker import Job, worker_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["InspectorWidget"]

HEIGHT, WIDTH = 96, 192  # blocks of one picture at most
LARGEST = 512  # blocks that a page may ask for along one axis


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
        self._axes, self._prompt, self._source = axes, prompt, source
        self._tokens = None if tokens is None else list(tokens)
        self._values: dict[str, torch.Tensor] = {}
        self._model: Any = source if hasattr(source, "_model") and hasattr(source, "trace") else None
        if self._model is not None:
            self._take_model(path)
        else:
            self._take_values(source, path)
        super().__init__(self._payload(), worker_for(self._model or self), owner=self._model, **kwargs)
        self.state = self._first_state()

    def _take_model(self, path: str | None) -> None:
        if self._prompt is None:
            raise InputError('a model shows its values for a prompt: `InspectorWidget(model, "some text")`.')
        self._ids = self._model.to_tokens(self._prompt)
        if self._tokens is None and len(self._ids) == 1:
            self._tokens = str_tokens(self._model.tokenizer, self._ids[0].tolist())
        modules = [name for name, _ in self._model._model.named_modules() if name]
        if path is not None and path not in modules:
            raise InputError(f"there is no module {path!r}; write one of {', '.join(modules[:6])}, …")
        self._path = path or next((name for name in modules if name.count(".") == 2), modules[0])
        self._values[self._path] = self._traced(self._path)

    def _take_values(self, source: Any, path: str | None) -> None:
        if not isinstance(source, Mapping):
            source = {name_of(source, "value"): source}
        for name, value in source.items():
            self._values[str(name)] = _tensor(name, value)
        if not self._values:
            raise InputError("there is nothing to look at: the dictionary is empty.")
        self._path = path if path is not None else next(iter(self._values))
        if self._path not in self._values:
            raise InputError(f"there is no {path!r}; there are {', '.join(map(repr, self._values))}.")

    @property
    def result(self) -> torch.Tensor:
        return self._values[self._path]

    def chosen(self, selection: Any) -> tuple[int, ...]:
        shape = _shape(_at_least_2d(self.result))
        place = tuple(int(index) for index in selection)
        if len(place) != len(shape) or any(not -n <= i < n for i, n in zip(place, shape, strict=False)):
            raise IndexError(f"the tensor has shape {tuple(shape)}; there is no {place}.")
        return tuple(index % size for index, size in zip(place, shape, strict=True))

    def commands(self) -> dict[str, Command]:
        return {"open": self._open, "tile": self._tile}

    # --- what the page asks -----------------------------------------------------------------------

    def _open(self, params: dict[str, Any], job: Job) -> Answer:
        """Show another tensor, which a model is run for."""
        path = str(params["path"])
        if self._model is not None:
            value = self._traced(path)
        elif path in self._values:
            value = self._values[path]
        else:
            raise LookupError(f"there is no {path!r} here.")
        if not job.cancelled:
            if self._model is not None:
                self._values = {path: value}  # the one on show: a model has too many to keep all
            self._path = path
            with self.hold_sync():
                self.selection = None
                self.state = self._first_state()
                self.show(self._payload())
        return {}, []

    def _tile(self, params: dict[str, Any], job: Job) -> Answer:
        """A window of a plane, in blocks."""
        value = _at_least_2d(self.result)
        rows, columns = int(params["rows"]), int(params["columns"])
        at = tuple(int(index) for index in params["at"])
        if rows == columns or not all(0 <= axis < value.ndim for axis in (rows, columns)):
            raise IndexError(f"rows and columns are two of the axes 0 to {value.ndim - 1}.")
        plane = plane_of(value, rows, columns, at)
        top, bottom, left, right = (int(edge) for edge in params["window"])
        window = max(0, top), min(bottom, plane.shape[0]), max(0, left), min(right, plane.shape[1])
        height, width = (max(1, min(int(params[name]), LARGEST)) for name in ("height", "width"))
        blocks = blocks_of(plane, window, height, width)
        return {"window": window, "size": blocks.size, "shape": blocks.peak.shape}, [
            blocks.peak.astype("<f4").tobytes(),
            blocks.mean.astype("<f4").tobytes(),
        ]

    def _traced(self, path: str) -> torch.Tensor:
        with self._model.trace(self._ids, grad=False):
            value: Any = self._model.get(path).output.save()
        while isinstance(value, (tuple, list)) and value:
            value = value[0]
        if not isinstance(value, torch.Tensor):
            raise InputError(f"`{path}` gives a {type(value).__name__}, not a tensor.")
        return value.detach()

    # --- the payload --------------------------------------------------------------------------------

    def _first_state(self) -> dict[str, Any]:
        value = _at_least_2d(self.result)
        return {
            "path": self._path,
            "rows": value.ndim - 2,
            "columns": value.ndim - 1,
            "at": [0] * value.ndim,
        }

    def _payload(self) -> Payload:
        value = self.result
        shown = _at_least_2d(value)
        summary = summarise(value)
        state = self._first_state()
        plane = plane_of(shown, state["rows"], state["columns"], tuple(state["at"]))
        blocks = blocks_of(plane, (0, plane.shape[0], 0, plane.shape[1]), HEIGHT, WIDTH)
        return encode(
            "inspector",
            {
                "model": "" if self._model is None else str(self._model._name),
                "path": self._path,
                "entries": self._entries(),
                "shape": list(shown.shape),
                "axes": self._names(shown),
                "dtype": str(value.dtype).removeprefix("torch."),
                "device": str(value.device),
                "bytes": value.numel() * value.element_size(),
                "tokens": self._tokens or [],
                "statistics": {
                    "count": summary.count,
                    "NaN": summary.nan,
                    "infinite": summary.inf,
                    "zero": summary.zero,
                    **{
                        name: number(getattr(summary, name))
                        for name in ("mean", "std", "low", "high", "norm")
                    },
                },
                "edges": [float(summary.edges[0]), float(summary.edges[-1])],
                "channels": [
                    {"channel": channel, "size": size}
                    for channel, size in zip(summary.channels, summary.channel_sizes, strict=True)
                ],
                "size": list(blocks.size),
                "code": self._code(),
                "code_at": f"value[{', '.join(f'${axis}' for axis in range(value.ndim))}]"
                if value.ndim > 1
                else "value.reshape(-1)[$1]",
                "provenance": self._provenance(),
                "live": True,
            },
            {
                "peak": blocks.peak.astype(np.float32),
                "mean": blocks.mean.astype(np.float32),
                "histogram": summary.counts.astype(np.uint32),
            },
        )

    def _entries(self) -> list[dict[str, Any]]:
        """What can be opened: tensors, or modules with their class and the size of their weights."""
        if self._model is None:
            return [
                {
                    "path": path,
                    "kind": _words(value),
                    "bytes": value.numel() * value.element_size(),
                    "saved": True,
                }
                for path, value in self._values.items()
            ]
        return [
            {
                "path": path,
                "kind": type(module).__name__,
                "bytes": sum(p.numel() * p.element_size() for p in module.parameters()),
                "saved": path in self._values,
            }
            for path, module in self._model._model.named_modules()
            if path
        ]

    def _names(self, value: torch.Tensor) -> list[str]:
        if self._axes is not None and len(self._axes) == value.ndim:
            return [str(name) for name in self._axes]
        found: Sequence[str] | None = None
        if self._model is not None:
            given: tuple[Any, Any] = ((self._ids,), {})
            found = axis_names(tuple(value.shape), given, self._model.config, self._model._limits.vocabulary)
        count = len(self._tokens or ())
        names = []
        for axis, size in enumerate(value.shape):
            known = found[axis] if found else ""
            if not known and count and size == count and "position" not in names:
                known = "position"
            names.append(known or ("batch" if axis == 0 and value.ndim > 2 and size == 1 else f"axis {axis}"))
        return names

    def _provenance(self) -> dict[str, str]:
        known = {} if self._model is None else provenance(self._model, [])
        return texts_of(known)

    def _code(self) -> str:
        if self._model is None:
            if isinstance(self._source, Mapping):
                return f"value = {name_of(self._source, 'activations')}[{self._path!r}]"
            return f"value = {name_of(self._source, 'value')}"
        model = name_of(self._model, "model")
        prompt = self._prompt if isinstance(self._prompt, str) else self._ids.tolist()
        return (
            f"with {model}.trace({prompt!r}):\n    value = {model}.get({self._path!r}).output.save()\n"
            "while isinstance(value, (tuple, list)):\n    value = value[0]"
        )

    # --- copies ---------------------------------------------------------------------------------------

    def to_code(self) -> str:
        code: str = self.header["code"]
        if self.selection is None:
            return f"{code}\nvalue"
        values = {str(axis): index for axis, index in enumerate(self.selection)}
        return f"{code}\n{fill(self.header['code_at'], values)}"

    def figure(self) -> Figure:
        from nbsight.display.heatmaps import heatmaps

        plane, names = self._plane()
        blocks = blocks_of(plane, (0, plane.shape[0], 0, plane.shape[1]), 32, 48)
        rows = [str(row * blocks.size[0]) for row in range(len(blocks.peak))]
        columns = [str(column * blocks.size[1]) for column in range(blocks.peak.shape[1])]
        what = "value" if blocks.size == (1, 1) else f"farthest from 0 of {blocks.size[0]} × {blocks.size[1]}"
        title = f"{self._path} · {_words(self.result)}"
        return heatmaps([("", blocks.peak, rows, columns)], title=title, value_title=what, row_title=names[0])

    def still_text(self) -> str:
        known = self.header["statistics"]
        told = ", ".join(f"{name} {value:.4g}" for name, value in known.items() if value is not None)
        return f"{self._path}: {_words(self.result)}\n{told}"

    def table(self) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        plane, names = self._plane()
        return (*names, "value"), (
            (row, column, float(plane[row, column]))
            for row in range(plane.shape[0])
            for column in range(plane.shape[1])
        )

    def _plane(self) -> tuple[torch.Tensor, tuple[str, str]]:
        value = _at_least_2d(self.result)
        rows, columns = int(self.state["rows"]), int(self.state["columns"])
        names = self._names(value)
        return plane_of(value, rows, columns, tuple(self.state["at"])), (names[rows], names[columns])


def _tensor(name: Any, value: Any) -> torch.Tensor:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if not isinstance(value, torch.Tensor):
        raise InputError(f"`{name}` is a {type(value).__name__}; the inspector shows tensors and arrays.")
    if value.is_complex() or not value.numel():
        raise InputError(f"`{name}` is {'complex' if value.is_complex() else 'empty'}: {_words(value)}.")
    return value.detach().as_subclass(torch.Tensor)


def _at_least_2d(value: torch.Tensor) -> torch.Tensor:
    return value.reshape(1, -1) if value.ndim < 2 else value


def _shape(value: torch.Tensor) -> tuple[int, ...]:
    return tuple(value.shape)


def _words(value: torch.Tensor) -> str:
    sizes = " × ".join(map(str, value.shape)) or "one number"
    return f"{str(value.dtype).removeprefix('torch.')} {sizes}"
