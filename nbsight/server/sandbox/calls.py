"""A call of the model that is held for a runner: it stops where it wants, goes on with what it says.

What a run of the core is to a block in the same process. The model runs in a greenlet of its own, through
the same gates; modules that the runner looks at without stopping are only noted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from greenlet import getcurrent, greenlet
from torch import nn

from nbsight.core.gates import Gate, close_gates, open_gates
from nbsight.core.greenlets import borrow, give_back
from nbsight.core.torch_state import SideState, snapshot, switch_to
from nbsight.server.sandbox.messages import WireError

__all__ = ["HeldCall", "Reply"]

#: Modules that may be noted between two stops; a generation of thousands of tokens has so many.
_TRAIL = 2_000_000


class Reply:
    """What the model goes on with."""

    def __init__(self, value: Any, skip: bool) -> None:
        self.value, self.skip = value, skip


class _Dropped(BaseException):
    """The runner wants to know no more of this call."""


class HeldCall:
    """One call.

    Args:
        function: Makes it.
        own: The module that is called; its own first call is the call itself and is not told of.
        numbers: The number of each module.

    Attributes:
        stood: Where it stands: "enter", "leave" or "choose", the number of the module, the value.
        trail: What it passed since it was last asked.
    """

    def __init__(
        self, function: Callable[[HeldCall], Any], own: nn.Module | None, numbers: dict[nn.Module, int]
    ) -> None:
        self._function, self._own, self._numbers = function, own, numbers
        self._spares: dict[nn.Module, Gate] = {}
        self.gated: dict[Any, Gate] = {}
        self.before: frozenset[int] = frozenset()
        self.after: frozenset[int] = frozenset()
        self.trail: list[int] = []
        self.stood: tuple[str, int, Any] | None = None
        self.result: Any = None
        self.error: BaseException | None = None
        self.is_over = False
        self._reply: Reply | None = None
        self._home: greenlet | None = None
        self._state: SideState | None = None
        self._guards: list[Any] = []
        self._carrier: Any = None

    def look_at(self, modules: list[nn.Module], before: frozenset[int], after: frozenset[int]) -> None:
        """From here on, note calls of these modules, and stop before and after those."""
        open_gates(modules, self._spares, self.gated)
        self.before, self.after = before, after

    # -- the model's side ----------------------------------------------------------------------

    def pass_through(self, module: Any, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A gated module is called."""
        if module is self._own:
            self._own = None
            return forward(*args, **kwargs)
        if module not in self.gated:  # the gate is another call's
            return forward(*args, **kwargs)
        number = self._numbers[module]
        if number in self.before:
            reply = self.stop("enter", number, (args, kwargs))
            if reply.skip:
                return reply.value
            args, kwargs = reply.value
        else:
            self._note(number)
        value = forward(*args, **kwargs)
        if number in self.after:
            return self.stop("leave", number, value).value
        self._note(-1 - number)
        return value

    def stop(self, kind: str, number: int, value: Any) -> Reply:
        """Wait for the runner."""
        self.stood = (kind, number, value)
        self._home.switch()  # type: ignore[union-attr]
        reply, self._reply = self._reply, None
        assert reply is not None
        return reply

    def _note(self, mark: int) -> None:
        if len(self.trail) >= _TRAIL:
            raise MemoryError(f"more than {_TRAIL:,} calls of modules between two stops")
        self.trail.append(mark)

    def _task(self) -> greenlet:
        try:
            self.result = self._function(self)
        except _Dropped:
            pass
        except BaseException as error:  # of whatever kind: it belongs to who drives the call
            self.error = error
        self.is_over = True
        assert self._home is not None
        return self._home

    # -- the worker's side ---------------------------------------------------------------------

    def go(self, reply: Reply | None) -> None:
        """Let the model run until it stops or ends.

        Raises:
            BaseException: an interrupt of the worker that came meanwhile.
        """
        if (self._carrier is None) != (reply is None):
            raise WireError("a call that goes on before it has begun")
        self.stood, self._reply, self.trail = None, reply, []
        self._switch(None)
        if self.error is not None and not isinstance(self.error, Exception):
            raise self.error

    def close(self) -> None:
        """Unwind it."""
        if self._carrier is not None and not self.is_over:
            self.before = self.after = frozenset()
            while not self.is_over and not self._carrier.dead:
                self._switch(_Dropped())
        close_gates(self.gated.values())
        self.gated, self.stood, self.result = {}, None, None

    def _switch(self, thrown: BaseException | None) -> None:
        self._home = getcurrent()
        if self._carrier is None:
            self._carrier = borrow(self._task)
            self._carrier.model_run = self
        mine = snapshot()
        if self._state is not None and self._state != mine:
            switch_to(self._state, mine, self._guards)
        try:
            if thrown is None:
                self._carrier.switch()
            else:
                self._carrier.throw(thrown)
        finally:
            self._state = snapshot()
            if self._state != mine:
                switch_to(mine, self._state, self._guards)
            if self.is_over and not self._carrier.dead:
                give_back(self._carrier)
