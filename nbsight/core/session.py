"""Sessions: several traces that belong together."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from nbsight.core.captured import Captured

if TYPE_CHECKING:
    from nbsight.core.model import Model

__all__ = ["Session"]


class Session:
    """`with model.session(): ...`, a plain scope; with `remote=` its traces travel as one job."""

    def __init__(self, model: Model, remote: Any = None, **options: Any) -> None:
        self.model = model
        self.remote = remote
        self.options = options
        self._captured: Captured | None = None

    def __enter__(self) -> Session:
        if self.remote:
            frame = sys._getframe(1)
            self._captured = Captured(frame, "a remote session")
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        if self._captured is None:
            return False
        if not self._captured.left(kind):
            return False
        self._captured.send(self.remote, self.model, "session", "", (), self.options, self)
        return True
