"""Activation checkpoints: right values and gradients, and a refusal where gradients would be wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from nbsight.core.model import wrap
from nbsight.errors import EditError, GraphError
from tests.core.small import Chain, build, close, has_gates, hooked, rows, same

X = rows(2)
BOTH = pytest.mark.parametrize("reentrant", [False, True])


class Saving(Chain):
    """Keeps no activation inside of its blocks."""

    reentrant = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.h:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return self.head(x)


def saving(reentrant: bool) -> nn.Module:
    net = build(Saving)
    net.reentrant = reentrant
    return net


def gradients(place: str, loss_of=lambda out, value: out.sum()):
    """By a plain hook on a model without checkpoints: of the value at a place, and of the input."""
    net, kept = build(Chain), []
    net.get_submodule(place).register_forward_hook(lambda module, given, out: kept.append(out))
    x = X.clone().requires_grad_()
    return torch.autograd.grad(loss_of(net(x), *kept), [*kept, x])


@BOTH
def test_values_are_read_and_edited_inside_where_no_gradients_are_recorded(reentrant):
    net = saving(reentrant)
    model = wrap(net)
    want = hooked(build(Chain), (X,))
    with model.trace(X, grad=False):
        hidden, final = model.h[1].lin.output, model.output
    assert same([hidden, final], [want["h.1.lin.output"][0], want[""][0]])
    with model.trace(X, grad=False):
        model.h[1].lin.output *= 2
        final = model.output
    double = hooked(build(Chain), (X,), edit={"h.1.lin": lambda value: value * 2})
    assert same(final, double[""][0])


@BOTH
def test_the_gradient_of_the_input_is_right_when_values_inside_are_only_read(reentrant):
    net, x = saving(reentrant), X.clone().requires_grad_()
    model = wrap(net)
    with model.trace(x, grad=True):
        model.h[1].lin.output
        hidden = model.h[2].output
        model.output.sum().backward()
    assert close(x.grad, gradients("h.2")[1])
    assert close(hidden, hooked(build(Chain), (X,))["h.2.output"][0])


def test_gradients_of_values_inside_and_outside_are_those_without_a_checkpoint():
    model = wrap(saving(False))
    x = X.clone().requires_grad_()
    with model.trace(x, grad=True):
        inner, block = model.h[1].lin.output, model.h[1].output
        loss = model.output.sum() + (inner * inner).sum()  # computed when the model is past the checkpoint
        with loss.backward():
            found = block.grad, inner.grad
    assert close(found[0], gradients("h.1")[0])
    assert close(found[1], gradients("h.1.lin", lambda out, value: out.sum() + (value * value).sum())[0])


@BOTH
def test_an_edit_inside_would_be_unknown_to_the_second_run_and_is_refused(reentrant):
    model = wrap(saving(reentrant))
    x = X.clone().requires_grad_()
    with pytest.raises(EditError, match=r"(?s)`h\.1\.lin\.output` lies inside an activation.*lin\.output = "):
        with model.trace(x, grad=True):
            model.h[1].lin.output = model.h[1].lin.output * 3
            model.output.sum().backward()
    with pytest.raises(
        EditError, match=r"(?s)`h\.1\.lin\.output` lies inside an activation.*lin\.output\[:\] "
    ):
        with model.trace(x, grad=True):
            model.h[1].lin.output[:] = 0
            model.output.sum().backward()
    with pytest.raises(EditError, match=r"(?s)`h\.1\.lin\.input` lies inside an activation.*lin\.skip\("):
        with model.trace(x, grad=True):
            model.h[1].lin.skip(model.h[1].lin.input)
            model.output.sum().backward()
    assert x.grad is None
    assert not has_gates(model._module)


def test_rows_of_several_invokes_inside_are_refused_too():
    model = wrap(saving(False))
    x = X.clone().requires_grad_()
    with pytest.raises(EditError, match="lies inside an activation checkpoint"):
        with model.trace(grad=True) as tracer:
            with tracer.invoke(x[:1]):
                model.h[1].lin.output[:] = 0
                model.output.sum().backward()
            with tracer.invoke(x[1:]):
                model.output


def test_an_edit_outside_of_the_checkpoints_has_right_gradients():
    net, x = saving(False), X.clone().requires_grad_()
    model = wrap(net)
    with model.trace(x, grad=True):
        model.head.input = model.head.input * 3
        model.output.sum().backward()
    other, again = build(Chain), X.clone().requires_grad_()
    other.head.register_forward_pre_hook(lambda module, given: (given[0] * 3,))
    other(again).sum().backward()
    assert close(x.grad, again.grad)


def test_what_is_computed_inside_says_to_compute_it_later():
    model = wrap(saving(False))
    x = X.clone().requires_grad_()
    with pytest.raises(GraphError, match=r"(?s)compute with them after the next read.*loss\.backward"):
        with model.trace(x, grad=True):
            inner = model.h[1].lin.output
            extra = (inner * inner).sum()
            loss = model.output.sum() + extra
            loss.backward()
