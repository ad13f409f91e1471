"""`with loss.backward():` and plain `loss.backward()`, against torch's own hooks."""

from __future__ import annotations

import contextlib
import gc
import pickle
import re
import threading
import weakref
from pathlib import Path

import pytest
import torch
from greenlet import greenlet

from nbsight.core.backward import backward
from nbsight.core.model import wrap
from nbsight.errors import EditError, GraphError
from tests.core.small import Block, Chain, Counter, Formed, build, close, hooked, rows, run_cell, same

TORCHS = torch.Tensor.backward
X, Y = rows(seed=1), rows(seed=2)
PATHS = [f"h.{i}" for i in range(4)]


@pytest.fixture(autouse=True)
def torch_is_itself_again():
    """However a trace is left, torch's `backward` and `.grad` are torch's own afterwards."""
    yield
    assert torch.Tensor.backward is TORCHS
    assert "grad" not in torch.Tensor.__dict__


def loss_of(logits):
    """One number that treats no two logits alike."""
    return (logits * torch.arange(1.0, 6.0)).pow(2).sum()


def wanted(net, x=X, replace=None, of=PATHS, loss=loss_of):
    """The gradients at module outputs, by hooks and `retain_grad`; `replace` changes some on the way."""
    seen = hooked(net, (x,), grad=True)
    values = {path: seen[f"{path}.output"][0] for path in of}
    for path, value in values.items():
        value.retain_grad()
        if replace and path in replace:
            value.register_hook(replace[path])
    before = [parameter.grad for parameter in net.parameters()]
    loss(seen[""][0]).backward()
    for parameter, old in zip(net.parameters(), before, strict=True):
        parameter.grad = old
    return [value.grad for value in values.values()]


def all_the_same(left, right):
    return len(left) == len(right) and all(map(same, left, right))


# -- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1, 0, 2]])
def test_gradients_are_read_in_any_order(order):
    net = build(Chain)
    model = wrap(net)
    with model.trace(X):
        hidden = [block.output for block in model.h]
        loss = loss_of(model.output)
        with loss.backward():
            got = {i: hidden[i].grad for i in order}
    want = wanted(net)
    assert all(same(got[i], want[i]) for i in order)


def test_a_gradient_is_the_same_object_each_time_it_is_read():
    model = wrap(build(Chain))
    with model.trace(X):
        hidden = model.h[1].output
        with loss_of(model.output).backward():
            assert hidden.grad is hidden.grad


def test_a_gradient_can_be_saved():
    net = build(Chain)
    model = wrap(net)
    with model.trace(X):
        hidden = model.h[1].output
        with loss_of(model.output).backward():
            gradient = hidden.grad.save()
    assert same(gradient, wanted(net)[1])
    assert not gradient.requires_grad


def test_the_gradient_is_still_there_after_the_block():
    net = build(Chain)
    model = wrap(net)
    with model.trace(X):
        hidden = model.h[1].output
        with loss_of(model.output).backward():
            inside = hidden.grad
    assert same(hidden.grad, inside)


def test_inputs_have_gradients_too():
    net = build(Chain)
    model = wrap(net)
    with model.trace(X):
        into = model.h[2].input
        (pair,), _ = model.h[3].inputs
        with loss_of(model.output).backward():
            got = [into.grad, pair.grad]
    assert all_the_same(got, wanted(net)[1:3])


def test_tensors_derived_from_traced_ones_have_gradients():
    net = build(Chain)
    model = wrap(net)
    with model.trace(X):
        hidden = model.h[1].output
        doubled = hidden * 2
        model.h[1].output = doubled / 2
        loss = loss_of(model.output)
        with loss.backward():
            first = hidden.grad
            second = doubled.grad
    want = wanted(net)[1]
    assert close(first, want)
    assert close(second, want / 2)


def test_a_nested_value_has_its_gradient():
    net = build(Formed, "nested")
    seen = hooked(net, (X,), grad=True)
    (want,) = torch.autograd.grad(seen[""][0].sum(), seen["part.output"][0][0][0])
    model = wrap(net)
    with model.trace(X):
        hidden = model.part.output[0][0]
        with model.output.sum().backward():
            got = hidden.grad
    assert same(got, want)


