"""The inspector below another view, on the activation that was chosen there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nbsight.widgets.desk import Answer, Command
from nbsight.widgets.inspection import Inspection
from nbsight.widgets.page import standalone_page
from nbsight.widgets.worker import Job

__all__ = ["Inspecting"]

#: What a view asks with, and the inspection that it is to get with the place in it to be chosen.
Make = Callable[[Mapping[str, Any]], tuple[Inspection, tuple[int, ...] | None]]


class Inspecting:
    """Answers what js/src/widgets/inspector/below.ts asks; everything runs on the view's own worker.

    Args:
        make: Makes an inspection of what was chosen.
        read_module: Gives the built module of a view, for pages of their own.
    """

    def __init__(self, make: Make, read_module: Callable[[str], str]) -> None:
        self._make, self._read_module = make, read_module
        self.inspection: Inspection | None = None

    def commands(self) -> dict[str, Command]:
        """To be put among the widget's own."""
        return {"inspect": self._inspect, "inspect:tile": self._tile, "inspect:html": self._html}

    def _inspect(self, params: dict[str, Any], job: Job) -> Answer:
        """Another activation, or another tensor or module of the one that is open."""
        place = None
        if "path" in params:
            inspection = self._open()
            path = str(params["path"])
            inspection.open(path, inspection.fetch(path))
        else:
            inspection, place = self._make(params)
        self.inspection = inspection
        payload = inspection.payload()
        result = {"header": payload.header, "state": inspection.first_state(), "selection": place}
        return result, [payload.data]

    def _tile(self, params: dict[str, Any], job: Job) -> Answer:
        return self._open().tile(params)

    def _html(self, params: dict[str, Any], job: Job) -> Answer:
        inspection = self._open()
        payload = inspection.payload()
        state = {
            "header": {**payload.header, "live": False},
            "selection": None,
            "state": inspection.first_state(),
            "stale": "",
        }
        module = self._read_module("inspector")
        page = standalone_page(
            title=f"{inspection.path} · nbsight", module=module, state=state, data=payload.data
        )
        return {}, [page.encode()]

    def _open(self) -> Inspection:
        if self.inspection is None:
            raise LookupError("no activation is open here; choose a place in the view first.")
        return self.inspection
