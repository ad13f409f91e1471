"""Compiled models: what a trace looks into runs uncompiled, what nobody looks into stays compiled."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

from nbsight.core.model import wrap
from nbsight.errors import ModelRunError
from tests.core.small import Block, Chain, Counter, build, close, has_gates, hooked, rows, same

X = rows(2)


@pytest.fixture(autouse=True)
def a_fresh_compiler():
    """Graphs of one test are not another's."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Counting:
    """A backend that compiles to the graph itself, and counts graphs and their runs."""

    def __init__(self) -> None:
        self.graphs = self.runs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1

        def run(*args):
            self.runs += 1
            return graph.forward(*args)

        return run


def by_method(net, backend, **options):
    net.compile(backend=backend, **options)
    return net


def by_function(net, backend, **options):
    return torch.compile(net, backend=backend, **options)


def by_forward(net, backend, **options):
    net.forward = torch.compile(net.forward, backend=backend, **options)
    return net


WAYS = [by_method, by_function, by_forward]


def zero(value):
    value[:] = 0


@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_compiled_model_is_read_and_edited_inside(way, fullgraph):
    net, backend = build(Chain), Counting()
    want = hooked(net, (X,))
    edited = hooked(net, (X,), edit={"h.1.lin": zero})
    compiled = way(net, backend, fullgraph=fullgraph)
    with torch.no_grad():
        compiled(X)
    graphs, runs = backend.graphs, backend.runs
    model = wrap(compiled)
    with model.trace(X):
        inner = model.h[1].lin.output
        block = model.h[2].output
        final = model.output
    assert same([inner, block, final], [want["h.1.lin.output"][0], want["h.2.output"][0], want[""][0]])
    with model.trace(X):
        model.h[1].lin.output[:] = 0
        final = model.output
    assert same(final, edited[""][0])
    assert (backend.graphs, backend.runs) == (graphs, runs), "a trace compiled something"
    with torch.no_grad():
        assert close(compiled(X), want[""][0])
    assert (backend.graphs, backend.runs) == (graphs, runs + 1), "the model was compiled anew"
    if way is not by_forward:
        assert not has_gates(net)


@pytest.mark.parametrize("way", WAYS)
def test_a_compiled_part_is_read_from_outside_and_inside(way):
    net, backend = build(Chain), Counting()
    want = hooked(net, (X,))
    edited = hooked(net, (X,), edit={"h.1": lambda value: value * 2})
    net.h[1] = way(net.h[1], backend)
    model = wrap(net)
    with model.trace(X):
        inner = model.h[1].lin.output
        block = model.h[1].output
        final = model.output
    assert same([inner, block, final], [want["h.1.lin.output"][0], want["h.1.output"][0], want[""][0]])
    with model.trace(X):
        model.h[1].output *= 2
        final = model.output
    assert same(final, edited[""][0])
    assert backend.runs == 0


@pytest.mark.parametrize("way", WAYS)
def test_a_compiled_part_that_nobody_looks_into_stays_compiled(way):
    net, backend = build(Chain), Counting()
    want = hooked(net, (X,))
    net.h[1] = way(net.h[1], backend)
    model = wrap(net)
    for turn in (1, 2):
        with model.trace(X):
            hidden = model.h[2].lin.output
            final = model.output
        assert close(hidden, want["h.2.lin.output"][0])
        assert close(final, want[""][0])
        assert (backend.graphs, backend.runs) == (1, turn)


@pytest.mark.parametrize("way", WAYS)
def test_invokes_gradients_and_sources_of_a_compiled_model(way):
    net = build(Chain)
    want = hooked(net, (X,))
    edited = hooked(net, (X[1:],), edit={"h.2": zero})
    kept = []
    handle = net.h[1].register_forward_hook(lambda module, given, out: kept.append(out))
    (gradient,) = torch.autograd.grad(net(X).sum(), kept)
    handle.remove()
    model = wrap(way(net, Counting()))
    with model.trace() as tracer:
        with tracer.invoke(X[:1]):
            first = model.output
        with tracer.invoke(X[1:]):
            model.h[2].output[:] = 0
            second = model.output
    assert close(first, want[""][0][:1])
    assert close(second, edited[""][0])
    with model.trace(X):
        hidden = model.h[1].output
        with model.output.sum().backward():
            found = hidden.grad
    assert close(found, gradient)
    assert "self.head(x)" in str(model.source)
    with model.trace(X):
        head = model.source.self_head_0.output
    assert same(head, want[""][0])