def test_a_weights_gradient_is_computed_when_it_is_read():
    net = build(Chain)
    seen = hooked(net, (X,), grad=True)
    want = torch.autograd.grad(loss_of(seen[""][0]), list(net.parameters()))
    model = wrap(net)
    with model.trace(X):
        loss = loss_of(model.output)
        with loss.backward():
            got = [parameter.grad for parameter in net.parameters()]
    assert all(map(close, got, want))
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_loss_of_several_numbers_needs_weights():
    net = build(Chain)
    weights = torch.randn(1, 3, 5, generator=torch.Generator().manual_seed(0))
    seen = hooked(net, (X,), grad=True)
    (want,) = torch.autograd.grad(seen[""][0], seen["h.1.output"][0], weights)
    model = wrap(net)
    with model.trace(X):
        hidden = model.h[1].output
        with model.output.backward(gradient=weights):
            got = hidden.grad
    assert same(got, want)
    with pytest.raises(GraphError, match="gradient="):
        with model.trace(X):
            with model.output.backward():
                pass


def test_a_gradient_can_be_part_of_a_graph():
    net = build(Chain)
    seen = hooked(net, (X,), grad=True)
    at = seen["h.1.output"][0]
    (first,) = torch.autograd.grad(loss_of(seen[""][0]), at, create_graph=True)
    (want,) = torch.autograd.grad(first.pow(2).sum(), at)
    model = wrap(net)
    with model.trace(X):
        hidden = model.h[1].output
        with loss_of(model.output).backward(create_graph=True):
            gradient = hidden.grad
        with gradient.pow(2).sum().backward():
            got = hidden.grad
    assert same(got, want)


# -- writing ---------------------------------------------------------------------------------------


def by_assignment(hidden):
    hidden.grad = hidden.grad * 3


def by_operator(hidden):
    hidden.grad *= 3


def in_place(hidden):
    hidden.grad[:] = hidden.grad * 3


def by_name(hidden):
    gradient = hidden.grad
    gradient.mul_(3)


@pytest.mark.parametrize("change", [by_assignment, by_operator, in_place, by_name])
def test_what_lies_further_up_sees_a_changed_gradient(change):
    net = build(Chain)
    model = wrap(net)
    with model.trace(X):
        hidden = [block.output for block in model.h]
        with loss_of(model.output).backward():
            change(hidden[2])
            got = [value.grad for value in hidden]
    want = wanted(net, replace={"h.2": lambda gradient: gradient * 3})
    assert all_the_same(got, want)


def test_what_was_read_before_a_change_keeps_its_numbers():
    net = build(Chain)
    model = wrap(net)
    with model.trace(X):
        hidden = [block.output for block in model.h]
        with loss_of(model.output).backward():
            above, below = hidden[0].grad, hidden[3].grad
            hidden[2].grad = torch.zeros_like(hidden[2])
            assert torch.equal(hidden[0].grad, torch.zeros_like(above))
            assert hidden[3].grad is below
    assert same(above, wanted(net)[0])


def test_two_changes_add_up():
    net = build(Chain)
    model = wrap(net)
    with model.trace(X):
        hidden = [block.output for block in model.h]
        with loss_of(model.output).backward():
            hidden[1].grad[:, 0] = 0
            hidden[3].grad = hidden[3].grad + 1
            hidden[1].grad = hidden[1].grad * 2
            got = hidden[0].grad
    # By then the gradient at block 1 is a fixed tensor: it was changed before block 3's was.
    mask = torch.ones(1, 3, 1)
    mask[:, 0] = 0
    fixed = wanted(net)[1] * mask * 2
    want = wanted(net, replace={"h.1": lambda _: fixed})[0]
    assert close(got, want)


def test_a_change_that_comes_first_needs_no_read():
    net = build(Chain)
    model = wrap(net)
    ones = torch.ones(1, 3, 6)
    with model.trace(X):
        hidden = [block.output for block in model.h]
        with loss_of(model.output).backward():
            hidden[2].grad = ones
            got = hidden[1].grad
    assert same(got, wanted(net, replace={"h.2": lambda _: ones})[1])


def test_a_change_lasts_as_long_as_its_block():
    net = build(Chain)
    model = wrap(net)
    with model.trace(X):
        hidden = [block.output for block in model.h]
        loss = loss_of(model.output)
        with loss.backward(retain_graph=True):
            hidden[2].grad = hidden[2].grad * 3
        with loss.backward():
            got = [value.grad for value in hidden]
    assert all_the_same(got, wanted(net))


