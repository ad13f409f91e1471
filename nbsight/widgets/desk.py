"""Questions from a page and their answers, whatever the widget.

A question is the message `{kind: "request", id, command, params}`. While it is worked on there may be
`{kind: "progress", id, result}`; then it is always answered, by `{kind: "reply", id, ok: true, result}`
and buffers, or by `ok: false` and what went wrong; except when the page took it back with
`{kind: "cancel", id}`.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Generator, Mapping
from typing import Any

from nbsight.widgets.worker import Job, Worker

__all__ = ["Answer", "Command", "Desk", "Steps", "describe"]

Answer = tuple[dict[str, Any], list[bytes]]

# What a long command does between two of its steps: it gives what is known so far.
Steps = Generator[Answer, None, Answer]

# A command gets the page's parameters and its job; it returns JSON values and buffers. A long one is a
# generator: after each step other questions to the same model have their turn, and it can be taken back.
Command = Callable[[dict[str, Any], Job], "Answer | Steps"]

PAUSE = 0.1  # seconds between two messages of progress: more a second than a page can draw are lost


class Desk:
    """Takes questions on any thread, has them worked on by one, and sends what comes out.

    Args:
        send: Takes a message and its buffers to the page.
        commands: What may be asked.
        worker: Where it is worked on.
    """

    def __init__(
        self,
        send: Callable[[dict[str, Any], list[bytes]], None],
        commands: Mapping[str, Command],
        worker: Worker,
    ) -> None:
        self._send, self._commands, self._worker = send, commands, worker
        self.jobs: dict[str, Job] = {}

    def receive(self, _: Any, message: Any, buffers: Any) -> None:
        """Queue a question or take one back; on any thread, so nothing is computed here."""
        if not isinstance(message, dict) or not isinstance(message.get("id"), str):
            return
        key = message["id"]
        if message.get("kind") == "cancel":
            job = self.jobs.pop(key, None)
            if job is not None:
                job.cancel()
        elif message.get("kind") == "request":
            job = self.jobs[key] = Job()
            name, params = message.get("command"), message.get("params") or {}
            self._worker.submit(lambda: self._begin(key, job, name, params), job)

    def _begin(self, key: str, job: Job, name: Any, params: dict[str, Any]) -> None:
        try:
            if name not in self._commands:
                known = ", ".join(sorted(self._commands)) or "none"
                raise LookupError(f"there is no command {name!r} here; there are: {known}.")
            answer = self._commands[name](params, job)
        except Exception as error:  # whatever it was, the page is waiting and shows it in place
            self._fail(key, job, error)
            return
        if isinstance(answer, Generator):
            self._go_on(key, job, answer, 0.0)
        else:
            self._reply(key, job, answer)

    def _go_on(self, key: str, job: Job, steps: Steps, last: float) -> None:
        """One step, and the rest behind whatever else is queued."""
        try:
            result, buffers = next(steps)
        except StopIteration as end:
            self._reply(key, job, end.value)
            return
        except Exception as error:  # as above
            self._fail(key, job, error)
            return
        if job.cancelled:
            steps.close()
            return
        if time.monotonic() - last >= PAUSE:
            self._send({"kind": "progress", "id": key, "result": result}, buffers)
            last = time.monotonic()
        self._worker.submit(lambda: self._go_on(key, job, steps, last), job)

    def _reply(self, key: str, job: Job, answer: Answer) -> None:
        self.jobs.pop(key, None)
        if not job.cancelled:
            result, buffers = answer
            self._send({"kind": "reply", "id": key, "ok": True, "result": result}, buffers)

    def _fail(self, key: str, job: Job, error: Exception) -> None:
        self.jobs.pop(key, None)
        if not job.cancelled:
            self._send({"kind": "reply", "id": key, "ok": False, "error": describe(error)}, [])


def describe(error: BaseException) -> dict[str, str]:
    """An exception as the page shows it: its type, its message and where it was raised."""
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return {"type": type(error).__name__, "message": str(error), "traceback": "".join(lines)}
