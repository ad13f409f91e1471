"""`%load_ext nbsight`: results show themselves as widgets, and completion lists children first."""

from __future__ import annotations

from typing import Any

from nbsight.core import capture
from nbsight.notebook.completion import envoy_matcher
from nbsight.notebook.timed import timed_cell_finder

__all__ = ["load_ipython_extension", "unload_ipython_extension"]

# What was added to which shell, so that unloading takes off exactly that.
_added: dict[int, dict[str, Any]] = {}


def load_ipython_extension(ip: Any) -> None:
    """Called by `%load_ext nbsight`; a second call changes nothing."""
    if id(ip) in _added:
        return
    matcher = envoy_matcher(ip.user_ns)
    ip.Completer.custom_matchers.append(matcher)
    # By name: a notebook that shows no lens never imports widgets.
    ip.display_formatter.mimebundle_formatter.for_type_by_name("nbsight.results.lens", "Lens", lens_bundle)
    # A page that strips colours would take HTML before the widget's picture.
    ip.display_formatter.formatters["text/html"].for_type_by_name("nbsight.results.lens", "Lens", no_html)
    pngs = ip.display_formatter.formatters["image/png"]
    # Figures of `result.plot()` are made without pyplot, which is what lets a notebook draw others.
    draws = pngs.for_type_by_name("matplotlib.figure", "Figure") is None
    if draws:
        pngs.for_type_by_name("matplotlib.figure", "Figure", figure_bytes)
    finder = timed_cell_finder(ip)
    capture.finders.append(finder)
    _added[id(ip)] = {"matcher": matcher, "finder": finder, "draws": draws}


def unload_ipython_extension(ip: Any) -> None:
    """Called by `%unload_ext nbsight`: everything is as before."""
    added = _added.pop(id(ip), None)
    if added is None:
        return
    capture.finders.remove(added["finder"])
    if added["matcher"] in ip.Completer.custom_matchers:
        ip.Completer.custom_matchers.remove(added["matcher"])
    if added["draws"]:
        _take_off(ip.display_formatter.formatters["image/png"], "matplotlib.figure", "Figure", figure_bytes)
    _take_off(ip.display_formatter.mimebundle_formatter, "nbsight.results.lens", "Lens", lens_bundle)
    _take_off(ip.display_formatter.formatters["text/html"], "nbsight.results.lens", "Lens", no_html)


def _take_off(formatter: Any, module: str, name: str, printer: Any) -> None:
    """Undo `for_type_by_name`, whether or not the type has been met since."""
    if formatter.deferred_printers.get((module, name)) is printer:
        formatter.deferred_printers.pop((module, name))
    for type_ in list(formatter.type_printers):
        if formatter.type_printers[type_] is printer:
            formatter.pop(type_)


def figure_bytes(figure: Any) -> bytes:
    """A matplotlib figure as the last expression of a cell."""
    from nbsight.display.figures import figure_png

    return figure_png(figure, dpi=92)


def no_html(lens: Any) -> None:
    """A lens is shown by its widget, whose copies are a picture and text."""


def lens_bundle(lens: Any, include: Any = None, exclude: Any = None) -> Any:
    """A lens as the last expression of a cell: the widget, with its copies."""
    from nbsight.widgets.lens import LensWidget

    return LensWidget(lens)._repr_mimebundle_()
