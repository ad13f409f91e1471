"""Gates: where a running model can be stopped.

A gate stands in a module's instance `forward` for as long as some run needs it. It asks one
question, "is the greenlet that calls me carrying a run?", so other threads, other runs and plain
calls of the same model pass through it unseen. Gates are counted: the last run that needs one
takes it away, and a model that nobody traces has none (it copies and pickles as before).

Why `forward` and not `register_forward_hook`: torch decides whether to look at hooks when a
module's call begins, so a hook put on a module that is already being called never fires. A gate
on every ancestor is in place before that, and costs a third of a hook.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from types import MethodType
from typing import Any

from greenlet import getcurrent
from torch import nn

from nbsight.core.callee import callee, never_compile
from nbsight.core.greenlets import Carrier

__all__ = ["Gate", "close_gates", "gate_of", "open_gates"]

# Reentrant: collecting garbage while it is held may close a run, whose gates are taken off here.
_lock = threading.RLock()

#: In the place of a `forward` that a gate does not put back.
_NOT_KEPT: Any = object()


class Gate:
    """One module's gate: its own `forward`, and how many runs need the gate."""

    __slots__ = ("compiled", "door", "forward", "module", "plain", "previous", "users")

    module: nn.Module
    forward: Callable[..., Any]
    previous: Callable[..., Any] | None
    plain: Any
    door: Callable[..., Any]
    users: int
    #: What `module.compile()` made, while the gate is up.
    compiled: Callable[..., Any] | None

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        # accelerate and others put their own `forward` on the instance: it must come back.
        self.previous = module.__dict__.get("forward")
        self.plain = getattr(type(module), "forward", _NOT_KEPT)
        if self.plain is _NOT_KEPT and self.previous is None:
            self.previous = _NOT_KEPT  # a scripted module, which does not say what its forward is
        self.forward = callee(module)
        self.users = 0
        self.compiled = None
        make = _method if self.previous is None else _function
        door = make(module, self.forward)
        # Hugging Face's generate reads the signature of `forward`; pickle looks it up by its name.
        door.__wrapped__ = self.plain if self.previous is None else self.forward
        door.__name__ = "forward"
        door._nbsight_gate = self
        never_compile(door)
        # As a method, a copy of the module that is made while the gate is up gets one of its own.
        self.door = MethodType(door, module) if self.previous is None else door


def _method(module: nn.Module, forward: Callable[..., Any]) -> Any:
    def gate(self: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        if self is not module:  # such a copy
            return type(self).forward(self, *args, **kwargs)
        current = getcurrent()
        if type(current) is Carrier:
            run = current.model_run
            if run is not None:
                return run.pass_through(module, forward, args, kwargs)
        return forward(*args, **kwargs)

    return gate


def _function(module: nn.Module, forward: Callable[..., Any]) -> Any:
    def gate(*args: Any, **kwargs: Any) -> Any:
        current = getcurrent()
        if type(current) is Carrier:
            run = current.model_run
            if run is not None:
                return run.pass_through(module, forward, args, kwargs)
        return forward(*args, **kwargs)

    return gate


def gate_of(module: nn.Module) -> Gate | None:
    """The gate that stands in a module's `forward`; None when there is none."""
    gate: Gate | None = getattr(module.__dict__.get("forward"), "_nbsight_gate", None)
    return gate if gate is not None and gate.module is module else None


def open_gates(modules: Iterable[nn.Module], spares: dict[nn.Module, Gate], gates: dict[Any, Gate]) -> None:
    """Make sure that these modules have gates, and count this user of them.

    Args:
        modules: Those that are in `gates` already are left alone.
        spares: Gates that the modules had before; making one costs more than hanging one up.
        gates: The user's gates, to be completed.
    """
    with _lock:
        for module in modules:
            if module in gates:
                continue
            own = module.__dict__
            there = own.get("forward")
            gate = spares.get(module)
            if gate is None or not (
                there is gate.door
                or (there is None and gate.previous is None and gate.plain is type(module).forward)
            ):
                gate = spares[module] = gate_of(module) or Gate(module)
            own["forward"] = gate.door
            gate.users += 1
            gates[module] = gate
            if "_compiled_call_impl" in own:
                gate.compiled = own.pop("_compiled_call_impl")


def close_gates(gates: Iterable[Gate]) -> None:
    """Give up one use of each of these gates."""
    with _lock:
        for gate in gates:
            gate.users -= 1
            if gate.users:
                continue
            own = gate.module.__dict__
            if gate.compiled is not None:
                own.setdefault("_compiled_call_impl", gate.compiled)
                gate.compiled = None
            if own.get("forward") is not gate.door:
                continue
            if gate.previous is None or gate.previous is _NOT_KEPT:
                del own["forward"]
            else:
                own["forward"] = gate.previous
