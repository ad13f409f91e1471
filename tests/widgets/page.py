"""The other end of the comm: asks a widget, and waits for the reply."""

from __future__ import annotations

import queue
from typing import Any


class Page:
    def __init__(self, widget: Any) -> None:
        self.widget = widget
        self.replies: queue.Queue = queue.Queue()
        self.progress: list = []
        widget.send = self._get

    def _get(self, content, buffers=None) -> None:
        if content["kind"] == "progress":
            self.progress.append((content, buffers))
        else:
            self.replies.put((content, buffers))

    def say(self, message) -> None:
        self.widget._handle_custom_msg(message, [])

    def ask(self, command, request="r1", **params):
        self.say({"kind": "request", "id": request, "command": command, "params": params})
        return self.replies.get(timeout=60)
