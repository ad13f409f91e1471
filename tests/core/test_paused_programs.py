"""Random programs in held runs, two at a time on one model, do what hooks do to each alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nbsight.core.model import wrap
from tests.core.small import has_gates, same
from tests.core.test_property import (
    act,
    by_hooks,
    kept,
    numbers,
    places,
    prepared,
    program,
    skip_value,
    trees,
)


def do(run, model, operation, seen):
    """One operation of a program, by hand."""
    envoy = model._at(operation.path)
    run.until(f"{operation.path}.{operation.kind}".lstrip("."))
    if operation.action == "skip":
        envoy.skip(skip_value(operation, envoy.input))
        seen.append(None)
        return
    new = act(operation, run.here.value)
    if new is not None:
        run.here.value = new
    seen.append(kept(run.here.value))


def walk(run, order, draw):
    """A few steps, which lead to the next block's end or the next module's, as hooks meet them."""
    outputs = [path for path, kind in order if kind == "output"]
    blocks = {run_block for run_block in outputs if run_block.count(".") == 1}  # parts.0 and parts.1
    at = -1
    while at < len(outputs) - 1:
        into = draw(st.booleans())
        stops = range(at + 1, len(outputs))
        at = stops[0] if into else next(i for i in stops if outputs[i] in blocks or not outputs[i])
        assert run.step(into=into).path == (outputs[at] or "model")
    assert run.step() is None


@given(tree=trees(2), seeds=st.tuples(st.integers(0, 5), st.integers(6, 9)), data=st.data())
def test_two_held_runs_do_their_own_programs(tree, seeds, data):
    net = prepared(tree, seeds[0])
    model = wrap(net)
    inputs = [numbers(1, seed) for seed in seeds]
    programs = [program(data.draw, net, x, alone=True) for x in inputs]
    wanted = [by_hooks(net, x.clone(), operations) for x, operations in zip(inputs, programs, strict=True)]
    runs = [model.start(x.clone()) for x in inputs]
    seen = [[], []]
    left = [list(operations) for operations in programs]
    while any(left):
        which = data.draw(st.sampled_from([number for number in (0, 1) if left[number]]))
        do(runs[which], model, left[which].pop(0), seen[which])
        assert not has_gates(net)
    for run, mine, (final, values) in zip(runs, seen, wanted, strict=True):
        assert same(mine, values)
        assert same(run.finish(), final)


@given(tree=trees(2), seed=st.integers(0, 5), data=st.data())
def test_steps_stop_where_hooks_say_that_calls_end(tree, seed, data):
    net = prepared(tree, seed)
    x = numbers(1, seed)
    walk(wrap(net).start(x), places(net, x), data.draw)