def test_changing_one_of_two_equal_gradients_leaves_the_other():
    model = wrap(build(Block))
    with model.trace(X):
        branch = model.act.output
        total = branch + X.clone().requires_grad_()
        with total.sum().backward():
            total.grad[:] = 5
            assert torch.equal(branch.grad, torch.full((1, 3, 6), 5.0))
            branch.grad[:] = 7
            assert torch.equal(total.grad, torch.full((1, 3, 6), 5.0))


def test_a_gradient_that_is_out_of_date_cannot_be_changed():
    model = wrap(build(Chain))
    with pytest.raises(GraphError, match="out of date"):
        with model.trace(X):
            hidden = [block.output for block in model.h]
            with loss_of(model.output).backward():
                old = hidden[0].grad
                hidden[2].grad = torch.zeros_like(hidden[2])
                old[:] = 1
                hidden[1].grad


@pytest.mark.parametrize("value", [None, 0, torch.zeros(2)])
def test_only_a_tensor_of_the_same_shape_is_a_gradient(value):
    model = wrap(build(Chain))
    with pytest.raises(EditError, match=r"\(1, 3, 6\)"):
        with model.trace(X):
            hidden = model.h[1].output
            with loss_of(model.output).backward():
                hidden.grad = value


# -- several passes --------------------------------------------------------------------------------


def test_several_passes_with_a_retained_graph():
    net = build(Chain)
    model = wrap(net)
    with model.trace(X):
        hidden = [block.output for block in model.h]
        logits = model.output
        with logits[..., 0].sum().backward(retain_graph=True):
            first = [value.grad for value in hidden]
        with logits[..., 1].sum().backward():
            second = [value.grad for value in hidden[::-1]][::-1]
    assert all_the_same(first, wanted(net, loss=lambda logits: logits[..., 0].sum()))
    assert all_the_same(second, wanted(net, loss=lambda logits: logits[..., 1].sum()))


@pytest.mark.parametrize("form", ["block", "plain"])
def test_a_second_pass_without_a_retained_graph_names_the_option(form):
    model = wrap(build(Chain).eval())
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        with model.trace(X):
            hidden = model.h[1].output
            loss = loss_of(model.output)
            with loss.backward():
                hidden.grad
            if form == "plain":
                loss.backward()
            else:
                with loss.backward():
                    hidden.grad


def test_a_block_within_a_block_has_gradients_of_its_own():
    net = build(Chain)
    model = wrap(net)
    with model.trace(X):
        hidden = model.h[1].output
        logits = model.output
        with logits[..., 0].sum().backward(retain_graph=True):
            with logits[..., 1].sum().backward(retain_graph=True):
                inner = hidden.grad
            outer = hidden.grad
    assert same(outer, wanted(net, loss=lambda logits: logits[..., 0].sum())[1])
    assert same(inner, wanted(net, loss=lambda logits: logits[..., 1].sum())[1])


def test_the_forward_can_go_on_after_a_backward_pass():
    net = build(Chain)
    model = wrap(net)
    with model.trace(X):
        first = model.h[1].output
        with first.pow(2).sum().backward(retain_graph=True):
            early = first.grad
        with loss_of(model.output).backward():
            late = first.grad
    assert same(early, 2 * hooked(net, (X,))["h.1.output"][0])
    assert same(late, wanted(net)[1])


# -- what stays as it was --------------------------------------------------------------------------


def test_weights_get_no_gradients_from_a_block():
    net = build(Chain)
    model = wrap(net)
    with model.trace(X):
        hidden = model.h[1].output
        with loss_of(model.output).backward():
            hidden.grad
    assert all(parameter.grad is None for parameter in net.parameters())


def test_the_users_own_leaves_get_theirs():
    net = build(Chain)
    scale, probe = (torch.full((6,), 2.0, requires_grad=True) for _ in range(2))
    seen = hooked(net, (X,), edit={"h.1": lambda value: value * scale}, grad=True)
    want = torch.autograd.grad(loss_of(seen[""][0]) + seen["h.2.output"][0].sum() * 2, scale)[0]
    model = wrap(net)
    with model.trace(X):
        model.h[1].output = model.h[1].output * scale
        side = (model.h[2].output * probe).sum()
        with (loss_of(model.output) + side).backward():
            pass
    assert close(scale.grad, want)
    assert probe.grad is not None
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("how", ["train", "frozen beside it"])
def test_a_model_that_is_being_trained_gets_the_gradients_of_its_weights(how):
    net = build(Chain)
    if how == "train":
        net.train()
    else:
        net.h.requires_grad_(False)
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    want = torch.autograd.grad(loss_of(net(X)), trained)
    model = wrap(net)
    with model.trace(X):
        with loss_of(model.output).backward():
            pass
    assert all_the_same([parameter.grad for parameter in trained], list(want))


