"""Modules applied by hand that the trace still watches: `module(x, hook=True)`.

By hand, a module is applied on the side of the block and the run does not notice. With `hook=True` the
call is made in the place of the model: in a greenlet that carries the run, so that whoever waits for the
module's values is served, caches keep them and edits act on them. The model itself stays where it stands
and goes on from there. Adapters and sparse autoencoders in kept edits are read this way.
"""

from __future__ import annotations

from types import FrameType
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent, greenlet

from nbsight.core.context import tracer_of
from nbsight.core.greenlets import borrow, give_back
from nbsight.core.run import Run, Stop
from nbsight.core.torch_state import get_default_dtype, is_grad_enabled, is_more_than_grad, snapshot
from nbsight.errors import InputError

if TYPE_CHECKING:
    from nbsight.core.envoy import Envoy

__all__ = ["call_watched"]


def call_watched(envoy: Envoy, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType) -> Any:
    """Apply an envoy's module such that the running trace sees it; outside of one, just apply it.

    Raises:
        InputError: the module is the whole model.
    """
    tracer = tracer_of(envoy._root, frame)
    run: Run | None = getattr(tracer, "run", None)
    if run is None or run.ended:
        return envoy._module(*args, **kwargs)
    if envoy._module is run.root:
        raise InputError(
            "`hook=True` is for a part of the model that is applied by hand, such as an adapter; the whole "
            "model is run by `trace`."
        )
    participant = tracer.participant()
    call = _Call(run, envoy._module, args, kwargs)
    place = (call, "output")
    run.want(place)  # so that the run goes on until the call is over
    try:
        participant.wait_until(run, lambda: call.is_done)
    finally:
        run.unwant(place)
        call.leave()
    if call.error is not None:
        raise call.error
    return call.value


class _Call:
    """A call that a run makes in the place of its model; begun when it is made."""

    def __init__(self, run: Run, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.run = run
        self.module, self.args, self.kwargs = module, args, kwargs
        self.value: Any = None
        self.error: BaseException | None = None
        self.is_done = False
        # What the run holds of its model, to be put back.
        self._site, run.site = run.site, None
        self._switches = (run._grad, run._dtype, run._state)
        # In the place of the model, so a graph is recorded only if the run records one.
        run._grad, run._dtype = is_grad_enabled() and run.grad, get_default_dtype()
        run._state = snapshot() if is_more_than_grad() else None
        self._carrier = borrow(self._task)
        self._carrier.model_run = run
        self._models_carrier, run._carrier = run._carrier, self._carrier

    def _task(self) -> greenlet:
        try:
            self.value = self.module(*self.args, **self.kwargs)
        except BaseException as error:  # whoever called the module gets it
            self.error = error
        self.is_done = True
        # Here and not later: if the run is being closed, the model is unwound next.
        self.run._carrier = self._models_carrier
        home = self.run._home
        assert home is not None
        return home

    def leave(self) -> None:
        """Let the model stand where it stood; unwind the call if it was given up."""
        run = self.run
        if not self.is_done:
            run._home = getcurrent()
            self._carrier.throw(Stop())
        if not self._carrier.dead:
            give_back(self._carrier)
        if not run.ended:
            run.site = self._site
            run._grad, run._dtype, run._state = self._switches
