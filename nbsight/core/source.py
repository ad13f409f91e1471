"""The operations inside a forward, as the user sees them: `module.source.split_1.output`.

A `Source` stands for one function as it is called from one place: the forward of a module, or the
function that an operation calls. Its `Operation`s are places like modules: they have a path, an
input and an output, obey the same order and are served by the same run. While a run needs a
`Source`, the run puts the function's rewritten code (source_rewrite.py) in the place of the
function, for itself alone; nothing is changed on the module.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator
from sys import _getframe
from types import FrameType, FunctionType
from typing import Any

from greenlet import getcurrent
from torch import nn

from nbsight.core.callee import callee, is_compiled
from nbsight.core.context import tracer_of
from nbsight.core.gates import gate_of
from nbsight.core.greenlets import Carrier
from nbsight.core.held import held_tracer
from nbsight.core.source_peel import Peeled, peel
from nbsight.core.source_resolve import resolve
from nbsight.core.source_rewrite import Listing, Named, listing_of
from nbsight.core.source_text import around, listed
from nbsight.errors import OutsideTraceError, PathError, SourceNotAvailable

__all__ = ["Operation", "Source", "as_code", "source_of"]


def source_of(envoy: Any, frame: FrameType) -> Source:
    """The operations in the forward of an envoy's module.

    Args:
        envoy: The module's envoy.
        frame: The frame that asks: a running trace of its block takes note.
    """
    if is_compiled(envoy._module):
        return source_of(envoy._child("_orig_mod"), frame)
    module = envoy._module
    try:
        peeled = peel(_own_forward(module))
        known = envoy.__dict__.get("_source")
        if (
            known is not None
            and known._module is module
            and known._listing.original is peeled.function.__code__
        ):
            source = known
        else:
            listing = listing_of(peeled.function)
            source = Source(envoy, envoy, listing, peeled)
            object.__setattr__(envoy, "_source", source)
    except SourceNotAvailable as error:
        place = envoy._path or "model"
        raise SourceNotAvailable(f"`{place}.source` is not available: {error}") from None
    tracer = tracer_of(envoy._root, frame)
    run = getattr(tracer, "run", None)
    if run is not None:
        run.open(source._gates())
    return source


def _own_forward(module: nn.Module) -> Any:
    """The module's forward, whether or not a run has a gate in front of it."""
    gate = gate_of(module)
    return callee(module) if gate is None else gate.forward


class Source:
    """The operations of one function, by name.

    Print it to see the function's text with the names beside it.
    """

    def __init__(self, owner: Any, envoy: Any, listing: Listing, peeled: Peeled) -> None:
        self._owner = owner
        self._envoy = envoy
        self._module = owner._module
        self._listing = listing
        self._peeled = peeled
        self._path = f"{owner._path}.source".lstrip(".")
        self._operations = [Operation(self, named) for named in listing.operations]
        self._by_name = {operation._name: operation for operation in self._operations}
        self._made: tuple[FunctionType, FunctionType] | None = None

    # -- in a run ------------------------------------------------------------------------------

    def stand_in(self, called: Callable[..., Any]) -> Callable[..., Any]:
        """What a run calls instead of `called`: the same, with a door at each operation."""
        peeled = peel(called)
        function = peeled.function
        if function.__code__ is not self._listing.original:
            return called  # another function than the one whose operations were asked for
        made = self._made
        if made is None or made[0] is not function:
            made = self._made = (function, self._listing.with_doors(function, *_doors(self)))
        return peeled.rebuild(made[1])

    def _gates(self) -> list[Any]:
        """What a run needs to stop at these operations: the modules above, and the sources."""
        return [*self._owner._gates(), self]

    # -- names ---------------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in the order of the text; the inner one of two nested calls comes first."""
        return tuple(self._by_name)

    def __getattr__(self, name: str) -> Operation:
        if name.startswith("_"):
            raise AttributeError(name)
        operation = self._by_name.get(name)
        if operation is None:
            raise PathError(self._unknown(name))
        return operation

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            if name not in self._by_name:
                raise PathError(self._unknown(name))
            place = as_code(f"{self._path}.{name}")
            raise PathError(f"an operation cannot be set; its value can: `{place}.output = ...`.")
        object.__setattr__(self, name, value)

    def __getitem__(self, name: str | int) -> Operation:
        return self._operations[name] if isinstance(name, int) else self.__getattr__(name)

    @property
    def _code(self) -> str:
        return as_code(self._path)

    def _unknown(self, name: str) -> str:
        text = f"`{self._path}` has no operation `{name}`"
        if not self.names:
            return f"{text}; its function calls nothing and assigns no names."
        close = difflib.get_close_matches(name, self.names, 3, 0.5)
        if close:
            text += ". Did you mean " + " or ".join(f"`{item}`" for item in close) + "?"
        else:
            text += "."
        more = f" …; `print({self._code})` shows all {len(self.names)}"
        return f"{text} It has {', '.join(self.names[:40])}{more if len(self.names) > 40 else ''}."

    def __iter__(self) -> Iterator[Operation]:
        return iter(self._operations)

    def __len__(self) -> int:
        return len(self._operations)

    def __bool__(self) -> bool:
        return True

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __dir__(self) -> list[str]:
        return [*self.names, "names"]

    def __reduce__(self) -> Any:
        if self._owner is self._envoy:
            return (_again, (self._envoy,))
        raise TypeError(f"`{self._path}` belongs to a run and cannot be copied.")

    def __repr__(self) -> str:
        function = self._peeled.function
        code = function.__code__
        place = f"{os.path.basename(code.co_filename)}, line {code.co_firstlineno}"
        title = f"{self._path}: {function.__qualname__} ({place})"
        return title + "\n" + listed(self._listing)


