"""The widget in which a value or a module is looked at, where there is one for it."""

from __future__ import annotations

import importlib
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = [
    "VIEWS",
    "Prompts",
    "close",
    "inspector_of_saved",
    "widget_of_module",
    "widget_of_value",
    "worth_a_map",
]

#: Results by module and class, and the widget that is made of one.
VIEWS = {
    ("nbsight.results.component_lens", "ComponentLens"): ("nbsight.widgets.lens", "LensWidget"),
    ("nbsight.results.lens", "Lens"): ("nbsight.widgets.lens", "LensWidget"),
    ("nbsight.results.norms", "Norms"): ("nbsight.widgets.norms", "NormsWidget"),
    ("nbsight.results.patching", "Patching"): ("nbsight.widgets.patching", "PatchingWidget"),
    ("nbsight.remote.attached", "Jobs"): ("nbsight.widgets.jobs", "JobsWidget"),
}

SMALLEST = 32  # numbers; fewer are read sooner as text


class Prompts:
    """What each model was last run on in the notebook, to show its modules with."""

    def __init__(self) -> None:
        self._last: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    def note(self, tracer: Any) -> None:
        """A trace has ended well (a listener of `nbsight.core.alive.ended`)."""
        if threading.current_thread().name.startswith("nbsight-worker"):
            return  # what a view runs is not what the user ran
        text = tracer.args[0] if tracer.args else None
        ids = _ids_of(tracer.driver.tokens)
        if isinstance(text, str):
            self._last[tracer.root] = text
        elif ids is not None and len(ids) == 1:
            self._last[tracer.root] = ids[0].tolist()

    def of(self, model: Any) -> Any:
        """The last prompt of a model, or of one that it is a light copy of; None before there was one."""
        return self._last.get(model, self._last.get(model._family))


def widget_of_value(value: Any, name: str) -> Any:
    """A widget of a result or of a tensor or array; None where there is none for it.

    Args:
        value: Anything.
        name: What it is called, as it is written in the notebook.
    """
    # by its very class: an estimate of patches is no patching
    view = VIEWS.get((type(value).__module__, type(value).__name__))
    if view is not None:
        return getattr(importlib.import_module(view[0]), view[1])(value)
    if not _is_of_numbers(value) or not _can_be_read(value):
        return None
    return _inspector({name: value}, lambda _: f"value = {name}")


def widget_of_module(model: Any, path: str, prompt: Any, expression: str) -> Any:
    """What a module gives for a prompt, or its weights; None where neither can be looked at.

    Args:
        model: A model.
        path: One of its modules; "" for the model itself.
        prompt: What it was last run on; None where that is not known.
        expression: The module as it is written in the notebook.
    """
    from nbsight.errors import NbsightError
    from nbsight.widgets.inspection import Inspection
    from nbsight.widgets.inspector import InspectorWidget

    if prompt is not None and hasattr(model, "to_tokens") and getattr(model, "dispatched", True):
        try:
            return InspectorWidget(Inspection(model, prompt, path=path or None))
        except NbsightError:
            pass  # it gives no tensor, or the prompt does not reach it: its weights are there
    weights = dict(model._module.get_submodule(path).named_parameters())
    readable = {name: one for name, one in weights.items() if _can_be_read(one)}
    if not readable:
        return None
    plain = f"{expression}._module"
    return _inspector(readable, lambda name: f"value = {plain}.get_parameter({name!r}).detach()")


def close(widget: Any) -> None:
    """Close a widget and its layout, which has a comm of its own."""
    layout = getattr(widget, "layout", None)
    widget.close()
    if layout is not None:
        layout.close()


def worth_a_map(value: Any) -> bool:
    """Whether a value shows itself as a map: a saved tensor of some size, or a dictionary of such."""
    saving = sys.modules.get("nbsight.core.saving")
    if saving is None:
        return False
    if isinstance(value, Mapping):
        parts = list(value.values())
        return 0 < len(parts) <= 512 and all(not isinstance(p, Mapping) and worth_a_map(p) for p in parts)
    is_tensor = isinstance(value, sys.modules["torch"].Tensor)
    return is_tensor and value.numel() >= SMALLEST and saving.is_saved(value) and _can_be_read(value)


def inspector_of_saved(value: Any) -> Any:
    """The inspector of a value that is worth a map, by the name that it has in the notebook."""
    from nbsight.widgets.code import name_of

    if isinstance(value, Mapping):
        name = name_of(value, "activations")
        values = {str(key): one for key, one in value.items()}
        keys = {str(key): key for key in value}
        return _inspector(values, lambda path: f"value = {name}[{keys[path]!r}]")
    name = name_of(value, "value")
    return _inspector({name: value}, lambda _: f"value = {name}")


def _inspector(values: Mapping[str, Any], code: Callable[[str], str]) -> Any:
    from nbsight.widgets.inspection import Inspection
    from nbsight.widgets.inspector import InspectorWidget

    plain = {name: getattr(value, "_plain", value) for name, value in values.items()}
    axes, tokens = _known_of(next(iter(plain.values())))
    return InspectorWidget(Inspection(plain, axes=axes, tokens=tokens, code=code))


def _known_of(value: Any) -> tuple[Sequence[str] | None, Sequence[str] | None]:
    """The names of a saved value's axes, and the tokens of its prompt."""
    saving = sys.modules.get("nbsight.core.saving")
    record = None if saving is None or not hasattr(value, "numel") else saving.find_saved(value)
    find: Any = None if record is None else record.tokens
    ids = _ids_of(find)
    if ids is None:
        return None, None
    model = find.func.__self__
    names = model._axis_names(tuple(value.shape), ((ids,), {}))
    axes = None if names is None else [name or f"axis {at}" for at, name in enumerate(names)]
    return axes, find()


def _ids_of(find: Any) -> Any:
    """The ids of the prompt whose tokens a trace can be asked for, (batch, position)."""
    given = getattr(find, "args", ())
    return getattr(given[0], "fields", {}).get("input_ids") if given else None


def _is_of_numbers(value: Any) -> bool:
    kinds = [
        getattr(sys.modules.get(module), name, None)
        for module, name in (("torch", "Tensor"), ("numpy", "ndarray"))
    ]
    return any(kind is not None and isinstance(value, kind) for kind in kinds)


def _can_be_read(value: Any) -> bool:
    """Whether there are numbers in memory that the inspector shows."""
    if hasattr(value, "is_meta"):
        return bool(value.numel()) and not value.is_meta and not value.is_complex() and not value.is_sparse
    return value.size > 0 and value.dtype.kind in "fiub"
