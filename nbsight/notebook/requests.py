"""What a page may ask of the kernel: names of things that were shown to it, and never code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbsight.core import jobs
from nbsight.notebook import state
from nbsight.notebook.memory import free_name, free_output, free_value
from nbsight.notebook.names import survey, users_names
from nbsight.notebook.opening import close

if TYPE_CHECKING:
    from nbsight.notebook.session import Session

__all__ = ["REQUESTS", "Request"]

MOST_FOUND = 200
PATIENCE = 0.05  # seconds that a list of modules waits for the scan; the page asks again

Data = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """How a request is answered.

    Args:
        act: Gets the session and the message; returns what JSON knows.
        waits_for_cell: Whether it changes the user's names, and so waits for the running cell.
        runs_model: Whether it may run a model, and so has its turn on that model's worker.
    """

    act: Callable[[Session, Data], Any]
    waits_for_cell: bool = False
    runs_model: bool = False


# -- the tree ----------------------------------------------------------------------------------


def children(session: Session, data: Data) -> Data:
    """The submodules of one module of a model."""
    model = _model(session, data)
    return _rows(session, model, _children_of(model, _path(data)))


def find(session: Session, data: Data) -> Data:
    """The modules whose path or class contains a text, the first two hundred."""
    model = _model(session, data)
    words = str(data.get("text", "")).lower().split()
    paths = []
    for path, module in model._module.named_modules():
        text = f"{path} {state.expression_of('model', path)} {type(module).__name__}".lower()
        if path and all(word in text for word in words):
            paths.append(path)
    return {**_rows(session, model, paths[:MOST_FOUND]), "found": len(paths)}


def _children_of(model: Any, path: str) -> list[str]:
    module = model._module.get_submodule(path)
    return [f"{path}.{name}".lstrip(".") for name, child in module._modules.items() if child is not None]


def _rows(session: Session, model: Any, paths: list[str]) -> Data:
    from nbsight.notebook.shapes import meaning_of, shapes_of

    shapes = shapes_of(model, PATIENCE)
    name = {id(known): name for name, known in state.named_models(session.ip)}.get(id(model))
    rows = []
    for path in paths:
        module = model._module.get_submodule(path)
        parameters = list(module.parameters())
        rows.append(
            {
                "path": path,
                "name": path.rpartition(".")[2],
                "class": type(module).__name__,
                "children": sum(child is not None for child in module._modules.values()),
                "parameters": sum(one.numel() for one in parameters),
                "bytes": sum(one.numel() * one.element_size() for one in parameters),
                "expression": state.expression_of(name or "model", path),
                "shape": "" if shapes is None else shapes.outputs.get(path, ""),
                "meaning": meaning_of(model, path),
            }
        )
    return {"rows": rows, "pending": shapes is None}


def _model(session: Session, data: Data) -> Any:
    model = session.keys.find(data.get("model"))
    if model is None:
        raise LookupError("this model is gone: nothing in the notebook holds it any more.")
    return model


def _path(data: Data) -> str:
    path = data.get("path", "")
    if not isinstance(path, str):
        raise LookupError(f"{path!r} is no path of a module.")
    return path


# -- opening -----------------------------------------------------------------------------------


def open_(session: Session, data: Data) -> Data:
    """What a module or a saved value shows of itself: a widget where there is one, else HTML and text."""
    from nbsight.notebook.looking import bundle_of_value

    if data.get("model") is not None:
        model = _model(session, data)
        path = _path(data)
        model._module.get_submodule(path)  # an AttributeError says which part is not there
        return _opened(session, path or "model", _bundle_of(session, model, path))
    if data.get("expression") is not None:
        return _open_expression(session, str(data["expression"]))
    value = session.keys.find(data.get("value"))
    if value is None:
        raise LookupError("this value is gone already.")
    row = next((row for row in state.saved(session.ip, session.keys) if row["id"] == data["value"]), {})
    return _opened(session, row.get("name") or "saved value", bundle_of_value(value, row))


def _bundle_of(session: Session, model: Any, path: str) -> Any:
    from nbsight.notebook.looking import bundle_of_module

    name = {id(known): name for name, known in state.named_models(session.ip)}.get(id(model))
    expression = state.expression_of(name or "model", path)
    return bundle_of_module(model, path, session.prompts.of(model), expression)


def _opened(session: Session, title: str, bundle: Any) -> Data:
    """What is shown beside the notebook; a widget lives until the page says that its tab is closed."""
    data, metadata, widget = bundle
    if widget is None:
        return {"title": title, "data": data, "metadata": metadata}
    session.opened[widget.model_id] = widget
    return {"title": title, "data": data, "metadata": metadata, "view": widget.model_id}


def close_view(session: Session, data: Data) -> None:
    """Close a widget whose tab is gone, with all that it holds."""
    widget = session.opened.pop(str(data.get("view")), None)
    if widget is not None:
        close(widget)
        session.send_changes()


def _open_expression(session: Session, text: str) -> Data:
    """What the cursor is on. Names are looked up and children walked to; nothing is evaluated."""
    from nbsight.notebook.completion import envoy_of
    from nbsight.notebook.looking import bundle_of_value

    found = envoy_of(text, session.ip.user_ns)
    value = users_names(session.ip.user_ns).get(text)
    if value is None:  # an item of a container, as it is written in the sidebar
        held = (one for part in survey(session.ip.user_ns).values() for one in part)
        value = next((one.value for one in held if one.written == text), None)
    if found is not None:
        bundle = _bundle_of(session, found._root, found._path)
    elif value is not None:
        bundle = bundle_of_value(value, {"name": text})
    else:
        raise LookupError(f"`{text}` is no model, module or name of this notebook; run its cell first.")
    return _opened(session, text, bundle)


# -- changing ----------------------------------------------------------------------------------


def free(session: Session, data: Data) -> str:
    """Delete a saved value, a name or what IPython remembers of a cell."""
    if data.get("value") is not None:
        said = free_value(session.ip, session.keys, data["value"])
    elif data.get("kind") == "output":
        said = free_output(session.ip, str(data.get("name", "")))
    else:
        said = free_name(session.ip, str(data.get("name", "")))
    session.send_changes()
    return said


def toggle_edit(session: Session, data: Data) -> None:
    """Switch a kept edit on or off."""
    edit = _there(session, data.get("edit"), "this edit is gone: its model dropped it.")
    edit.enabled = bool(data.get("enabled"))
    session.send_changes()


def remove_edit(session: Session, data: Data) -> None:
    """Take a kept edit off its model."""
    edit = _there(session, data.get("edit"), "this edit is gone: its model dropped it.")
    edit.remove()
    session.send_changes()


def close_run(session: Session, data: Data) -> None:
    """Give up a run that is held open."""
    from nbsight.core.paused import PausedRun

    tracer = _there(session, data.get("run"), "this run is over.")
    PausedRun(tracer).close()
    session.send_changes()


def verify(session: Session, data: Data) -> str:
    """Check the standard names of a model on random tokens."""
    model = _model(session, data)
    said = model.std.verify().summary
    session.send_changes()
    return str(said)


def cancel_job(session: Session, data: Data) -> None:
    """Tell a job to stop."""
    jobs.find(data.get("job")).cancel()


def job_log(session: Session, data: Data) -> Data:
    """What a job has said."""
    return {"lines": list(jobs.find(data.get("job")).log)}


def _there(session: Session, key: Any, gone: str) -> Any:
    found = session.keys.find(key)
    if found is None:
        raise LookupError(gone)
    return found


REQUESTS = {
    "children": Request(children),
    "find": Request(find),
    "open": Request(open_, runs_model=True),
    "close-view": Request(close_view),
    "free": Request(free, waits_for_cell=True),
    "toggle-edit": Request(toggle_edit),
    "remove-edit": Request(remove_edit),
    "close-run": Request(close_run, waits_for_cell=True),
    "verify": Request(verify, waits_for_cell=True),
    "cancel-job": Request(cancel_job),
    "job-log": Request(job_log),
}