def test_a_changed_gradient_reaches_the_leaves_that_are_filled():
    net = build(Chain)
    scale = torch.full((6,), 2.0, requires_grad=True)
    seen = hooked(net, (X,), edit={"h.1": lambda value: value * scale}, grad=True)
    seen["h.2.output"][0].register_hook(lambda gradient: gradient * 3)
    (want,) = torch.autograd.grad(loss_of(seen[""][0]), scale)
    model = wrap(net)
    with model.trace(X):
        model.h[1].output = model.h[1].output * scale
        hidden = model.h[2].output
        with loss_of(model.output).backward():
            hidden.grad.mul_(3)
    assert same(scale.grad, want)


def test_inputs_say_which_leaves_are_filled():
    net = build(Chain)
    want = torch.autograd.grad(loss_of(net(X)), net.head.weight)[0]
    model = wrap(net)
    with model.trace(X):
        with loss_of(model.output).backward(inputs=[net.head.weight]):
            pass
    assert same(net.head.weight.grad, want)
    assert net.head.bias.grad is None


def test_an_optimizer_can_step_inside_the_block():
    net, other = build(Chain), build(Chain)
    loss_of(other(X)).backward()
    torch.optim.SGD(other.parameters(), 0.1).step()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    model = wrap(net)
    with model.trace(X):
        with loss_of(model.output).backward():
            optimizer.step()
            optimizer.zero_grad()
    assert all(map(close, net.parameters(), other.parameters()))


# -- plain backward --------------------------------------------------------------------------------


def test_a_plain_backward_in_the_trace_fills_grad_of_what_was_read():
    net = build(Chain)
    model = wrap(net)
    with model.trace(X):
        hidden = [block.output for block in model.h]
        loss_of(model.output).backward()
        got = [value.grad for value in hidden]
    assert all_the_same(got, wanted(net))
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_a_plain_backward_after_the_trace_fills_grad_of_what_was_read():
    net = build(Chain)
    model = wrap(net)
    with model.trace(X):
        hidden = [block.output for block in model.h]
        loss = loss_of(model.output).save()
    loss.backward()
    assert all_the_same([value.grad for value in hidden], wanted(net))


def test_a_backward_after_a_retained_block_works():
    net = build(Chain)
    model = wrap(net)
    with model.trace(X):
        hidden = model.h[1].output
        loss = loss_of(model.output)
        with loss.backward(retain_graph=True):
            first = hidden.grad.clone()
    loss.backward()
    assert same(first, wanted(net)[1])
    assert same(hidden.grad, 2 * first)  # torch adds up


@pytest.mark.parametrize("form", ["trace", "invoke"])
def test_after_a_plain_backward_no_gradient_is_silently_none(form):
    model = wrap(build(Chain))
    with pytest.raises(GraphError) as caught:
        if form == "invoke":
            with model.trace() as tracer:
                with tracer.invoke(X):
                    early = model.h[1].output
                    late = model.h[2].output
                    early.sum().backward()
                    late.grad
                with tracer.invoke(Y):
                    model.output
        with model.trace(X):
            early = model.h[1].output
            late = model.h[2].output
            early.sum().backward()
            late.grad
    assert "late = model.h[2].output" in str(caught.value)
    assert "early.sum().backward()" in str(caught.value)
    assert torch._C._len_torch_function_stack() == 0


# -- invokes ---------------------------------------------------------------------------------------


def test_blocks_in_invokes_are_those_of_separate_runs():
    net = build(Chain)
    model = wrap(net)
    with model.trace() as tracer:
        with tracer.invoke(X):
            one = [block.output for block in model.h]
            with loss_of(model.output).backward():
                a = [value.grad for value in one]
        with tracer.invoke(Y):
            two = [block.output for block in model.h]
            with loss_of(model.output).backward():
                two[2].grad *= 3
                b = [value.grad for value in two]
    assert all(map(close, a, wanted(net)))
    assert all(map(close, b, wanted(net, Y, replace={"h.2": lambda gradient: gradient * 3})))


