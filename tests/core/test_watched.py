"""Modules applied by hand that the trace still watches, against the same modules in the forward."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nbsight.core.model import wrap
from nbsight.errors import InputError, NeverCalledError
from tests.core.small import Block, Chain, Counter, build, close, has_gates, hooked, rows, same

X = rows(2)


def with_adapter(kind=Chain, *args):
    """A model with a block that it never calls itself."""
    net = build(kind, *args)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        net.adapter = Block()
    return net


def adapted(net, change=lambda value: value):
    """The values of a forward in which a hook applies the adapter after block 1."""
    seen = {}

    def apply(value):
        handles = [
            sub.register_forward_hook(lambda _, given, out, path=path: seen.setdefault(path, out))
            for path, sub in net.adapter.named_modules()
        ]
        try:
            return change(net.adapter(value))
        finally:
            for handle in handles:
                handle.remove()

    values = hooked(net, (X,), edit={"h.1": apply})
    return values, seen


@pytest.fixture
def edited():
    model = wrap(with_adapter())
    with model.edit(inplace=True):
        model.h[1].output = model.adapter(model.h[1].output, hook=True)
    return model


def test_what_an_edit_applies_is_read_in_later_traces(edited):
    wanted, inside = adapted(edited._module)
    with edited.trace(X):
        given = edited.adapter.input
        inner = edited.adapter.lin.output
        features = edited.adapter.output
        after = edited.h[1].output
        out = edited.output
    assert same(given, hooked(edited._module, (X,))["h.1.output"][0])
    assert same(inner, inside["lin"])
    assert same(features, inside[""])
    assert same(after, inside[""])
    assert same(out, wanted[""][0])
    assert not has_gates(edited._module)


def test_what_a_trace_writes_there_is_what_the_edit_goes_on_with(edited):
    wanted, _ = adapted(edited._module, lambda value: value * 0 + 1)
    with edited.trace(X):
        edited.adapter.output = edited.adapter.output * 0 + 1
        one = edited.output
    with edited.trace(X):
        edited.adapter.output[:] = 1
        two = edited.output
    assert same(one, wanted[""][0])
    assert same(two, wanted[""][0])


def test_an_input_that_a_trace_writes_is_what_is_applied(edited):
    with edited.trace(X):
        edited.adapter.lin.input = torch.zeros(2, 3, 6)
        features = edited.adapter.output
    assert same(
        features,
        edited.h[1]._module(hooked(edited._module, (X,))["h.0.output"][0])
        + edited._module.adapter.act(edited._module.adapter.lin(torch.zeros(2, 3, 6))),
    )


def test_a_skipped_adapter_is_not_run(edited):
    with edited.trace(X):
        edited.adapter.skip(torch.zeros(2, 3, 6))
        out = edited.output
    assert same(out, hooked(edited._module, (X,), edit={"h.1": torch.zeros_like})[""][0])


def test_a_trace_that_asks_for_nothing_of_it_sees_the_edit(edited):
    with edited.trace(X):
        out = edited.output
    assert same(out, adapted(edited._module)[0][""][0])
    assert same(edited.trace(X, trace=False), out)


def test_a_trace_that_ends_before_the_edit_is_done_leaves_nothing_behind(edited):
    for _ in range(3):
        with edited.trace(X):
            edited.adapter.lin.output
        assert not has_gates(edited._module)
    with edited.trace(X):
        out = edited.output
    assert same(out, adapted(edited._module)[0][""][0])


def test_an_error_in_the_block_while_the_edit_applies_it_leaves_nothing_behind(edited):
    with pytest.raises(ZeroDivisionError):
        with edited.trace(X):
            edited.adapter.lin.output
            1 / 0
    assert not has_gates(edited._module)
    with edited.trace(X):
        out = edited.output
    assert same(out, adapted(edited._module)[0][""][0])


def test_an_error_of_the_module_is_raised_where_it_is_applied():
    model = wrap(with_adapter())
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        with model.trace(X):
            model.adapter(model.h[1].output[..., :5], hook=True)
    assert not has_gates(model._module)
    with model.trace(X):
        value = model.adapter(model.h[1].output, hook=True)
        after = model.h[2].output
    want = hooked(model._module, (X,))
    assert same(value, model._module.adapter(want["h.1.output"][0]))
    assert same(after, want["h.2.output"][0])


def test_a_cache_keeps_what_is_applied_with_the_hook_and_not_what_is_applied_without():
    model = wrap(with_adapter())
    with model.trace(X) as tracer:
        cache = tracer.cache()
        hidden = model.h[1].output
        value = model.adapter(hidden, hook=True)
        model.adapter(hidden * 2)
        model.h[1].output[:] = 0  # the model still stands there
    assert same(cache["model.adapter"].output, value)
    assert len(cache["model.adapter"]) == 1
    assert same(cache["model"].output, hooked(model._module, (X,), edit={"h.1": torch.zeros_like})[""][0])


def test_invokes_see_their_rows_of_what_an_edit_applies(edited):
    other = rows(1, seed=4)
    with edited.trace() as tracer:
        with tracer.invoke(X):
            one = edited.adapter.output
            first = edited.output
        with tracer.invoke(other):
            two = edited.adapter.output
            edited.adapter.output = two * 0
            second = edited.output
    wanted, inside = adapted(edited._module)
    assert close(one, inside[""])
    assert close(first, wanted[""][0])
    assert two.shape == (1, 3, 6)
    assert close(second, hooked(edited._module, (other,), edit={"h.1": torch.zeros_like})[""][0])


def test_two_edits_apply_two_adapters():
    net = with_adapter()
    net.more = Block()
    model = wrap(net)
    with model.edit(inplace=True):
        model.h[1].output = model.adapter(model.h[1].output, hook=True)
    with model.edit(inplace=True):
        model.h[1].output = model.more(model.h[1].output, hook=True)
    with model.trace(X):
        a, b, out = model.adapter.output, model.more.output, model.h[1].output
    first = net.adapter(hooked(net, (X,))["h.1.output"][0])
    assert same(a, first)
    assert same(b, net.more(first))
    assert same(out, b)


def test_an_adapter_in_every_step_of_a_generation():
    net = with_adapter(Counter)
    model = wrap(net)
    with model.edit(inplace=True) as tracer:
        for _ in tracer.iter[:]:
            model.a.output = model.adapter(model.a.output, hook=True)
    with model.generate(X, steps=3) as tracer:
        features = [model.adapter.output for _ in tracer.iter[:]]
        result = tracer.result
    wanted = hooked(net, (X,), {"steps": 3}, method="generate", edit={"a": lambda value: net.adapter(value)})
    assert same(features, wanted["a.output"])
    assert same(result, wanted[""][0])


def test_what_is_applied_without_the_hook_is_never_called():
    model = wrap(with_adapter())
    with model.edit(inplace=True):
        model.h[1].output = model.adapter(model.h[1].output)
    with pytest.raises(NeverCalledError):
        with model.trace(X):
            model.adapter.output


@pytest.mark.parametrize("grad", [False, True])
def test_a_graph_is_recorded_only_if_the_run_records_one(edited, grad):
    with edited.trace(X, grad=grad):
        features = edited.adapter.output
    assert features.requires_grad is grad


def test_outside_of_a_trace_it_is_an_ordinary_call():
    model = wrap(with_adapter())
    assert same(model.adapter(X, hook=True), model._module.adapter(X))
    with pytest.raises(InputError, match="run by `trace`"):
        with model.trace(X):
            model(X, hook=True)


def test_a_module_that_is_called_before_anything_is_read(edited):
    model = wrap(with_adapter())
    with model.edit(inplace=True):
        value = model.adapter(X, hook=True)
        model.h[0].output = value
    with model.trace(X):
        features = model.adapter.output
        out = model.output
    assert same(features, model._module.adapter(X))
    assert same(out, hooked(model._module, (X,), edit={"h.0": lambda _: model._module.adapter(X)})[""][0])
    with model.trace(X):
        pass
    with model.trace(X):
        model.adapter.lin.output  # and left there
    assert not has_gates(model._module)


def test_autocast_in_the_block_acts_on_what_it_applies():
    model = wrap(with_adapter())
    with model.trace(X):
        hidden = model.h[1].output
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = model.adapter.lin(hidden, hook=True)
        after = model.h[2].output
    assert value.dtype is torch.bfloat16
    assert same(after, hooked(model._module, (X,))["h.2.output"][0])


def test_a_sparse_autoencoder_in_an_edit_is_read_and_steered():
    class Sae(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = nn.Linear(6, 12), nn.Linear(12, 6)

        def forward(self, x):
            return self.decoder(torch.relu(self.encoder(x)))

    net = build(Chain)
    net.h[2].sae = build(Sae, seed=3)
    model = wrap(net)
    with model.edit(inplace=True):
        model.h[2].output = model.h[2].sae(model.h[2].output, hook=True)
    with model.trace(X):
        features = model.h[2].sae.decoder.input.clone()
        model.h[2].sae.decoder.input[..., 4] = 9.0
        out = model.output

    def steer(value):
        inner = torch.relu(net.h[2].sae.encoder(value))
        kept.append(inner.clone())
        inner[..., 4] = 9.0
        return net.h[2].sae.decoder(inner)

    kept = []
    wanted = hooked(net, (X,), edit={"h.2": steer})
    assert same(features, kept[0])
    assert same(out, wanted[""][0])
