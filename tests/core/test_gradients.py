"""When a trace records gradients, and that they are torch's own."""

from __future__ import annotations

import pytest
import torch

from nbsight.core.model import wrap
from tests.core.small import Chain, build, hooked, rows, same

X, Y = rows(seed=1), rows(seed=2)


def plain_gradient(net, x, path):
    """The gradient of the summed logits at a module's output: by a hook and autograd."""
    seen = hooked(net, (x,), grad=True)
    (gradient,) = torch.autograd.grad(seen[""][0].sum(), seen[f"{path}.output"][0])
    return gradient


def read_only(model):
    with model.trace(X):
        hidden = model.h[1].output
        final = model.output
    return hidden, final


def test_a_block_that_does_not_speak_of_gradients_records_none():
    hidden, final = read_only(wrap(build(Chain)))
    assert not hidden.requires_grad
    assert final.grad_fn is None
    assert hidden.numpy().shape == (1, 3, 6)


def test_a_block_whose_function_speaks_of_gradients_records_them():
    net = build(Chain)
    model = wrap(net)
    with model.trace(X):
        hidden = model.h[1].output
        hidden.retain_grad()
        loss = model.output.sum()
    loss.backward()
    assert same(hidden.grad, plain_gradient(net, X, "h.1"))


def test_backward_works_inside_the_block():
    net = build(Chain)
    model = wrap(net)
    with model.trace(X):
        hidden = model.h[1].output
        hidden.retain_grad()
        model.output.sum().backward()
        inside = hidden.grad
    assert same(inside, plain_gradient(net, X, "h.1"))


def test_gradients_of_an_edited_run_go_through_the_edit():
    net = build(Chain)
    scale = torch.tensor(2.0, requires_grad=True)
    seen = hooked(net, (X,), edit={"h.1": lambda value: value * scale}, grad=True)
    (want,) = torch.autograd.grad(seen[""][0].sum(), scale)
    model = wrap(net)
    with model.trace(X):
        model.h[1].output = model.h[1].output * scale
        (got,) = torch.autograd.grad(model.output.sum(), scale)
    assert same(got, want)


def test_gradients_of_invokes_are_those_of_separate_runs():
    net = build(Chain)
    model = wrap(net)
    with model.trace() as tracer:
        with tracer.invoke(X):
            one = model.h[1].output
            a = model.output.sum()
        with tracer.invoke(Y):
            two = model.h[1].output
            b = model.output.sum()
    for hidden, loss, x in ((one, a, X), (two, b, Y)):
        (got,) = torch.autograd.grad(loss, hidden, retain_graph=True, allow_unused=True)
        assert got is not None
        assert torch.allclose(got, plain_gradient(net, x, "h.1"), atol=1e-6)


def test_grad_true_records_and_grad_false_does_not():
    model = wrap(build(Chain))
    for grad in (True, False):
        with model.trace(X, grad=grad):
            hidden = model.h[1].output
        assert hidden.requires_grad is grad


def test_an_outer_no_grad_is_respected():
    model = wrap(build(Chain))
    with torch.no_grad():
        with model.trace(X, grad=True):
            hidden = model.h[1].output
    assert not hidden.requires_grad


def test_the_models_weights_gather_no_gradients_unasked():
    net = build(Chain)
    read_only(wrap(net))
    assert all(parameter.grad is None for parameter in net.parameters())


def helper(loss):
    loss.sum().backward()


class Hidden:
    """Keeps its backward where the code around a trace does not show it."""

    def go(self, loss):
        loss.sum().backward()


def test_a_function_that_is_called_by_name_is_asked_for_gradients():
    model = wrap(build(Chain))
    with model.trace(X):
        loss = model.output
    helper(loss)
    assert model._module.head.weight.grad is not None


def test_a_backward_that_nothing_announced_names_the_switch():
    model = wrap(build(Chain))
    hidden = Hidden()
    with pytest.raises(RuntimeError, match="grad=True"), model.trace(X):
        hidden.go(model.output)


def test_a_trace_entered_by_an_exit_stack_follows_the_users_function():
    import contextlib

    model = wrap(build(Chain))
    with contextlib.ExitStack() as stack:
        stack.enter_context(model.trace(X))
        loss = model.output.sum()
    loss.backward()
    assert model._module.head.weight.grad is not None
