"""`%load_ext nbsight` and `%unload_ext nbsight`: what a notebook gets, and getting rid of it again."""

from __future__ import annotations

from typing import Any

from nbsight.core import alive, capture, in_cell, jobs
from nbsight.models.provenance import version_of
from nbsight.notebook.completion import envoy_matcher
from nbsight.notebook.displays import Displays
from nbsight.notebook.folding import Folding
from nbsight.notebook.hover import described
from nbsight.notebook.job_cell import present
from nbsight.notebook.keys import Keys
from nbsight.notebook.magics import NbsightMagics
from nbsight.notebook.receipts import Receipts
from nbsight.notebook.session import TARGET, Session
from nbsight.notebook.timed import timed_cell_finder
from nbsight.widgets.loops import let_through

__all__ = ["Loaded", "load_ipython_extension", "unload_ipython_extension"]

# What was added to which shell, so that unloading takes off exactly that.
_loaded: dict[int, Loaded] = {}


def load_ipython_extension(ip: Any) -> None:
    """Called by `%load_ext nbsight`; a second call changes nothing."""
    if id(ip) not in _loaded:
        loaded = Loaded(ip)
        loaded.load()
        _loaded[id(ip)] = loaded


def unload_ipython_extension(ip: Any) -> None:
    """Called by `%unload_ext nbsight`: everything is as before."""
    loaded = _loaded.pop(id(ip), None)
    if loaded is not None:
        loaded.unload()


class Loaded:
    """Everything that the extension has put into one shell.

    Args:
        ip: The shell.
    """

    def __init__(self, ip: Any) -> None:
        self._ip = ip
        self.version = version_of("nbsight")
        self.keys = Keys()
        self.displays = Displays(ip)
        self.folding = Folding(ip)
        self.magics = NbsightMagics(ip, self)
        self.receipts = Receipts(ip, lambda: self.magics.receipts)
        self.session: Session | None = None
        self._matcher = envoy_matcher(ip.user_ns)
        self._finder = timed_cell_finder(ip)
        #: The magics of these names that were there before.
        self._covered: dict[tuple[str, str], Any] = {}

    def load(self) -> None:
        """Put everything into the shell."""
        ip = self._ip
        ip.Completer.custom_matchers.append(self._matcher)
        # another's hook for plain text keeps its place
        ip.inspector.mime_hooks.setdefault("text/plain", described)
        capture.finders.append(self._finder)
        alive.ended.append(self.receipts.note)
        for kind, named in self.magics.magics.items():
            for name in named:
                known = ip.magics_manager.magics[kind].get(name)
                if known is not None:
                    self._covered[kind, name] = known
        ip.register_magics(self.magics)
        self.magics.observe(lambda change: self.apply(), ["fold_errors"])
        self.displays.load()
        self.apply()
        if getattr(ip, "kernel", None) is not None:
            self._open_session()
        ip.events.register("post_run_cell", self._after_cell)

    def apply(self) -> None:
        """Let the settings be what they are."""
        self.folding.unload()
        if self.magics.fold_errors:
            self.folding.load()

    def _open_session(self) -> None:
        from comm import create_comm

        # Made without a target it would open before anybody listens to it.
        comm = create_comm(target_name=TARGET, primary=False)
        let_through(comm)
        self.session = Session(self._ip, self.keys, self.version, comm)
        comm.open(self.session.hello())
        jobs.listeners.append(self.session.note_job)
        in_cell.presenters.append(present)
        alive.ended.append(self.session.prompts.note)

    def _after_cell(self, result: Any = None) -> None:
        """What is done when a cell is over; no failure here may become one of the cell's."""
        self.receipts.after_cell(result)
        self.folding.after_cell(result)
        if self.session is not None:
            self.session.send_changes()

    def where(self) -> str:
        """Where it is loaded, in words."""
        if self.session is not None:
            return "in a notebook, with the sidebar"
        return "in a terminal" if getattr(self._ip, "kernel", None) is None else "in a notebook"

    def unload(self) -> None:
        """Take everything off the shell."""
        ip = self._ip
        ip.events.unregister("post_run_cell", self._after_cell)
        if self.session is not None:
            in_cell.presenters.remove(present)
            jobs.listeners.remove(self.session.note_job)
            alive.ended.remove(self.session.prompts.note)
            self.session.close()
            self.session = None
        self.folding.unload()
        self.displays.unload()
        self._take_off_magics()
        alive.ended.remove(self.receipts.note)
        capture.finders.remove(self._finder)
        if ip.inspector.mime_hooks.get("text/plain") is described:
            del ip.inspector.mime_hooks["text/plain"]
        if self._matcher in ip.Completer.custom_matchers:
            ip.Completer.custom_matchers.remove(self._matcher)

    def _take_off_magics(self) -> None:
        manager = self._ip.magics_manager
        for kind, named in self.magics.magics.items():
            for name in named:
                present = manager.magics[kind].get(name)
                # whoever has put another magic in its place since keeps it
                if getattr(present, "__self__", None) is self.magics:
                    manager.magics[kind].pop(name)
                    if (kind, name) in self._covered:
                        manager.magics[kind][name] = self._covered[kind, name]
        manager.registry.pop(type(self.magics).__name__, None)
        if self.magics in self._ip.configurables:
            self._ip.configurables.remove(self.magics)
