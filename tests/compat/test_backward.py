"""Programs in nnsight's style: gradients."""

# These programs are written as nnsight's users write them.

from __future__ import annotations

import pytest
import torch

import nbsight as nnsight
from tests.compat.models import PROMPT, first, ids_of
from tests.core.small import rows

X, Y = rows(2), rows(1, seed=8)


def plain_gradients(module, x, change=None):
    """The gradient of the summed output after each block, by torch alone."""
    kept = []
    for place, block in enumerate(module.h):
        x = block(x)
        if change and place in change:
            x.register_hook(change[place])
        x.retain_grad()
        kept.append(x)
    module.head(x).sum().backward()
    module.zero_grad()
    return [value.grad for value in kept]


def test_gradients_are_read_inside_a_backward_block(chain):
    with chain.trace(X):
        early, late = chain.h[0].output, chain.h[2].output
        loss = chain.output.sum()
        with loss.backward():
            late_grad = late.grad.save()
            early_grad = early.grad.save()
    wanted = plain_gradients(chain._module, X)
    assert torch.allclose(late_grad, wanted[2], atol=1e-6)
    assert torch.allclose(early_grad, wanted[0], atol=1e-6)


def test_a_written_gradient_flows_on(chain):
    with chain.trace(X):
        early, late = chain.h[0].output, chain.h[2].output
        loss = chain.output.sum()
        with loss.backward():
            late.grad = late.grad * 2
            early_grad = early.grad.save()
    wanted = plain_gradients(chain._module, X, {2: lambda grad: grad * 2})
    assert torch.allclose(early_grad, wanted[0], atol=1e-6)


def test_several_backwards_need_the_graph(chain):
    with chain.trace(X):
        hidden = chain.h[1].output
        out = chain.output
        with out.sum().backward(retain_graph=True):
            one = hidden.grad.clone().save()
        with (out * 2).sum().backward():
            two = hidden.grad.clone().save()
    wanted = plain_gradients(chain._module, X)[1]
    assert torch.allclose(one, wanted, atol=1e-6)
    assert torch.allclose(two, wanted * 2, atol=1e-6)


def test_plain_backward_fills_the_gradients(chain):
    with chain.trace(X):
        hidden = chain.h[1].output
        hidden.retain_grad()
        chain.output.sum().backward()
        grad = hidden.grad.save()
    assert torch.allclose(grad, plain_gradients(chain._module, X)[1], atol=1e-6)


def test_invokes_have_their_own_gradients(chain):
    with chain.trace() as tracer:
        with tracer.invoke(X):
            one = chain.h[1].output
            with chain.output.sum().backward():
                one_grad = one.grad.save()
        with tracer.invoke(Y):
            two = chain.h[1].output
            with (chain.output * 3).sum().backward():
                two_grad = two.grad.save()
    assert torch.allclose(one_grad, plain_gradients(chain._module, X)[1], atol=1e-5)
    assert torch.allclose(two_grad, plain_gradients(chain._module, Y)[1] * 3, atol=1e-5)


def test_attribution_on_a_language_model(model):
    token = 5
    with model.trace(PROMPT):
        hidden = model.transformer.h[3].output[0]
        with model.output.logits[0, -1, token].backward():
            grad = hidden.grad.save()
    kept = []
    module = model._model
    handle = module.transformer.h[3].register_forward_hook(lambda _, __, out: kept.append(first(out)))
    logits = module(ids_of(model, PROMPT)).logits
    handle.remove()
    (wanted,) = torch.autograd.grad(logits[0, -1, token], kept[0])
    assert torch.allclose(grad, wanted, atol=1e-5)


def test_a_loss_can_be_used_for_training_after_the_trace(chain):
    with chain.trace(X, grad=True):
        loss = chain.output.pow(2).mean().save()
    loss.backward()
    grad = chain._module.head.weight.grad.clone()
    chain._module.zero_grad()
    chain._module(X).pow(2).mean().backward()
    assert torch.allclose(grad, chain._module.head.weight.grad)


def test_a_backward_outside_a_trace_is_torchs_own():
    x = torch.ones(3, requires_grad=True)
    assert (x * 2).sum().backward() is None
    assert torch.equal(x.grad, torch.full((3,), 2.0))


def test_generation_has_no_gradients_and_says_so(model):
    with pytest.raises((RuntimeError, nnsight.NbsightError), match="grad"):
        with model.generate(PROMPT, max_new_tokens=1) as tracer:
            hidden = model.transformer.h[0].output[0]
            with model.lm_head.output.sum().backward():
                hidden.grad.save()


def test_a_gradient_of_what_the_loss_does_not_use_is_not_silently_none(chain):
    with pytest.raises(nnsight.NbsightError):
        with chain.trace(X):
            hidden = chain.h[3].output
            with chain.h[3].output.detach().requires_grad_().sum().backward():
                grad = hidden.grad.save()
