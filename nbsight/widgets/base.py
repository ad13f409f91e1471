"""What every widget has: data for its view, requests from it, and copies that outlive the kernel."""

from __future__ import annotations

import base64
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from nbsight.widgets.page import standalone_page
from nbsight.widgets.payload import Payload
from nbsight.widgets.worker import Job, Worker

__all__ = ["STILL_MIME", "Command", "Widget"]

# A notebook keeps this beside the live view; js/src/lab draws it when the kernel is gone.
STILL_MIME = "application/vnd.nbsight.view+json"
STILL_LIMIT = 2_000_000  # bytes of data kept in the notebook; beyond it the picture alone is kept

STATIC = Path(__file__).parent.parent / "static"

# A command gets the page's parameters and its job; it returns JSON values and buffers.
Command = Callable[[dict[str, Any], Job], tuple[dict[str, Any], list[bytes]]]


def read_module(name: str) -> str:
    """The built ES module of a widget, or one that says in the page how to build it."""
    file = STATIC / f"{name}.js"
    if file.exists():
        return file.read_text(encoding="utf-8")
    message = (
        f"The page part of this widget is not built ({file.name} is missing). In the checkout of nbsight "
        "run `python3 dev.py install` (it needs Node, or downloads one), then run this cell again."
    )
    return f"export default {{ render({{ el }}) {{ el.textContent = {message!r}; }} }};"


class Widget(anywidget.AnyWidget):
    """Base of all widgets: traits `header` and `data` for the view, `commands` for its questions.

    A question is the message `{kind: "request", id, command, params}`. It is always answered, by
    `{kind: "reply", id, ok: true, result}` and buffers, or by `ok: false` and what went wrong;
    except when the page took it back with `{kind: "cancel", id}`.
    """

    view = ""  # folder in js/src/widgets and name of the built module

    # A trait of our own: anywidget's would need the file when the class is made, that is on import.
    _esm = traitlets.Unicode().tag(sync=True)
    header = traitlets.Dict().tag(sync=True)
    data = traitlets.Bytes().tag(sync=True)

    def __init__(self, payload: Payload, worker: Worker, **kwargs: Any) -> None:
        self._worker = worker
        self._jobs: dict[str, Job] = {}
        super().__init__(header=payload.header, data=payload.data, _esm=read_module(self.view), **kwargs)
        self.on_msg(self._receive)

    def commands(self) -> dict[str, Command]:
        """What the page may ask for, by name."""
        return {}

    def still_png(self) -> bytes:
        """A picture for front ends that run nothing: GitHub, nbconvert, a PDF."""
        raise NotImplementedError(f"{type(self).__name__} has no still_png().")

    def still_text(self) -> str:
        """The result as plain text."""
        raise NotImplementedError(f"{type(self).__name__} has no still_text().")

    # --- questions from the page --------------------------------------------------------------

    def _receive(self, _: Any, message: Any, buffers: Any) -> None:
        """Queue a question or take one back; on any thread, so nothing is computed here."""
        if not isinstance(message, dict) or not isinstance(message.get("id"), str):
            return
        key = message["id"]
        if message.get("kind") == "cancel":
            job = self._jobs.pop(key, None)
            if job is not None:
                job.cancel()
        elif message.get("kind") == "request":
            job = self._jobs[key] = Job()
            name, params = message.get("command"), message.get("params") or {}
            self._worker.submit(lambda: self._answer(key, job, name, params), job)

    def _answer(self, key: str, job: Job, name: Any, params: dict[str, Any]) -> None:
        try:
            commands = self.commands()
            if name not in commands:
                known = ", ".join(sorted(commands)) or "none"
                raise LookupError(f"{type(self).__name__} has no command {name!r}; it has: {known}.")
            result, buffers = commands[name](params, job)
            reply = {"ok": True, "result": result}
        except Exception as error:  # whatever it was, the page is waiting and shows it in place
            buffers = []
            reply = {"ok": False, "error": describe(error)}
        self._jobs.pop(key, None)
        if not job.cancelled:
            self.send({"kind": "reply", "id": key, **reply}, buffers)

    # --- copies -------------------------------------------------------------------------------

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The live view; then, for wherever it cannot live, the still view, a picture and text.

        JupyterLab with our plugin takes the nbsight type and draws the live view or, without a
        kernel, the same view on the data kept here. Other notebooks take the widget view; GitHub,
        nbconvert and PDF the picture; a terminal the text. There is no HTML on purpose: it would be
        taken before the picture by pages that strip its colours.
        """
        data, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})
        still: dict[str, Any] = {"view": self.view}
        if len(self.data) <= STILL_LIMIT:
            still["header"] = {**self.header, "live": False}
            still["data"] = base64.b64encode(self.data).decode()
        data[STILL_MIME] = still
        data["image/png"] = base64.b64encode(self.still_png()).decode()
        data["text/plain"] = self.still_text()
        return data, metadata

    def to_html(self) -> str:
        """The view as one self-contained page: no kernel, no network; hover, keys and table work."""
        return standalone_page(
            title=f"{type(self).__name__} · nbsight",
            module=read_module(self.view),
            state={"header": {**self.header, "live": False}, "selection": None},
            data=self.data,
        )


def describe(error: BaseException) -> dict[str, str]:
    """An exception as the page shows it: its type, its message and where it was raised."""
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return {"type": type(error).__name__, "message": str(error), "traceback": "".join(lines)}