def test_plain_backward_in_invokes_is_that_of_separate_runs():
    net = build(Chain)
    model = wrap(net)
    with model.trace() as tracer:
        with tracer.invoke(X):
            one = model.h[1].output
            loss_of(model.output).backward()
            a = one.grad.clone()
        with tracer.invoke(Y):
            two = model.h[1].output
            loss_of(model.output).backward()
            b = two.grad.clone()
    assert close(a, wanted(net)[1])
    assert close(b, wanted(net, Y)[1])


def test_what_an_invoke_puts_there_has_a_gradient():
    net = build(Chain)
    model = wrap(net)
    with model.trace() as tracer:
        with tracer.invoke(X):
            value = model.h[1].output * 2
            model.h[1].output = value
            with loss_of(model.output).backward():
                got = value.grad
        with tracer.invoke(Y):
            model.h[1].output[:] = 0
            after = model.h[1].output
            with loss_of(model.output).backward():
                zeroed = after.grad
    seen = hooked(net, (X,), edit={"h.1": lambda value: value * 2}, grad=True)
    (want,) = torch.autograd.grad(loss_of(seen[""][0]), seen["h.1.output"][0])
    assert close(got, want)
    seen = hooked(net, (Y,), edit={"h.1": lambda value: value * 0}, grad=True)
    (want,) = torch.autograd.grad(loss_of(seen[""][0]), seen["h.1.output"][0])
    assert close(zeroed, want)


def test_values_of_frozen_models_can_be_made_to_need_gradients():
    net = build(Chain)
    want = wanted(net)[1], wanted(net, Y)[1]
    net.requires_grad_(False)
    model = wrap(net)
    with model.trace(X):
        hidden = model.h[1].output.requires_grad_()
        with loss_of(model.output).backward():
            alone = hidden.grad
    with model.trace() as tracer:
        with tracer.invoke(X):
            one = model.h[1].output.requires_grad_()
            with loss_of(model.output).backward():
                a = one.grad
        with tracer.invoke(Y):
            two = model.h[1].output.requires_grad_()
            with loss_of(model.output).backward():
                b = two.grad
    assert same(alone, want[0])
    assert close(a, want[0])
    assert close(b, want[1])


# -- nested traces and sessions --------------------------------------------------------------------


def test_a_trace_within_a_trace_shares_the_loss():
    net, other = build(Chain), build(Chain, seed=1)
    model, second = wrap(net), wrap(other)
    with model.trace(X):
        hidden = model.h[1].output
        ours = loss_of(model.output)
        with second.trace(Y):
            theirs = second.h[1].output
            with (ours + loss_of(second.output)).backward():
                got = [hidden.grad, theirs.grad]
    assert all_the_same(got, [wanted(net)[1], wanted(other, Y)[1]])


def test_a_trace_can_run_inside_a_backward_block():
    net = build(Chain)
    model = wrap(net)
    with model.trace(X):
        hidden = model.h[1].output
        with loss_of(model.output).backward():
            with wrap(build(Chain, seed=1)).trace(Y) as inner:
                other = inner.root.h[1].output
            got = hidden.grad
    assert same(got, wanted(net)[1])
    assert same(other, hooked(build(Chain, seed=1), (Y,))["h.1.output"][0])


# -- outside of traces -----------------------------------------------------------------------------


def test_plain_tensors_have_a_block_of_their_own():
    x = torch.ones(3, requires_grad=True)
    y = x * 2
    z = y * y
    with backward(z.sum()):
        y.grad = y.grad * 10
        got = y.grad, x.grad
    assert torch.equal(got[0], torch.full((3,), 40.0))
    assert torch.equal(got[1], torch.full((3,), 80.0))
    assert torch.equal(x.grad, torch.full((3,), 80.0))


def test_the_function_does_the_same_inside_a_trace():
    net = build(Chain)
    model = wrap(net)
    with contextlib.ExitStack() as stack:
        stack.enter_context(model.trace(X))
        hidden = model.h[1].output
        stack.enter_context(backward(loss_of(model.output)))
        got = hidden.grad
    assert same(got, wanted(net)[1])


def test_a_block_in_a_cell_is_recognised():
    names = run_cell(
        """
        with model.trace(X):
            h = model.h[1].output
            with model.output.sum().backward(): g = h.grad
        """,
        {"model": wrap(build(Chain)), "X": X},
    )
    assert same(names["g"], wanted(build(Chain), loss=torch.sum)[1])


