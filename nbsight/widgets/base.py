"""What every widget has: data for its view, requests from it, and copies that outlive the kernel."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import anywidget
import traitlets

from nbsight.display.figures import figure_png, figure_svg
from nbsight.widgets.code import fill
from nbsight.widgets.copies import csv_text, written
from nbsight.widgets.desk import Command, Desk
from nbsight.widgets.page import standalone_page
from nbsight.widgets.payload import Payload
from nbsight.widgets.staleness import watch
from nbsight.widgets.worker import Job, Worker

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["STILL_MIME", "Command", "Widget"]

# A notebook keeps this beside the live view; js/src/lab draws it when the kernel is gone.
STILL_MIME = "application/vnd.nbsight.view+json"
STILL_LIMIT = 2_000_000  # bytes of data kept in the notebook; beyond it the picture alone is kept

STATIC = Path(__file__).parent.parent / "static"


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


def _from_page(value: Any, widget: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # JSON has lists only


class Widget(anywidget.AnyWidget):
    """Base of all widgets.

    Attributes:
        selection: The chosen place, or None. Assigning it moves the view.
        state: How the view is set: what is drawn, toggles, pins. Assign a dictionary of some of its keys.
        stale: Why what is shown may no longer be so; empty while nothing is known against it.
    """

    view = ""  # folder in js/src/widgets and name of the built module

    #: What the numbers of a selection are.
    axes: ClassVar[tuple[str, ...]] = ("layer", "position")

    #: What `state` may hold, with what it holds at first.
    defaults: ClassVar[Mapping[str, Any]] = {}

    # A trait of our own: anywidget's would need the file when the class is made, that is on import.
    _esm = traitlets.Unicode().tag(sync=True)
    header = traitlets.Dict().tag(sync=True)
    data = traitlets.Bytes().tag(sync=True)
    selection: Any = traitlets.Any(None, allow_none=True).tag(sync=True, from_json=_from_page)
    state: Any = traitlets.Dict().tag(sync=True)
    stale = traitlets.Unicode().tag(sync=True)

    def __init__(self, payload: Payload, worker: Worker, *, owner: Any = None, **kwargs: Any) -> None:
        state = {**self.defaults, **dict(kwargs.pop("state", None) or {})}
        super().__init__(
            header=payload.header, data=payload.data, state=state, _esm=read_module(self.view), **kwargs
        )
        self._desk = Desk(self.send_reply, {"html": self._html_of, **self.commands()}, worker)
        self.on_msg(self._desk.receive)
        watch(self, owner)

    def commands(self) -> Mapping[str, Command]:
        """What the page may ask for, by name."""
        return {}

    def figure(self) -> Figure:
        """A still picture of what is shown, for paper and for pages that run nothing."""
        raise NotImplementedError(f"{type(self).__name__} has no figure().")

    def still_picture(self) -> bytes | None:
        """The picture that a notebook keeps of what is shown, as PNG; None where it keeps none."""
        return figure_png(self.figure())

    def still_text(self) -> str:
        """The result as plain text."""
        raise NotImplementedError(f"{type(self).__name__} has no still_text().")

    def kept(self) -> dict[str, Any]:
        """What a copy needs beside the header, because the page alone knows it so far."""
        return {}

    def table(self) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        """The numbers on show: names of columns, and rows."""
        raise NotImplementedError(f"{type(self).__name__} has no table().")

    def chosen(self, selection: Any) -> Any:
        """A selection made uniform.

        Raises:
            IndexError: there is no such place.
        """
        return selection

    @traitlets.validate("selection")
    def _check_selection(self, proposal: Any) -> Any:
        if proposal["value"] is None:
            return None
        try:
            return self.chosen(tuple(proposal["value"]))
        except (IndexError, TypeError, ValueError) as error:
            raise traitlets.TraitError(str(error)) from None

    @traitlets.validate("state")
    def _check_state(self, proposal: Any) -> dict[str, Any]:
        unknown = sorted(set(proposal["value"]) - set(self.defaults))
        if unknown:
            known = ", ".join(sorted(self.defaults)) or "nothing"
            raise traitlets.TraitError(
                f"{type(self).__name__}.state has no {unknown[0]!r}; it holds {known}."
            )
        return {**self.defaults, **(self._trait_values.get("state") or {}), **proposal["value"]}

    def send_reply(self, message: dict[str, Any], buffers: list[bytes]) -> None:
        """One message to the page; on any thread."""
        self.send(message, buffers)

    def show(self, payload: Payload) -> None:
        """Put other data into the view."""
        with self.hold_sync():
            self.data = payload.data
            self.header = payload.header

    # --- code and copies ----------------------------------------------------------------------

    def to_code(self) -> str:
        """A cell that computes what is shown, given the model under the name it has."""
        code: str = self.header["code"]
        at = self.header.get("code_at")
        if self.selection is None or not at:
            return code
        return f"{code}\n{fill(at, dict(zip(self.axes, self.selection, strict=True)))}"

    def to_html(self, path: str | Path | None = None) -> str:
        """The view as one self-contained page: no kernel, no network; hover, keys and table work.

        Args:
            path: Where to write it as well.
        """
        page = standalone_page(
            title=f"{type(self).__name__} · nbsight",
            module=read_module(self.view),
            state={
                "header": {**self.header, **self.kept(), "live": False},
                "selection": self.selection,
                "state": self.state,
                "stale": self.stale,
            },
            data=self.data,
        )
        return written(path, page)

    def to_png(self, path: str | Path | None = None, *, dpi: int = 160) -> bytes:
        """A picture of what is shown.

        Args:
            path: Where to write it as well.
            dpi: Pixels in an inch.
        """
        return written(path, figure_png(self.figure(), dpi=dpi))

    def to_svg(self, path: str | Path | None = None) -> str:
        """The same picture as vectors."""
        return written(path, figure_svg(self.figure()))

    def to_csv(self, path: str | Path | None = None) -> str:
        """The numbers on show, one row for each place."""
        return written(path, csv_text(*self.table()))

    def _html_of(self, params: dict[str, Any], job: Job) -> tuple[dict[str, Any], list[bytes]]:
        return {}, [self.to_html().encode()]

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
            still["header"] = {**self.header, **self.kept(), "live": False}
            still["data"] = base64.b64encode(self.data).decode()
            still["state"] = self.state
            still["selection"] = self.selection
        data[STILL_MIME] = still
        picture = self.still_picture()
        if picture is not None:
            data["image/png"] = base64.b64encode(picture).decode()
        data["text/plain"] = self.still_text()
        return data, metadata
