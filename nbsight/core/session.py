"""Sessions: several traces that belong together."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from nbsight.core import context
from nbsight.core.backend import in_job
from nbsight.core.captured import Captured
from nbsight.core.displays import name_of

if TYPE_CHECKING:
    from nbsight.core.model import Model
    from nbsight.core.saving import Saved

__all__ = ["Session"]


class Session:
    """`with model.session(): ...`, a plain scope; with `remote=` its traces travel as one job.

    Attributes:
        saved: What was saved in it, with the record of each tensor.
    """

    #: No model runs in a session itself, so no envoy finds its trace here.
    root = None
    frame = None
    lent = False

    def __init__(self, model: Model, remote: Any = None, **options: Any) -> None:
        self.model = model
        self.remote = remote
        self.options = options
        self.saved: list[tuple[Any, Saved | None]] = []
        self.done = False
        self._captured: Captured | None = None

    def __enter__(self) -> Session:
        if self.remote and not in_job():
            frame = sys._getframe(1)
            self._captured = Captured(frame, "a remote session")
        else:
            context.enter(self)
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        if self._captured is None:
            self.done = True
            context.leave(self)
            if not in_job():  # a job's results are picked from what it saved
                self.saved = []
            return False
        if not self._captured.left(kind):
            return False
        self._captured.send(self.remote, self.model, "session", "", (), self.options, self)
        return True

    def __repr__(self) -> str:
        where = f", to travel to remote={self.remote!r}" if self.remote else ""
        state = "over" if self.done else f"{len(self.saved)} saved so far"
        return f"session of {name_of(self.model)}: {state}{where}"

    def note_saved(self, value: Any, record: Saved | None) -> None:
        """Remember that `value` was saved in this session."""
        self.saved.append((value, record))
        if record is not None:  # read from no run, as far as is known here
            record.origin = record.tokens = None