# -- errors ----------------------------------------------------------------------------------------


def test_a_tensor_that_the_loss_does_not_depend_on_is_named_with_both_lines():
    model = wrap(build(Chain))
    with pytest.raises(GraphError) as caught:
        with model.trace(X):
            copy = model.h[1].output.clone()
            late = model.h[2].output
            with copy.sum().backward():
                late.grad
    text = str(caught.value)
    assert "`h.2.output`" in text
    assert "late = model.h[2].output" in text
    assert "with copy.sum().backward():" in text


def test_a_value_without_a_graph_is_named():
    model = wrap(build(Chain))
    with pytest.raises(GraphError, match="not part of a graph"):
        with model.trace(X):
            into = model.h[0].input
            with loss_of(model.output).backward():
                into.grad


def test_a_trace_without_gradients_names_the_switch():
    model = wrap(build(Chain))
    for form in ("block", "plain"):
        with pytest.raises(GraphError, match="grad=True"):
            with model.trace(X, grad=False):
                if form == "plain":
                    loss_of(model.output).backward()
                else:
                    with loss_of(model.output).backward():
                        pass


def test_a_trace_without_gradients_inside_one_with_them_names_the_switch():
    model, other = wrap(build(Chain)), wrap(build(Chain))
    with pytest.raises(GraphError, match="grad=True"):
        with model.trace(X):
            with other.trace(X, grad=False):
                with loss_of(other.output).backward():
                    pass


def test_no_grad_around_the_trace_is_named():
    model = wrap(build(Chain))
    with pytest.raises(GraphError, match="stands inside"):
        with torch.no_grad():
            with model.trace(X):
                with loss_of(model.output).backward():
                    pass


def test_a_frozen_model_says_what_to_write():
    model = wrap(build(Chain).requires_grad_(False))
    with pytest.raises(GraphError, match=r"requires_grad_\(\)"):
        with model.trace(X):
            with loss_of(model.output).backward():
                pass


def test_generation_says_that_it_records_none():
    model = wrap(build(Counter))
    with pytest.raises(GraphError, match="generate"):
        with model.generate(X):
            with model.b.output.sum().backward():
                pass


def test_errors_in_an_invoke_reach_the_user():
    model = wrap(build(Chain))
    for _ in range(20):
        with pytest.raises(RuntimeError, match="retain_graph=True"):
            with model.trace() as tracer:
                with tracer.invoke(X):
                    hidden = model.h[1].output
                    loss = model.output.pow(2).sum()
                    torch.autograd.backward(loss)
                    with loss.backward():
                        hidden.grad
                with tracer.invoke(Y):
                    model.output


# -- threads, generators, leaving ------------------------------------------------------------------


def test_other_threads_have_torchs_own_backward():
    entered, done = threading.Event(), threading.Event()
    seen = {}

    def other():
        entered.wait()
        x = torch.ones(2, requires_grad=True)
        y = x * 2
        y.retain_grad()
        try:
            with y.sum().backward():
                pass
        except (TypeError, AttributeError):
            seen["no block"] = True
        seen["grad"] = y.grad
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    model = wrap(build(Chain))
    with model.trace(X):
        hidden = model.h[1].output
        with loss_of(model.output).backward():
            entered.set()
            done.wait()
            hidden.grad
    thread.join()
    assert seen["no block"]
    assert torch.equal(seen["grad"], torch.ones(2))


def test_threads_that_trace_one_model_have_their_own_gradients():
    net = build(Chain)
    model = wrap(net)
    inputs = [rows(seed=seed) for seed in range(4)]
    got: dict[int, list[torch.Tensor]] = {}

    def work(number):
        for _ in range(15):
            with model.trace(inputs[number]):
                hidden = [block.output for block in model.h]
                with loss_of(model.output).backward():
                    hidden[2].grad *= number
                    got[number] = [value.grad for value in hidden]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        want = wanted(net, inputs[number], replace={"h.2": lambda gradient, n=number: gradient * n})
        assert all_the_same(got[number], want)


def test_a_greenlet_of_the_users_own_has_torchs_grad():
    model = wrap(build(Chain))
    x = torch.ones(2, requires_grad=True)
    with model.trace(X):
        with loss_of(model.output).backward():
            assert greenlet(lambda: x.grad).switch() is None


