"""`envoy.output` in a captured body, in few steps.

What `Asked.read` does for everybody, written out for the commonest participant among many: a
hundred bodies that share a forward ask some hundred times, and each call of a Python function on
the way costs as much as the switch to the model itself.
"""

from __future__ import annotations

from types import FrameType
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent

from nbsight.core import explain
from nbsight.core.greenlets import Carrier

if TYPE_CHECKING:
    from nbsight.core.asked import Asked
    from nbsight.core.run import Run

__all__ = ["read_output"]


def read_output(tracer: Asked, run: Run, envoy: Any, frame: FrameType) -> Any:
    """The output of a module for the body that asks; leaves everything unusual to `Asked.read`."""
    current = getcurrent()
    worker = current.worker if type(current) is Carrier else None
    if (
        worker is None
        or worker.run is not run
        or worker.rows is None
        or worker.rows.is_whole
        or worker.occurrence is not None
        or tracer.handed is not None
        or run.ended
    ):
        return tracer.read(envoy, "output", frame)
    site, module = run.site, envoy._module
    line = (frame.f_code, frame.f_lasti)
    if site is None or site.module is not module or site.kind != "output":
        stood = site
        if module not in run.gated:
            run.open(envoy._gates())
            run.opened.append(envoy)
            module = envoy._module
        worker.crew.wait_at(worker, (module, "output"))
        worker._hub.switch()
        site = run.site
        if site is None:
            run = tracer._go_back(run, worker, envoy, "output", line, stood)
            site = run.site
            assert site is not None
        if worker.step is not None and run.passes > worker.step + 1:
            raise explain.passed_in_step(tracer, run, worker, envoy, "output", line)
        worker.last = (envoy, "output", line)
    site.line = line
    shown = site.shown
    if worker in shown:
        return shown[worker]
    value = site.value
    if site.version is not None and not value._is_view() and worker not in site.views:
        if not site.views:
            site.views = {}
        view = site.views[worker] = worker.rows.narrow(value)
    else:
        view = site.view(worker)
    if not envoy._is_literal:
        view = envoy._show("output", view)
    if not shown:
        shown = site.shown = {}
    shown[worker] = view
    return view
