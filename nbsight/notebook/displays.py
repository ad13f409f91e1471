"""Which results show themselves as which view, once the extension is loaded.

All by name: a notebook that shows no lens never imports its widget.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from nbsight.notebook.opening import VIEWS, inspector_of_saved, worth_a_map

__all__ = ["VIEWS", "Displays"]


def bundle_with(module: str, name: str) -> Callable[..., Any]:
    """A printer that shows a result as a widget, with the widget's copies."""

    def bundle(result: Any, include: Any = None, exclude: Any = None) -> Any:
        if not _has_view(result):
            return None
        return getattr(importlib.import_module(module), name)(result)._repr_mimebundle_()

    return bundle


def saved_bundle(value: Any, include: Any = None, exclude: Any = None) -> Any:
    """A saved tensor, or a dictionary of them, as a map with the text that it always had."""
    from IPython import get_ipython

    shell = get_ipython()
    # an ordinary value, and any value in a terminal, is shown as ever
    if shell is None or getattr(shell, "kernel", None) is None or not worth_a_map(value):
        return None
    data, metadata = inspector_of_saved(value)._repr_mimebundle_()
    return {**data, "text/plain": shell.display_formatter.formatters["text/plain"](value)}, metadata


def no_html(result: Any) -> Any:
    """A result that a widget shows has the widget's copies, a picture and text."""
    return None if _has_view(result) else result._repr_html_()


def _has_view(result: Any) -> bool:
    """Whether a widget is made for this very class: estimates of patches are no patches."""
    return (type(result).__module__, type(result).__name__) in VIEWS


def figure_bytes(figure: Any) -> bytes:
    """A matplotlib figure as the last expression of a cell."""
    from nbsight.display.figures import figure_png

    return figure_png(figure, dpi=92)


class Displays:
    """The printers that were put into one shell, so that unloading takes off exactly those.

    Args:
        ip: The shell.
    """

    def __init__(self, ip: Any) -> None:
        self._ip = ip
        self._put: list[tuple[Any, str, str, Any]] = []

    def load(self) -> None:
        """Let results show themselves."""
        formatter = self._ip.display_formatter
        for (module, name), view in VIEWS.items():
            self._add(formatter.mimebundle_formatter, module, name, bundle_with(*view))
            # A page that strips colours would take HTML before the widget's picture.
            self._add(formatter.formatters["text/html"], module, name, no_html)
        for module, name in (("torch", "Tensor"), ("builtins", "dict")):
            self._add(formatter.mimebundle_formatter, module, name, saved_bundle)
        # Figures of `result.plot()` are made without pyplot, which is what lets a notebook draw others.
        if formatter.formatters["image/png"].for_type_by_name("matplotlib.figure", "Figure") is None:
            self._add(formatter.formatters["image/png"], "matplotlib.figure", "Figure", figure_bytes)

    def _add(self, formatter: Any, module: str, name: str, printer: Any) -> None:
        formatter.for_type_by_name(module, name, printer)
        self._put.append((formatter, module, name, printer))

    def unload(self) -> None:
        """Let them show what they showed before."""
        for formatter, module, name, printer in self._put:
            # whether or not the type has been met since
            if formatter.deferred_printers.get((module, name)) is printer:
                formatter.deferred_printers.pop((module, name))
            for type_ in list(formatter.type_printers):
                if formatter.type_printers[type_] is printer:
                    formatter.pop(type_)
        self._put.clear()