class Mistake(Exception):
    pass


@pytest.mark.parametrize("place", ["trace", "block", "invoke"])
def test_an_error_leaves_nothing_behind(place):
    model = wrap(build(Chain))
    with pytest.raises(Mistake):
        if place == "invoke":
            with model.trace() as tracer:
                with tracer.invoke(X):
                    with loss_of(model.output).backward():
                        raise Mistake
        with model.trace(X):
            loss = loss_of(model.output)
            if place == "trace":
                raise Mistake
            with loss.backward():
                raise Mistake
    assert torch.Tensor.backward is TORCHS
    assert torch._C._len_torch_function_stack() == 0


def test_a_generator_that_is_closed_half_way_leaves_nothing_behind():
    model = wrap(build(Chain))

    def steps():
        with model.trace(X):
            hidden = model.h[1].output
            with loss_of(model.output).backward():
                yield hidden.grad

    generator = steps()
    assert next(generator) is not None
    generator.close()
    assert torch.Tensor.backward is TORCHS
    assert torch._C._len_torch_function_stack() == 0


def test_stopping_the_trace_inside_the_block_leaves_nothing_behind():
    net = build(Chain)
    model = wrap(net)
    with model.trace(X) as tracer:
        hidden = model.h[1].output
        with loss_of(model.output).backward():
            got = hidden.grad
            tracer.stop()
    assert same(got, wanted(net)[1])
    assert torch._C._len_torch_function_stack() == 0


# -- memory ----------------------------------------------------------------------------------------


class Watched(torch.autograd.Function):
    """Saves a tensor whose life can be watched."""

    kept: weakref.ref

    @staticmethod
    def forward(ctx, x):
        own = x.clone()
        Watched.kept = weakref.ref(own)
        ctx.save_for_backward(own.detach().clone())
        ctx.own = own
        return x * 1

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def test_a_block_frees_what_the_graph_holds_although_tensors_live_on():
    net = build(Chain)
    model = wrap(net)
    with model.trace(X):
        hidden = model.h[1].output
        squared = hidden.pow(2)
        model.h[1].output = squared
        loss = loss_of(model.output)
        with loss.backward():
            hidden.grad
    node = squared.grad_fn
    assert loss.requires_grad
    with pytest.raises(RuntimeError, match="freed"):
        node._saved_self


def test_a_retained_graph_is_kept():
    model = wrap(build(Chain))
    with model.trace(X):
        squared = model.h[1].output.pow(2)
        model.h[1].output = squared
        with loss_of(model.output).backward(retain_graph=True):
            squared.grad
    assert squared.grad_fn._saved_self is not None


@pytest.mark.parametrize("form", ["block", "plain", "none"])
def test_nothing_keeps_a_graph_alive_after_the_trace(form):
    net = build(Chain)
    model = wrap(net)

    def work(tracer_out):
        with model.trace(X) as tracer:
            hidden = model.h[1].output
            model.h[2].output = model.h[2].output * 2
            mark = Watched.apply(model.h[3].output)
            model.h[3].output = mark
            loss = loss_of(model.output)
            if form == "block":
                with loss.backward() as block:
                    hidden.grad *= 2
                tracer_out.append(block)
            elif form == "plain":
                loss.backward()
        tracer_out.append(tracer)
        return hidden.detach()

    kept: list = []
    work(kept)
    gc.collect()
    assert Watched.kept() is None
    assert kept


def test_traces_with_blocks_leave_no_cycles():
    model = wrap(build(Chain))

    def once():
        with model.trace(X):
            hidden = model.h[1].output
            with loss_of(model.output).backward():
                hidden.grad *= 2
            return weakref.ref(hidden)

    once()
    gc.collect()
    gc.disable()
    try:
        assert once()() is None
    finally:
        gc.enable()


def test_gradients_can_be_pickled():
    model = wrap(build(Chain))
    with model.trace(X):
        hidden = model.h[1].output
        with loss_of(model.output).backward():
            gradient = hidden.grad
    assert same(pickle.loads(pickle.dumps(gradient)), gradient)


# -- the page --------------------------------------------------------------------------------------


def test_the_examples_of_the_page_run():
    text = (Path(__file__).parents[2] / "docs" / "gradients.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) > 5
    with torch.random.fork_rng(devices=[]):
        names: dict = {"__name__": "__main__"}
        for example in examples:
            run_cell(example, names)