def as_code(path: str) -> str:
    """A path as it is written in a program: `model.h[0].attn`."""
    return re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", f"model.{path}")


def _again(envoy: Any) -> Source:
    return source_of(envoy, _getframe())


def _same(value: Any) -> Any:
    return value


def _doors(source: Source) -> tuple[Callable[..., Any], Callable[[int, Any], Any]]:
    """What the rewritten code calls at each operation.

    It knows no run: it asks the greenlet that it finds itself in, as a gate does, so a function
    that outlives its run, or is called from another thread, is a plain function again.
    """
    operations = source._operations

    def call(number: int, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        current = getcurrent()
        if type(current) is Carrier:
            run = current.model_run
            if run is not None:
                return run.pass_through(operations[number], called, args, kwargs)
        return called(*args, **kwargs)

    def put(number: int, value: Any) -> Any:
        current = getcurrent()
        if type(current) is Carrier:
            run = current.model_run
            if run is not None:
                return run.pass_through(operations[number], _same, (value,), {})
        return value

    return call, put


class Operation:
    """One operation of a function: a call, or an assignment."""

    _is_module = False

    def __init__(self, source: Source, named: Named) -> None:
        self._view = source
        self._named = named
        self._name = named.name
        self._parent = source._owner
        self._root = source._envoy._root
        self._path = f"{source._path}.{named.name}"
        self._nested: Source | None = None

    @property
    def _module(self) -> Operation:
        return self  # what a run stops at

    @property
    def name(self) -> str:
        """Its name, as in `split_1`."""
        return self._name

    # -- values --------------------------------------------------------------------------------

    @property
    def output(self) -> Any:
        """What the operation gave; assign to replace it."""
        frame = _getframe(1)
        return self._tracer("output", frame).read(self, "output", frame)

    # The setters are reached through `__setattr__`, so the user's frame is one further up.

    @output.setter
    def output(self, value: Any) -> None:
        frame = _getframe(2)
        self._tracer("output", frame).write(self, "output", value, frame)

    @property
    def input(self) -> Any:
        """The first argument of the call; assign to replace it."""
        frame = _getframe(1)
        return self._tracer("input", frame).read(self, "input", frame)

    @input.setter
    def input(self, value: Any) -> None:
        frame = _getframe(2)
        self._tracer("input", frame).write(self, "input", value, frame)

    @property
    def inputs(self) -> Any:
        """All arguments of the call, `(args, kwargs)`; assign a pair to replace them."""
        frame = _getframe(1)
        return self._tracer("inputs", frame).read(self, "inputs", frame)

    @inputs.setter
    def inputs(self, value: Any) -> None:
        frame = _getframe(2)
        self._tracer("inputs", frame).write(self, "inputs", value, frame)

    def skip(self, value: Any) -> None:
        """Do not call the operation in this run; go on with `value` as what it gave."""
        frame = _getframe(1)
        self._tracer("skip", frame).skip(self, value, frame)

    @property
    def source(self) -> Source:
        """The operations inside the function that this one calls.

        What is called is as a rule known only when it is called: inside a trace the model goes on
        to this call, so ask before reading anything after it.
        """
        frame = _getframe(1)
        tracer = tracer_of(self._root, frame)
        # A held run opens it when it goes there.
        held = held_tracer(self._root._family, frame) if tracer is None else None
        run = getattr(tracer or held, "run", None)
        if run is not None and self in run.rewrites:
            return run.rewrites[self]
        try:
            called = self._called(tracer or held, run, frame)
            if isinstance(called, nn.Module):
                place = self._root._path_of(called)
                raise SourceNotAvailable(
                    f"it calls the submodule `{place}`, which can be reached by itself: write "
                    f"`{place}.source` or `{place}.output`."
                )
            source = self._drill(peel(called))
        except SourceNotAvailable as error:
            raise SourceNotAvailable(f"`{self._path}.source` is not available: {error}") from None
        if run is not None and held is None:
            tracer.run.open(source._gates())  # perhaps another run by now, if this one had passed it
        return source

    def _drill(self, peeled: Peeled) -> Source:
        """The operations of the function that is called; the same each time it is that function."""
        known = self._nested
        if known is None or known._listing.original is not peeled.function.__code__:
            known = Source(self, self._view._envoy, listing_of(peeled.function), peeled)
            self._nested = known
        known._peeled = peeled
        return known

    def _called(self, tracer: Any, run: Any, frame: FrameType) -> Any:
        """What this operation calls."""
        if self._named.callee is None:
            raise SourceNotAvailable(
                f"`{self._name}` is an assignment. Write `.output` for its value, or "
                "`.source` of the call on its line."
            )
        found = resolve(self._named.callee, self._view._peeled)
        if found:
            return found[0]
        if run is None:
            raise SourceNotAvailable(
                "what it calls is known only while the model runs. Ask only inside a trace: "
                f"`with model.trace(prompt): print({self._code}.source)`."
            )
        tracer._reach(self, "input", frame)
        return tracer.run.callee

    def _tracer(self, what: str, frame: FrameType) -> Any:
        tracer = tracer_of(self._root, frame) or held_tracer(self._root._family, frame)
        if tracer is None:
            raise OutsideTraceError(
                f"`{self._path}.{what}` was asked for where no model is running. Values exist "
                f"inside a trace: `with model.trace(prompt): x = {self._code}.{what}`."
            )
        return tracer

    # -- what a tracer asks of an envoy --------------------------------------------------------

    def _gates(self) -> list[Any]:
        return self._view._gates()

    def _show(self, kind: str, value: Any) -> Any:
        return value

    def _accept(self, kind: str, current: Any, assigned: Any) -> Any:
        return assigned

    # -- for messages --------------------------------------------------------------------------

    @property
    def _home(self) -> Any:
        """The envoy of the module in whose forward it is."""
        return self._view._envoy

    @property
    def _owner_path(self) -> str:
        """The path of the module or operation whose function it belongs to."""
        return self._view._owner._path

    @property
    def _submodule(self) -> nn.Module | None:
        """The module that it calls, if that is known without a run."""
        callee = self._named.callee
        found = None if callee is None else resolve(callee, self._view._peeled)
        return found[0] if found and isinstance(found[0], nn.Module) else None

    def _lies_in(self, other: Any) -> bool:
        """Whether it is inside a module or another operation."""
        inner = other if isinstance(other, nn.Module) else other._submodule
        if inner is not None and any(self._home._module is module for module in inner.modules()):
            return True
        return isinstance(other, Operation) and self._path.startswith(f"{other._path}.source.")

    def _where(self) -> str:
        """Its line in the file."""
        code = self._view._listing.original
        return f"line {self._named.line} of {os.path.basename(code.co_filename)}"

    @property
    def _code(self) -> str:
        return as_code(self._path)

    # -- display -------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and not hasattr(type(self), name):
            raise PathError(self._unknown(name))
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or hasattr(type(self), name):
            raise AttributeError(name)
        raise PathError(self._unknown(name))

    def _unknown(self, name: str) -> str:
        return (
            f"`{self._path}` is an operation and has no `{name}`: it has `.output`, `.input`, "
            f"`.inputs`, `.skip(value)` and `.source`. Its value is `{self._code}.output`."
        )

    def __dir__(self) -> list[str]:
        return ["output", "input", "inputs", "skip", "source", "name"]

    def __repr__(self) -> str:
        return f"{self._path} ({self._where()})\n" + around(self._view._listing, self._named)
