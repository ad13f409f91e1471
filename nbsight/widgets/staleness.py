"""Whether a model is still what it was when a view was made of it.

Looked at after each cell, where there is IPython, and cheap: torch counts in-place changes of every
parameter, and replacing one moves its data. (Whether a cell's text has changed only the page knows.)
"""

from __future__ import annotations

import sys
import weakref
from typing import Any

__all__ = ["check", "mark", "watch"]

_watched: weakref.WeakSet[Any] = weakref.WeakSet()
_shells: weakref.WeakSet[Any] = weakref.WeakSet()


def mark(model: Any) -> tuple[int, tuple[int, ...], tuple[int, ...]] | None:
    """What changes whenever a model's weights or its edits do; None for what is no model."""
    module = getattr(model, "_model", None)
    if module is None or not hasattr(module, "parameters"):
        return None
    parameters = list(module.parameters())
    edits = tuple(id(edit) for edit in getattr(model, "_edits", ()) if getattr(edit, "enabled", True))
    versions = sum(getattr(parameter, "_version", 0) for parameter in parameters)
    return versions, tuple(parameter.data_ptr() for parameter in parameters), edits


def watch(widget: Any, owner: Any) -> None:
    """Keep a widget's `stale` true to its model from now on.

    Args:
        widget: It is not kept alive by this.
        owner: The model, which is not kept alive either; None for none.
    """
    first = None if owner is None else mark(owner)
    if first is None:
        return
    widget._marked = weakref.ref(owner), first
    _watched.add(widget)
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None and shell not in _shells:
        shell.events.register("post_run_cell", _after_cell)
        _shells.add(shell)


def check(widget: Any) -> None:
    """Look at a widget's model once."""
    reference, first = widget._marked
    owner = reference()
    if owner is None:
        widget.stale = "the model is gone"
        return
    now = mark(owner)
    if now == first:
        widget.stale = ""
    elif now is not None and now[:2] == first[:2]:
        widget.stale = "the model's edits have changed since"
    else:
        widget.stale = "the model's weights have changed since"


def _after_cell(*_: Any) -> None:
    for widget in list(_watched):
        if widget.comm is not None:
            check(widget)
