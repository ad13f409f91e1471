"""A run that is held open: step through a forward by hand, over as many cells as it takes.

    run = model.start("The capital of France is")
    hidden = run.until("transformer.h.3.output")     # or run.until(model.transformer.h[3].output)
    model.transformer.h[3].output[0][:, -1] = 0      # while it stands there, edit as in a trace
    run.step()                                       # to the end of the next block
    run.here                                         # where it stands, the value, its shape
    logits = run.finish()

Several runs may be open at once, each with its own greenlet. An open run that is forgotten closes
itself. A run belongs to the thread that started it.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from nbsight.core.sites import describe
from nbsight.errors import InputError, OutOfOrderError

if TYPE_CHECKING:
    from nbsight.core.envoy import Envoy
    from nbsight.core.tracer import Tracer

__all__ = ["Here", "PausedRun", "any_held", "held_tracer"]


@dataclass(frozen=True, eq=False)
class Here:
    """Where a run stands.

    Args:
        path: The module, as in `transformer.h.3`.
        kind: "output" or "input".
        value: The value that the model will go on with.
    """

    path: str
    kind: str
    value: Any

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The value's shape, when it has one."""
        shape = getattr(self.value, "shape", None)
        return None if shape is None else tuple(shape)

    def __repr__(self) -> str:
        return f"{self.path}.{self.kind}: {describe(self.value)}"


# The open runs, the one used last at the end.
_held: list[weakref.ref[PausedRun]] = []


class PausedRun:
    """One forward, held open. Made by `model.start(...)`; also a context manager and iterable."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._thread = threading.get_ident()
        self._stops = _blocks(tracer.root._module)
        _held.append(weakref.ref(self, _forget))

    # -- moving --------------------------------------------------------------------------------

    def until(self, target: Any) -> Any:
        """Go on to a place and return its value.

        Args:
            target: A path such as "transformer.h.3.output", or the place itself, written as in a
                trace: `run.until(model.transformer.h[3].output)`.
        """
        self._use()
        if not isinstance(target, str):
            return target  # reading the place has already taken the run there
        envoy, what = self._find(target)
        return self._tracer.read(envoy, what, sys._getframe(1))

    def step(self, *, into: bool = False) -> Here | None:
        """Go on to the end of the next block and say where the run stands; None at the end.

        Args:
            into: Stop at the next submodule's output, however small, and not only at blocks.
        """
        self._use()
        run = self._tracer.run
        assert run is not None
        if run.ended:
            return None
        root = self._tracer.root
        modules = list(root._module.modules()) if into else [*self._stops, root._module]
        for module in modules:
            run.open(root._at(root._paths[id(module)])._gates())
            run.want((module, "output"))
        try:
            run.advance()
        finally:
            for module in modules:
                run.unwant((module, "output"))
        return self.here

    @property
    def here(self) -> Here | None:
        """Where the run stands; None before its first stop and after its end."""
        run = self._tracer.run
        if run is None or run.site is None:
            return None
        site, root = run.site, self._tracer.root
        view = site.view(self._tracer.driver)
        path = run.name(site.module)
        if isinstance(site.module, nn.Module):
            envoy: Envoy = root._at(root._paths[id(site.module)])
            view = envoy._show(site.kind, view if site.kind == "output" else view[0])
            site.show(self._tracer.driver, site.shown_to(self._tracer.driver, view))
        return Here(path, site.kind, view)

    def finish(self) -> Any:
        """Run to the end, return what the model returned, and close."""
        self._use()
        run = self._tracer.run
        assert run is not None
        try:
            return self._tracer.root._show("output", run.finish())
        finally:
            self.close()

    def close(self) -> None:
        """Give the run up; the rest of the forward is not computed. Safe to call twice."""
        _forget_run(self)
        if threading.get_ident() == self._thread:
            self._tracer._leave()
        elif self._tracer.run is not None:
            self._tracer.run.abandon()

    @property
    def is_open(self) -> bool:
        """Whether the forward can still go on."""
        return not self._tracer.done and self._tracer.run is not None and not self._tracer.run.ended

    # -- the forms of use ----------------------------------------------------------------------

    def __enter__(self) -> PausedRun:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __iter__(self) -> Iterator[Here]:
        """Every block's output in turn: `for here in run: ...`; the run ends with the loop."""
        while (here := self.step()) is not None:
            yield here
        self.close()

    def __del__(self) -> None:
        if not sys.is_finalizing() and self.is_open:
            self.close()

    def __repr__(self) -> str:
        if not self.is_open:
            return "run: closed"
        here = self.here
        return "run: before its first stop" if here is None else f"run: at {here!r}"

    # -- inside --------------------------------------------------------------------------------

    def _use(self) -> None:
        if self._tracer.done:
            raise OutOfOrderError("this run is closed; start another: `run = model.start(prompt)`.")
        if threading.get_ident() != self._thread:
            raise InputError("a run can only go on in the thread that started it; start it where it is used.")
        _forget_run(self)
        _held.append(weakref.ref(self, _forget))

    def _find(self, target: str) -> tuple[Envoy, str]:
        path, _, what = target.replace("[", ".").replace("]", "").removeprefix("model.").rpartition(".")
        if what not in ("output", "input", "inputs"):
            raise InputError(
                f"run.until takes a place with its value, such as "
                f'"{target}.output"; `{what}` is none of output, input, inputs.'
            )
        return self._tracer.root.get(path) if path and path != "model" else self._tracer.root, what


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The entries of the outermost lists of modules; without lists, the children."""
    found: list[nn.Module] = []

    def look(parent: nn.Module) -> None:
        for child in parent.children():
            if isinstance(child, nn.ModuleList):
                found.extend(child)
            else:
                look(child)

    look(module)
    return found or list(module.children())


def _forget(reference: weakref.ref[PausedRun]) -> None:
    if reference in _held:
        _held.remove(reference)


def _forget_run(run: PausedRun) -> None:
    _held[:] = [reference for reference in _held if reference() not in (run, None)]


def held_tracer(family: object) -> Any:
    """The tracer of the open run of this model that was used last, in this thread."""
    for reference in reversed(_held):
        run = reference()
        if run is None or not run.is_open or run._thread != threading.get_ident():
            continue
        if run._tracer.root._family is family:
            return run._tracer
    return None


def any_held() -> bool:
    """Whether a run is held open in this thread."""
    return any(
        run is not None and run._thread == threading.get_ident()
        for run in (reference() for reference in _held)
    )
