"""What an inspector looks at: tensors by name, or the modules of a model for a prompt. It knows no page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from nbsight.analysis.summary import blocks_of, plane_of, summarise
from nbsight.errors import InputError
from nbsight.models.axes import axis_names
from nbsight.models.provenance import provenance
from nbsight.models.tokens import str_tokens
from nbsight.widgets.code import name_of
from nbsight.widgets.desk import Answer
from nbsight.widgets.payload import Payload, encode, texts_of
from nbsight.widgets.tops import number

__all__ = ["Inspection", "largest_at", "words_of"]

HEIGHT, WIDTH = 96, 192  # blocks of one picture at most
LARGEST = 512  # blocks that a page may ask for along one axis


class Inspection:
    """A tensor, several by name, or whatever the modules of a model give for a prompt.

    Args:
        source: A tensor or array, a dictionary of them, or a language model.
        prompt: With a model: what it is run on.
        axes: Names of the axes; with a dictionary, of all its tensors.
        tokens: Texts along the axis called "position".
        path: Which tensor or module is opened first.
        code: The lines that make `value`, given a path; by default they take it out of the source.
        origin: What the tensors depend on, where the source does not say.
        model_name: The name of the model that they are of, where the source is none.
    """

    def __init__(
        self,
        source: Any,
        prompt: Any = None,
        *,
        axes: Sequence[str] | None = None,
        tokens: Sequence[str] | None = None,
        path: str | None = None,
        code: Callable[[str], str] | None = None,
        origin: Mapping[str, Any] | None = None,
        model_name: str = "",
    ) -> None:
        self._axes, self._prompt, self._source = axes, prompt, source
        self._made, self._origin, self._model_name = code, origin, model_name
        self._tokens = None if tokens is None else list(tokens)
        self.values: dict[str, torch.Tensor] = {}
        self.model: Any = source if hasattr(source, "_model") and hasattr(source, "trace") else None
        if self.model is not None:
            self._take_model(path)
        else:
            self._take_values(source, path)

    def _take_model(self, path: str | None) -> None:
        if self._prompt is None:
            raise InputError('a model shows its values for a prompt: `InspectorWidget(model, "some text")`.')
        self._ids = self.model.to_tokens(self._prompt)
        if self._tokens is None and len(self._ids) == 1:
            self._tokens = str_tokens(self.model.tokenizer, self._ids[0].tolist())
        modules = [name for name, _ in self.model._model.named_modules() if name]
        if path is not None and path not in modules:
            raise InputError(f"there is no module {path!r}; write one of {', '.join(modules[:6])}, …")
        self.path = path or next((name for name in modules if name.count(".") == 2), modules[0])
        self.values[self.path] = self._traced(self.path)

    def _take_values(self, source: Any, path: str | None) -> None:
        if not isinstance(source, Mapping):
            source = {name_of(source, "value"): source}
        for name, value in source.items():
            self.values[str(name)] = _tensor(name, value)
        if not self.values:
            raise InputError("there is nothing to look at: the dictionary is empty.")
        self.path = path if path is not None else next(iter(self.values))
        if self.path not in self.values:
            raise InputError(f"there is no {path!r}; there are {', '.join(map(repr, self.values))}.")

    @property
    def shown(self) -> torch.Tensor:
        """The tensor on show."""
        return self.values[self.path]

    def chosen(self, selection: Any) -> tuple[int, ...]:
        """A place in the tensor on show, counted from the first.

        Raises:
            IndexError: there is no such place.
        """
        shape = tuple(_at_least_2d(self.shown).shape)
        place = tuple(int(index) for index in selection)
        if len(place) != len(shape) or any(not -n <= i < n for i, n in zip(place, shape, strict=False)):
            raise IndexError(f"the tensor has shape {shape}; there is no {place}.")
        return tuple(index % size for index, size in zip(place, shape, strict=True))

    def fetch(self, path: str) -> torch.Tensor:
        """Another tensor, which a model is run for; what is on show stays.

        Raises:
            LookupError: there is no such tensor.
        """
        if self.model is not None:
            return self._traced(path)
        if path in self.values:
            return self.values[path]
        raise LookupError(f"there is no {path!r} here.")

    def open(self, path: str, value: torch.Tensor) -> None:
        """Show what was fetched."""
        if self.model is not None:
            self.values = {path: value}  # the one on show: a model has too many to keep all
        self.path = path

    def tile(self, params: Mapping[str, Any]) -> Answer:
        """A window of a plane, in blocks."""
        value = _at_least_2d(self.shown)
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
        with self.model.trace(self._ids, grad=False):
            value: Any = self.model.get(path).output.save()
        while isinstance(value, (tuple, list)) and value:
            value = value[0]
        if not isinstance(value, torch.Tensor):
            raise InputError(f"`{path}` gives a {type(value).__name__}, not a tensor.")
        return value.detach()

    # --- what a view draws ------------------------------------------------------------------------

    def first_state(self) -> dict[str, Any]:
        """How a view is set at first."""
        value = _at_least_2d(self.shown)
        return {
            "path": self.path,
            "rows": value.ndim - 2,
            "columns": value.ndim - 1,
            "at": [0] * value.ndim,
        }

    def payload(self) -> Payload:
        """The first plane in blocks, statistics of the whole tensor, and what else can be opened."""
        value = self.shown
        shown = _at_least_2d(value)
        summary = summarise(value)
        state = self.first_state()
        plane = plane_of(shown, state["rows"], state["columns"], tuple(state["at"]))
        blocks = blocks_of(plane, (0, plane.shape[0], 0, plane.shape[1]), HEIGHT, WIDTH)
        return encode(
            "inspector",
            {
                "model": self._model_name if self.model is None else str(self.model._name),
                "path": self.path,
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
        if self.model is None:
            return [
                {
                    "path": path,
                    "kind": words_of(value),
                    "bytes": value.numel() * value.element_size(),
                    "saved": True,
                }
                for path, value in self.values.items()
            ]
        return [
            {
                "path": path,
                "kind": type(module).__name__,
                "bytes": sum(p.numel() * p.element_size() for p in module.parameters()),
                "saved": path in self.values,
            }
            for path, module in self.model._model.named_modules()
            if path
        ]

    def _names(self, value: torch.Tensor) -> list[str]:
        if self._axes is not None and len(self._axes) == value.ndim:
            return [str(name) for name in self._axes]
        found: Sequence[str] | None = None
        if self.model is not None:
            given: tuple[Any, Any] = ((self._ids,), {})
            found = axis_names(tuple(value.shape), given, self.model.config, self.model._limits.vocabulary)
        count = len(self._tokens or ())
        names = []
        for axis, size in enumerate(value.shape):
            known = found[axis] if found else ""
            if not known and count and size == count and "position" not in names:
                known = "position"
            names.append(known or ("batch" if axis == 0 and value.ndim > 2 and size == 1 else f"axis {axis}"))
        return names

    def _provenance(self) -> dict[str, str]:
        known = self._origin or {}
        if self.model is not None:
            known = provenance(self.model, [])
        return texts_of(known)

    def _code(self) -> str:
        if self._made is not None:
            return self._made(self.path)
        if self.model is None:
            if isinstance(self._source, Mapping):
                return f"value = {name_of(self._source, 'activations')}[{self.path!r}]"
            return f"value = {name_of(self._source, 'value')}"
        model = name_of(self.model, "model")
        prompt = self._prompt if isinstance(self._prompt, str) else self._ids.tolist()
        return (
            f"with {model}.trace({prompt!r}):\n    value = {model}.get({self.path!r}).output.save()\n"
            "while isinstance(value, (tuple, list)):\n    value = value[0]"
        )

    def plane(self, state: Mapping[str, Any]) -> tuple[torch.Tensor, tuple[str, str]]:
        """The plane that a view is set to, and the names of its axes."""
        value = _at_least_2d(self.shown)
        rows, columns = int(state["rows"]), int(state["columns"])
        names = self._names(value)
        return plane_of(value, rows, columns, tuple(state["at"])), (names[rows], names[columns])


def _tensor(name: Any, value: Any) -> torch.Tensor:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if not isinstance(value, torch.Tensor):
        raise InputError(f"`{name}` is a {type(value).__name__}; the inspector shows tensors and arrays.")
    if value.is_complex() or not value.numel():
        raise InputError(f"`{name}` is {'complex' if value.is_complex() else 'empty'}: {words_of(value)}.")
    return value.detach().as_subclass(torch.Tensor)


def _at_least_2d(value: torch.Tensor) -> torch.Tensor:
    return value.reshape(1, -1) if value.ndim < 2 else value


def largest_at(value: torch.Tensor, position: int) -> tuple[int, ...] | None:
    """The channel that is farthest from 0 at a position of the first prompt.

    Args:
        value: (batch, position, d_model).
        position: Counted from 0.

    Returns:
        A place in the value; None where it has other axes or that position is not in it.
    """
    if value.ndim != 3 or not 0 <= position < value.shape[1]:
        return None
    return 0, position, int(value[0, position].float().abs().nan_to_num(0).argmax())


def words_of(value: torch.Tensor) -> str:
    """The dtype and sizes of a tensor."""
    sizes = " × ".join(map(str, value.shape)) or "one number"
    return f"{str(value.dtype).removeprefix('torch.')} {sizes}"
