"""A shell with a kernel's comm, without a kernel: what goes out is kept, what comes in is put in."""

from __future__ import annotations

import time

import comm
import pytest
from IPython.core.interactiveshell import InteractiveShell

from nbsight.core import alive, saving
from nbsight.notebook import extension
from nbsight.notebook.session import TARGET


class Comm:
    """Both ends of a comm in one hand."""

    def __init__(self, *args, **kwargs):
        self.kwargs = kwargs
        self.sent = []
        self.is_closed = False
        self.opened = None

    def on_msg(self, callback):
        self.receive = callback

    def open(self, data):
        self.opened = data
        self.sent.append(data)

    def send(self, data):
        assert not self.is_closed
        self.sent.append(data)

    def close(self):
        self.is_closed = True

    def ask(self, op, **data):
        """Send a request and return the reply to it."""
        before = len(self.sent)
        self.receive({"content": {"data": {"op": op, "id": "question-1", **data}}})
        until = time.monotonic() + 60
        while time.monotonic() < until:  # what runs a model is answered by its worker
            for message in self.sent[before:]:
                if message["op"] == "reply":
                    return message
            time.sleep(0.01)
        raise AssertionError(f"no reply to {op}")

    def get(self):
        """The whole state, asked for."""
        self.receive({"content": {"data": {"op": "get"}}})
        return self.sent[-1]


class Kernel:
    """Marks a shell as a notebook's."""

    io_loop = None


@pytest.fixture
def plain():
    """A terminal's shell, the extension not loaded."""
    shell = InteractiveShell()
    for others in (alive.models, alive.runs, saving._saved):  # what other tests have left
        others.clear()
    yield shell
    extension.unload_ipython_extension(shell)


@pytest.fixture
def notebook(plain, monkeypatch):
    """A shell as in a notebook with the extension loaded; `notebook.comm` is its comm."""
    comms = []

    others = comm.create_comm

    def create(*args, **kwargs):
        if kwargs.get("target_name") != TARGET:  # a widget's own
            return others(*args, **kwargs)
        comms.append(Comm(*args, **kwargs))
        return comms[-1]

    monkeypatch.setattr("comm.create_comm", create)
    monkeypatch.setattr(plain, "kernel", Kernel(), raising=False)
    extension.load_ipython_extension(plain)
    plain.comm = comms[-1]
    return plain
