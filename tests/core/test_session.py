"""Sessions are a plain scope here; and the seam through which a block leaves for elsewhere."""

from __future__ import annotations

import pytest
import torch

from nbsight.core import backend as backend_module
from nbsight.core.backend import register, resolve
from nbsight.core.model import wrap
from nbsight.core.scope import Names
from nbsight.errors import RemoteError
from tests.core.small import Chain, build, has_gates, hooked, rows, same

NET = build(Chain)
MODEL = wrap(NET)
X, Y = rows(seed=1), rows(seed=2)


def test_values_flow_from_one_trace_of_a_session_to_the_next():
    with MODEL.session():
        with MODEL.trace(X):
            donor = MODEL.h[1].output
        for layer in range(2, 4):
            with MODEL.trace(Y):
                MODEL.h[layer].output[:] = donor
                final = MODEL.output.save()
    assert same(final, hooked(NET, (Y,), edit={"h.3": lambda _: donor})[""][0])
    assert same(donor, hooked(NET, (X,))["h.1.output"][0])


def test_a_session_left_by_an_error_leaves_nothing():
    with pytest.raises(ZeroDivisionError), MODEL.session():
        with MODEL.trace(X):
            MODEL.h[1].output
            1 / 0
    assert not has_gates(NET)
    with pytest.raises(ValueError, match="trace"):
        torch.ones(1).save()


class Recording:
    """A backend that runs the block here, the way a server would: with the names it was given."""

    def __init__(self):
        self.jobs = []

    def run(self, job):
        self.jobs.append(job)
        names = Names(dict(job.values), {"torch": torch})
        with job.model.trace(*job.args) as tracer:
            if job.target:
                names[job.target] = tracer
            exec(job.block.code, names, names)
        return {name: names[name] for name in job.block.stores if name in names}


def test_a_block_for_a_backend_is_not_run_here_but_handed_over_with_what_it_reads():
    backend = Recording()
    scale, ran = 3.0, []
    with MODEL.trace(X, remote=backend) as tracer:
        state = MODEL.h[1].output * scale
        count = 1
    (job,) = backend.jobs
    assert same(state, hooked(NET, (X,))["h.1.output"][0] * 3)
    assert count == 1
    assert job.kind == "trace"
    assert job.method == "forward"
    assert job.args == (X,)
    assert job.values["scale"] == 3.0
    assert "ran" not in job.values
    assert job.target == "tracer"
    assert job.block.source == "state = MODEL.h[1].output * scale\ncount = 1"
    assert ran == []


def test_a_registered_backend_is_found_by_its_name(monkeypatch):
    backend = Recording()
    # What a test registers must leave with it: messages list the backends that there are.
    monkeypatch.setitem(backend_module._factories, "recording for a test", None)
    register("recording for a test", lambda: backend)
    assert resolve("recording for a test") is backend
    assert resolve(backend) is backend
    with pytest.raises(RemoteError, match="elsewhere"):
        resolve("elsewhere")
