"""What tracers, caches and their like print is true and fits on a screen."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nbsight.core.model import wrap
from tests.core.small import Chain, Counter, Repeats, build, hooked, rows, run_cell

X = rows()


def lines(thing) -> list[str]:
    shown = repr(thing).splitlines()
    assert len(shown) <= 27
    assert all(len(line) <= 200 for line in shown)
    return shown


def test_a_trace_that_was_not_entered_says_how():
    model = wrap(build(Chain))
    assert lines(model.trace(X)) == [
        "trace of Chain: float32 (1, 3, 6)",
        "  not running: it runs as a block, `with model.trace(...) as tracer:`",
    ]
    assert "`with model.scan(...)" in repr(model.scan(X))
    assert lines(model.trace("some text", scale=2))[0] == "trace of Chain: 'some text', scale=2"


def test_a_running_trace_says_where_it_stands():
    model = wrap(build(Chain))
    with model.trace(X) as tracer:
        assert lines(tracer)[1] == "  before its first module"
        kept = model.h[1].output.save()
        assert lines(tracer)[1] == "  stands at h.1.output; 1 saved so far"
        model.h[1].output = kept * 2
        assert lines(tracer)[3] == (
            "    h.1.output: float32 (1, 3, 6) -> float32 (1, 3, 6)   line "
            f"{test_a_running_trace_says_where_it_stands.__code__.co_firstlineno + 6}: "
            "model.h[1].output = kept * 2"
        )
    assert lines(tracer)[1] == "  over; the model was stopped where nobody needed more, after h.1.output"
    with model.trace(X) as tracer:
        model.output
    assert lines(tracer)[1] == "  over; the model ran to its end"


def test_a_trace_that_failed_says_so():
    model = wrap(build(Chain))
    tracer = model.trace(X)
    with pytest.raises(RuntimeError):
        with tracer:
            model.h[1].output = torch.zeros(1)[:, None, None, None]
            model.output
    shown = lines(tracer)
    assert shown[1].startswith("  over: the model failed, RuntimeError: ")
    assert "h.1.output: float32 (1, 3, 6) -> float32 (1, 1, 1, 1)" in shown[3]


def test_many_edits_are_counted():
    model = wrap(build(Chain, 10))
    with model.trace(X) as tracer:
        for block in model.h:
            block.output = block.output + 1
    assert lines(tracer)[-1] == "    … and 4 more"
    assert len(lines(tracer)) == 10


def test_a_trace_of_invokes_and_each_of_them_say_what_they_are_given():
    seen = run_cell(
        """
        with model.trace() as tracer:
            before = repr(tracer)
            with tracer.invoke(X) as one:
                a = model.h[0].output
            with tracer.invoke() as both:
                b = model.h[0].output
            between = repr(tracer)
        """,
        {"model": wrap(build(Chain)), "X": X},
    )
    assert seen["before"].endswith("collects invokes, 0 so far")
    assert seen["between"].endswith("collects invokes, 2 so far")
    assert repr(seen["one"]) == "invoke of float32 (1, 3, 6), line 4"
    assert repr(seen["both"]) == "invoke of the whole batch, line 6"
    assert repr(seen["tracer"]).splitlines()[1].startswith("  over; ")


def test_long_inputs_are_cut():
    model = wrap(build(Chain))
    assert lines(model.trace("word " * 100))[0].endswith("…")
    assert lines(model.trace(list(range(100))))[0] == ("trace of Chain: [0, 1, 2, 3, 4, 5, 6, 7] … (100)")
    assert lines(model.trace(*range(10)))[0] == "trace of Chain: 0, 1, 2, 3, 4, 5, …"


def test_a_cache_lists_its_modules_those_that_are_alike_on_one_line():
    net = build(Chain)
    model = wrap(net)
    with model.trace(X) as tracer:
        cache = tracer.cache()
        assert lines(cache) == ["Cache: nothing yet; it fills while the model runs"]
        model.output
    assert lines(cache) == [
        "Cache of 14 modules",
        "  model.h.[0-3].lin  output float32 (1, 3, 6)",
        "  model.h.[0-3].act  output float32 (1, 3, 6)",
        "  model.h.[0-3]      output float32 (1, 3, 6)",
        "  model.head         output float32 (1, 3, 5)",
        "  model              output float32 (1, 3, 5)",
    ]
    called = {path.removesuffix(".output") for path in hooked(net, (X,)) if path.endswith(".output")}
    assert len(cache.keys()) == len(called) == 14
    assert lines(cache.h[2])[0] == "Cache at model.h.2 of 3 modules"
    assert repr(cache.values()[0]) == "Entry(output float32 (1, 3, 6))"


def test_a_cache_tells_apart_what_differs():
    class Uneven(nn.Module):
        def __init__(self):
            super().__init__()
            self.h = nn.ModuleList([Chain(2), Chain(1)])
            self.ln_1, self.ln_2 = nn.LayerNorm(6), nn.LayerNorm(6)

        def forward(self, x):
            for part in self.h:
                for block in part.h:
                    x = block(x)
            return self.ln_2(self.ln_1(x))

    model = wrap(build(Uneven))
    with model.trace(X) as tracer:
        cache = tracer.cache(["h.0.h.0", "h.0.h.1", "h.1.h.0", "ln_1", "ln_2"], include_inputs=True)
        model.output
    one = "output float32 (1, 3, 6), inputs float32 (1, 3, 6)"
    assert lines(cache) == [
        "Cache of 5 modules",
        f"  model.h.[0-1].h.[0-1] (3)  {one}",
        f"  model.ln_1                 {one}",
        f"  model.ln_2                 {one}",
    ]


def test_a_cache_of_several_calls_counts_them():
    model = wrap(build(Repeats))
    with model.trace(X) as tracer:
        cache = tracer.cache()
        model.output
    assert "  model.cell  output 3 × float32 (1, 3, 6)" in lines(cache)
    counter = wrap(build(Counter))
    with counter.generate(X, steps=4) as tracer:
        cache = tracer.cache([counter.a])
    assert lines(cache)[1] == "  model.a  output 4 × float32 (1, 3, 6)"
    assert lines(tracer)[0] == "generation of Counter: float32 (1, 3, 6), steps=4"


def test_a_long_cache_is_cut():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            for number in range(40):
                self.add_module(f"part_{number}", nn.Linear(6, 6))

        def forward(self, x):
            return sum(part(x) for part in self.children())

    model = wrap(build(Wide))
    with model.trace(X) as tracer:
        cache = tracer.cache()
        model.output
    assert lines(cache)[-1] == "  … and 17 more lines"


def test_edits_sessions_and_backward_passes_say_what_they_are():
    seen = run_cell(
        """
        waiting = repr(model.edit())
        with model.edit(inplace=True) as edit:
            model.h[1].output[:] = 0
        with model.session() as session:
            with model.trace(X, grad=True):
                state = model.h[1].output
                loss = model.output.sum().save()
                with loss.backward() as backward:
                    state.grad
                    running = repr(backward), repr(session)
        """,
        {"model": wrap(build(Chain)), "X": X},
    )
    assert "no block yet" in seen["waiting"]
    assert repr(seen["edit"]) == "Edit(line 3, on: model.h[1].output[:] = 0)"
    assert seen["running"] == (
        "backward pass of float32 (), 1 gradients read so far",
        "session of Chain: 1 saved so far",
    )
    assert repr(seen["session"]) == "session of Chain: over"
    assert "`with loss.backward():`" in repr(seen["backward"])
    seen["model"].clear_edits()