def test_the_steps_of_a_compiled_model_are_counted():
    net = build(Counter)
    want = hooked(net, (X,), {"steps": 3}, method="generate")
    model = wrap(torch.compile(net, backend=Counting()))
    with model.generate(X, steps=3) as tracer:
        seen = [model.b.output for _ in tracer.iter[:]]
        result = tracer.result
    assert same(seen, want["b.output"])
    assert same(result, want[""][0])


def test_a_compiled_list_is_indexed_and_looped_over_as_the_list():
    net = build(lambda: nn.Sequential(Block(), Block()))
    want = hooked(net, (X,))
    model = wrap(torch.compile(net, backend=Counting()))
    assert len(model) == len(list(model)) == 2
    with model.trace(X):
        first, last = model[0].output, model[-1].output
    assert same([first, last], [want["0.output"][0], want["1.output"][0]])


class Within(nn.Module):
    """A compiled function, in the middle of a forward, calls a module."""

    def __init__(self, backend, **options) -> None:
        super().__init__()
        self.block, self.tail = Block(), Block()
        self.inner = torch.compile(lambda x: torch.sin(self.block(x)) + x, backend=backend, **options)

    def forward(self, x):
        return self.tail(self.inner(x))


def helper(value):
    return torch.cos(value) * 2


def test_nothing_of_the_block_is_compiled_while_the_model_is_held_in_a_compiled_function():
    backend = Counting()
    net = build(Within, backend)
    with torch.no_grad():
        want = net.block.lin(X)
        final_want = net.tail(torch.sin(net.block(X)) + X)
    model = wrap(net)
    with model.trace(X):
        inner = model.block.lin.output
        before = backend.graphs
        mine = helper(inner)
        callback = torch._C._dynamo.eval_frame.get_eval_frame_callback()
        assert backend.graphs == before
        final = model.output
    assert callback is None
    assert same(inner, want)
    assert close(mine, torch.cos(want) * 2)
    assert close(final, final_want)


def test_a_compiled_function_that_must_be_one_graph_says_who_stops_in_it():
    backend = Counting()
    net = build(lambda: Within(backend, fullgraph=True))
    with torch.no_grad():
        want = net(X)
    model = wrap(net)
    with model.trace(X):
        final = model.output
    assert close(final, want)
    with pytest.raises(ModelRunError, match="nbsight looks into a module that a compiled function calls"):
        with model.trace(X):
            model.block.output
    with torch.no_grad():
        assert close(net(X), want)


def test_a_model_is_found_compiled_after_its_first_trace():
    net, backend = build(Chain), Counting()
    want = hooked(net, (X,))
    model = wrap(net)
    for _ in range(2):
        with model.trace(X):
            hidden = model.h[1].lin.output
        assert same(hidden, want["h.1.lin.output"][0])
        net.h[1].compile(backend=backend)
        assert "_compiled_call_impl" in vars(net.h[1])
    assert backend.runs == 0
    with torch.no_grad():
        net(X)
    assert backend.runs == 1


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_a_model_that_inductor_compiled():
    net = build(Chain)
    want = hooked(net, (X,))
    model = wrap(torch.compile(net))
    with torch.no_grad():
        compiled = model._module(X)
    with model.trace(X):
        hidden = model.h[1].lin.output
        final = model.output
    assert same([hidden, final], [want["h.1.lin.output"][0], want[""][0]])
    assert torch.allclose(compiled, final, atol=1e-5)
