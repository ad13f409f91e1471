"""The kernel's end of the sidebar: one comm, opened by `%load_ext nbsight`.

The kernel opens it (a page that opened one to a kernel without nbsight would log an error there), and
any number of pages talk on it. Messages, version 1; each from the kernel has `seq`, one more than the
one before, so that a page that missed one asks for the whole:

    kernel -> page   {op: "state", protocol, version, seq, state}    everything
                     {op: "changed", seq, sections: {name: value}}   sections that are different now
                     {op: "job", seq, job}                           at most ten times a second for each
                     {op: "reply", id, ok, result | error}           to the page that asked
                     {op: "bye", seq}                                the extension was unloaded
    page -> kernel   {op: "get"}
                     {op: name, id, ...}                             see `nbsight.notebook.requests`

A page never sends code. Handlers may run on any thread and while a cell runs (`widgets/worker.py`).
"""

from __future__ import annotations

import threading
from typing import Any

from nbsight.core import jobs
from nbsight.core.job_rows import Pace, job_row
from nbsight.notebook import state
from nbsight.notebook.keys import Keys
from nbsight.notebook.opening import Prompts, close
from nbsight.notebook.requests import REQUESTS

__all__ = ["PROTOCOL", "TARGET", "Session"]

TARGET = "nbsight.session"
PROTOCOL = 1


class Session:
    """The state that was sent last, and the comm on which changes of it go.

    Args:
        ip: The shell.
        keys: What the page calls things.
        version: The package's.
        comm: A comm of ipykernel, not opened yet by anybody else; the tests give their own.
    """

    def __init__(self, ip: Any, keys: Keys, version: str, comm: Any) -> None:
        self.ip, self.keys, self.version = ip, keys, version
        self._comm = comm
        self._lock = threading.RLock()
        self._seq = 0
        self._sent: dict[str, Any] = {}
        self._pace = Pace(self._tell_job)
        self._is_open = True
        #: The widgets that stand in tabs beside the notebook, by the id that pages know them by.
        self.opened: dict[str, Any] = {}
        self.prompts = Prompts()
        comm.on_msg(self._receive)

    # -- what goes out -------------------------------------------------------------------------

    def hello(self) -> dict[str, Any]:
        """The whole state, as a message."""
        with self._lock:
            self._sent = state.sections(self.ip, self.keys)
            self._seq += 1
            return {
                "op": "state",
                "protocol": PROTOCOL,
                "version": self.version,
                "seq": self._seq,
                "state": {**self._sent, "jobs": [job_row(job) for job in jobs.jobs()]},
            }

    def send_changes(self, result: Any = None) -> None:
        """Send the sections that are different from what was sent last (also after every cell)."""
        with self._lock:
            if not self._is_open:
                return
            now = state.sections(self.ip, self.keys)
            changed = {name: value for name, value in now.items() if value != self._sent.get(name)}
            if set(changed) == {"memory"} and _is_noise(changed["memory"], self._sent.get("memory")):
                return
            self._sent = now
            if changed:
                self._send({"op": "changed", "sections": changed})

    def note_job(self, job: jobs.Job) -> None:
        """Tell of a job, at once if it began or ended, else ten times a second at most."""
        if self._is_open:
            self._pace.note(job)

    def _tell_job(self, job: jobs.Job) -> None:
        with self._lock:
            if self._is_open:
                self._send({"op": "job", "job": job_row(job)})

    def _send(self, message: dict[str, Any]) -> None:
        self._seq += 1
        self._comm.send({**message, "seq": self._seq})

    # -- what comes in -------------------------------------------------------------------------

    def _receive(self, message: Any) -> None:
        data = message.get("content", {}).get("data")
        if not isinstance(data, dict):
            return
        name = data.get("op")
        if name == "get":
            with self._lock:
                self._comm.send(self.hello())
            return
        key = data.get("id")
        if not isinstance(key, str):
            return
        request = REQUESTS.get(name) if isinstance(name, str) else None
        if request is None:
            known = ", ".join(sorted(REQUESTS))
            self._answer(key, error=LookupError(f"this kernel does not know {name!r}; it knows {known}."))
        elif request.waits_for_cell:
            # the user's names are changed between two cells and never under one
            self._between_cells(lambda: self._run(key, request.act, data))
        elif request.runs_model:
            self._on_worker(lambda: self._run(key, request.act, data), data)
        else:
            self._run(key, request.act, data)

    def _run(self, key: str, act: Any, data: dict[str, Any]) -> None:
        try:
            result = act(self, data)
        except Exception as error:  # whatever it was, the page is waiting and shows it
            self._answer(key, error=error)
        else:
            self._answer(key, result=result)

    def _answer(self, key: str, *, result: Any = None, error: BaseException | None = None) -> None:
        if not self._is_open:
            return
        if error is None:
            self._comm.send({"op": "reply", "id": key, "ok": True, "result": result})
        else:
            text = str(error.args[0]) if isinstance(error, LookupError) and error.args else str(error)
            self._comm.send(
                {"op": "reply", "id": key, "ok": False, "error": text, "type": type(error).__name__}
            )

    def _on_worker(self, act: Any, data: dict[str, Any]) -> None:
        from nbsight.widgets.worker import Job, worker_for

        worker_for(self.keys.find(data.get("model")) or self).submit(act, Job())

    def _between_cells(self, act: Any) -> None:
        loop = getattr(getattr(self.ip, "kernel", None), "io_loop", None)
        if loop is None or threading.current_thread() is threading.main_thread():
            act()
        else:
            loop.add_callback(act)

    def close(self) -> None:
        """Say goodbye and close the comm."""
        with self._lock:
            if self._is_open:
                self._send({"op": "bye"})
                self._is_open = False
                self._pace.stop()
                for widget in self.opened.values():
                    close(widget)
                self.opened.clear()
                self._comm.close()


def _is_noise(now: Any, before: Any) -> bool:
    """Whether nothing but the size of the process is different, and that by less than a tenth."""
    if before is None or {**now, "process": 0} != {**before, "process": 0}:
        return False
    return abs((now["process"] or 0) - (before["process"] or 0)) < 0.1 * (before["process"] or 1)
