"""Where a second forward is not made, what it must not be used for, and who is told of it."""

from __future__ import annotations

import contextlib
import gc
import weakref

import pytest
import torch
from torch import nn

from nbsight.core.model import wrap
from nbsight.errors import NeverCalledError, OutOfOrderError
from tests.core.small import (
    WIDTH,
    Block,
    Chain,
    Counter,
    Repeats,
    build,
    has_gates,
    hooked,
    rows,
    run_cell,
    same,
)

X, Y = rows(seed=1), rows(seed=2)

pytestmark = pytest.mark.filterwarnings("ignore::nbsight.errors.OrderNotice")


@pytest.fixture
def net():
    return build(Chain)


@pytest.fixture
def model(net):
    return wrap(net)


def forwards(net):
    """A list that grows by one entry with each forward."""
    seen = []
    net.register_forward_pre_hook(lambda *_: seen.append(1))
    return seen


class Tailed(nn.Module):
    """Blocks, and one module in the middle of them."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.first = Block()
        self.middle = middle
        self.last = Block()
        self.never = Block()

    def forward(self, x):
        return self.last(self.middle(self.first(x)))


# -- it cannot be the same run ---------------------------------------------------------------------


def refused(model, match, x=X, **options):
    with pytest.raises(OutOfOrderError, match=match) as caught, model.trace(x, **options):
        late = model.last.output
        early = model.middle.output
    text = str(caught.value)
    assert "late = model.last.output" in text
    assert "early = model.middle.output" in text
    assert "before line" in text
    assert not has_gates(model._module)


def test_dropout_is_not_repeated_and_the_generator_is_left_alone():
    net = build(Tailed, nn.Dropout(0.5)).train()
    model = wrap(net)
    torch.manual_seed(0)
    with torch.no_grad():
        net(X)
    after_one = torch.get_rng_state()
    torch.manual_seed(0)
    refused(model, "random numbers")
    assert torch.equal(torch.get_rng_state(), after_one)
    net.eval()
    with model.trace(X):
        model.last.output
        assert same(model.middle.output, model.first.output)


def test_what_comes_before_the_first_random_number_cannot_be_read_either_after_it():
    model = wrap(build(Tailed, nn.Dropout(0.5)).train())
    with pytest.raises(OutOfOrderError, match="random numbers"), model.trace(X):
        model.last.output
        first = model.first.output  # no random number yet
        model.middle.output


def test_running_statistics_are_not_counted_twice():
    net = build(Tailed, nn.BatchNorm1d(3)).train()
    model = wrap(net)
    with torch.no_grad():
        net(X)
    refused(model, "running statistics")
    assert int(net.middle.num_batches_tracked) == 2  # once above, once in the trace
    net.eval()
    with model.trace(X):
        model.last.output
        model.middle.output


class Drifting(nn.Module):
    """Computes something else each time."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


def test_a_model_that_does_not_compute_the_same_twice_is_found_out():
    model = wrap(build(Tailed, Drifting()))
    with pytest.raises(OutOfOrderError, match=r"not the same as the first: they differ at `last.output`"):
        with model.trace(X):
            late = model.last.output
            early = model.middle.output
    with pytest.raises(OutOfOrderError, match=r"not the same as the first: they differ at `last.output`"):
        with model.trace() as tracer:
            with tracer.invoke(X):
                late = model.last.output
                early = model.middle.output


def test_at_the_end_of_the_model_what_is_returned_is_compared():
    model = wrap(build(Tailed, Drifting()))
    with pytest.raises(OutOfOrderError, match=r"not the same as the first: they return something else"):
        with model.trace(X) as tracer:
            tracer.result
            early = model.middle.output


def test_a_module_whose_calls_were_not_all_seen_is_not_taken_for_another_call():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(WIDTH, WIDTH)
            self.mid = nn.Linear(WIDTH, WIDTH)
            self.last = nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            return self.last(self.lin(self.mid(self.lin(x))))

    net = build(Twice)
    for way in ("read", "edit", "edit and end"):
        model = wrap(net)  # that has no habits yet: gates are hung up one by one
        with pytest.raises(OutOfOrderError, match="not the same as the first"), model.trace(X) as tracer:
            model.mid.output
            second = model.lin.output  # nobody has seen the first call
            if way != "read":
                second[:] = 1
                model.last.output
            if way == "edit and end":
                tracer.result
            model.mid.input
    with model.trace(X):
        first = model.lin.output
        middle = model.mid.output
        model.lin.output[:] = 1
        last = model.last.output
        again = model.mid.input
    assert same(again, net.lin(X).detach())
    assert same(first, again)
    assert same(last, net.last(torch.ones(1, 3, WIDTH)).detach())


def test_a_weight_that_the_block_changes_is_found_out(net, model):
    with pytest.raises(OutOfOrderError, match=r"differ at `h.3.output`"):
        with model.trace(X):
            late = model.h[3].output
            net.h[1].lin.weight.data.mul_(2)
            early = model.h[2].output


def test_an_earlier_value_changed_in_place_while_the_model_still_used_it_is_found_out(net, model):
    with pytest.raises(OutOfOrderError, match=r"not the same as the first: they differ at `h.3.output`"):
        with model.trace(X):
            residual = model.h[0].output
            model.h[1].lin.output
            residual += 1  # the model has yet to add it
            model.h[3].output
            model.h[2].output


class InPlace(nn.Module):
    def forward(self, x):
        return x.mul_(2)


def test_an_input_that_the_model_changes_in_place_cannot_be_given_again():
    net = build(Tailed, nn.Identity())
    net.first = InPlace()
    refused(wrap(net), "the input was changed in place", x=X.clone())


def test_an_edit_whose_value_the_model_changes_in_place_cannot_be_put_back():
    model = wrap(build(Tailed, InPlace()))
    with pytest.raises(OutOfOrderError, match=r"written to `first.output` was changed in place later"):
        with model.trace(X):
            model.first.output = torch.ones(1, 3, WIDTH)
            model.last.output
            model.first.lin.output


def test_a_model_with_operations_in_place_can_be_repeated_without_edits():
    net = build(Tailed, InPlace())
    model = wrap(net)
    with model.trace(X):
        late = model.last.output
        early = model.first.lin.output
        mid = model.middle.output.clone()
    assert same(early, hooked(net, (X,))["first.lin.output"][0])
    assert same(mid, hooked(net, (X,))["middle.output"][0])


def test_a_trace_with_gradients_says_why_it_is_not_repeated():
    model = wrap(build(Tailed, nn.Tanh()))
    refused(model, "on the way to a loss", grad=True)
    with torch.no_grad(), model.trace(X, grad=True):  # records none
        model.last.output
        model.middle.output


def test_inference_mode_says_why_it_is_not_repeated():
    with torch.inference_mode():
        refused(wrap(build(Tailed, nn.Tanh())), "inference mode")
        inside = rows()
    refused(wrap(build(Tailed, nn.Tanh())), "inference mode", x=inside)


class Store:
    """Something that a forward may fill."""


class Storing(Tailed):
    def forward(self, x, store=None):
        return super().forward(x)


def test_an_input_that_a_forward_may_have_changed_is_not_given_again():
    refused(wrap(build(Storing, nn.Tanh())), "holds a Store", store=Store())
    with pytest.raises(OutOfOrderError, match="after the model had passed it"):
        model = wrap(build(Counter))
        with model.generate(X) as tracer:
            model.b.output
            model.a.output


def test_kept_edits_that_draw_random_numbers_are_not_repeated(model):
    with model.edit(inplace=True):
        model.h[1].output = model.h[1].output + torch.randn(1, 3, WIDTH)
    with pytest.raises(OutOfOrderError, match="random numbers"), model.trace(X):
        model.h[3].output
        model.h[2].output


def test_the_blocks_own_random_numbers_do_not_matter(net, model):
    torch.manual_seed(0)
    with model.trace(X):
        model.h[0].output[:] = torch.randn(1, 3, WIDTH)
        noise = torch.randn(3)
        model.h[3].output
        more = torch.randn(3)
        early = model.h[1].output
        last = torch.randn(3)
    torch.manual_seed(0)
    drawn = [torch.randn(1, 3, WIDTH), *(torch.randn(3) for _ in range(3))]
    assert all(map(torch.equal, drawn[1:], (noise, more, last)))
    assert same(early, hooked(net, (X,), edit={"h.0": lambda _: drawn[0]})["h.1.output"][0])


def test_the_flag_makes_it_an_error_for_a_trace_and_for_a_model(net, model):
    seen = forwards(net)
    with pytest.raises(OutOfOrderError, match=r"after the model had passed it") as caught:
        with model.trace(X, strict_order=True):
            late = model.h[3].output
            early = model.h[1].output
    assert "second forward" not in str(caught.value)
    model.strict_order = True
    with pytest.raises(OutOfOrderError), model.trace(X):
        model.h[3].output
        model.h[1].output
    with pytest.raises(OutOfOrderError), model.trace() as tracer:
        with tracer.invoke(X):
            model.h[3].output
            model.h[1].output
    with model.trace(X, strict_order=False):
        model.h[3].output
        model.h[1].output
    assert model.strict_order
    assert not wrap(net).strict_order


def test_a_run_held_open_does_not_jump_back(model):
    run = model.start(X)
    run.until(model.h[3].output)
    with pytest.raises(OutOfOrderError):
        run.until(model.h[1].output)
    run.close()


def test_a_loop_over_calls_is_not_repeated():
    model = wrap(build(Repeats))
    with pytest.raises(OutOfOrderError, match="after the model had passed it"), model.trace(X) as tracer:
        for _ in tracer.iter[:2]:
            model.last.output
            model.cell.output


# -- whether a module is called at all -------------------------------------------------------------


def test_a_module_that_is_never_called_is_found_out_by_one_second_forward():
    net = build(Tailed, nn.Tanh())
    model, seen = wrap(net), forwards(net)
    for options in ({}, {"strict_order": True}, {"grad": True}):
        seen.clear()
        with pytest.raises(NeverCalledError, match=r"never calls `never\.lin`"), model.trace(X, **options):
            model.last.output
            model.never.lin.output
        assert len(seen) == 2
    seen.clear()
    with pytest.raises(NeverCalledError), model.trace(X):
        model.never.output
    assert len(seen) == 2


def test_a_list_of_modules_needs_no_forward_to_be_found_out(net, model):
    seen = forwards(net)
    with pytest.raises(NeverCalledError, match="never calls `h`"), model.trace(X):
        model.h.output
    assert len(seen) == 1


# -- what a second forward must not be used for ----------------------------------------------------


def assign(model):
    with model.trace(X):
        late = model.h[3].output
        model.h[1].output = late


def in_place(model):
    with model.trace(X):
        late = model.h[3].output
        early = model.h[1].output
        early[:] = 0


def in_place_and_on(model):
    with model.trace(X):
        late = model.h[3].output
        early = model.h[1].output
        early += 1
        more = model.h[2].output


def skip(model):
    with model.trace(X):
        late = model.h[3].output
        model.h[1].skip(late)


def between(model):
    with model.trace(X):
        late = model.h[3].output
        early = model.h[1].output
        model.h[2].output = early


def an_input(model):
    with model.trace(X):
        late = model.h[3].output
        model.h[1].lin.input[:] = 0


def after_the_end(model):
    with model.trace(X) as tracer:
        tracer.result
        model.h[1].output[:] = 0


def in_an_invoke(model):
    with model.trace() as tracer:
        with tracer.invoke(X):
            late = model.h[3].output
            model.h[1].output[:] = late
        with tracer.invoke(Y):
            pass


def assigned_in_an_invoke(model):
    with model.trace() as tracer:
        with tracer.invoke(X):
            late = model.h[2].output
            early = model.h[1].output
            model.h[3].output = early
        with tracer.invoke(Y):
            pass


LATE = [
    assign, in_place, in_place_and_on, skip, between, an_input, after_the_end, in_an_invoke,
    assigned_in_an_invoke,
]  # fmt: skip


@pytest.mark.parametrize("way", LATE)
def test_what_is_read_in_a_second_forward_cannot_be_changed(way, net, model):
    with pytest.raises(OutOfOrderError, match=r"too late: the model had passed it") as caught:
        way(model)
    assert len(str(caught.value).splitlines()) <= 6
    if way is not after_the_end:
        assert "had been read without it:\n  line" in str(caught.value)
    assert not has_gates(net)
    with model.trace(X):
        assert same(model.output, hooked(net, (X,))[""][0])


def held_value(model):
    with model.trace(X):
        late = model.h[3].output
        early = model.h[1].output
        late[:] = early


def held_value_and_on(model):
    with model.trace(X):
        late = model.h[2].output
        early = model.h[1].output
        late[:] = early
        model.output


def held_value_in_an_invoke(model):
    with model.trace() as tracer:
        with tracer.invoke(X):
            late = model.h[3].output
            early = model.h[1].output
            late[:] = early
        with tracer.invoke(Y):
            pass


@pytest.mark.parametrize("way", [held_value, held_value_and_on, held_value_in_an_invoke])
def test_a_change_of_what_was_read_before_the_second_forward_is_not_lost_silently(way, net, model):
    with pytest.raises(OutOfOrderError, match="so the change is lost") as caught:
        way(model)
    assert "late = model.h" in str(caught.value)
    assert not has_gates(net)


def test_a_cache_that_is_full_already_lets_no_edit_through(model):
    with pytest.raises(OutOfOrderError, match="too late"), model.trace(X) as tracer:
        cache = tracer.cache()
        model.h[2].output
        model.h[1].output
        model.h[3].output[:] = 0
    with model.trace(X) as tracer:
        cache = tracer.cache()
        model.h[2].output
        early = model.h[1].output
    assert same(cache.h[1].output, early)
    assert len(cache.h[1]) == 1


def test_after_the_place_where_the_first_stood_edits_are_free_again(net, model):
    with model.trace(X):
        late = model.h[2].output
        early = model.h[1].output
        model.h[2].output = early
        final = model.output
    with torch.no_grad():
        want = net.head(net.h[3](net.h[1](net.h[0](X))))
    assert same(final, want)


# -- what it leaves behind -------------------------------------------------------------------------


def test_nothing_is_kept_after_the_block(net, model):
    made = []
    for block in net.h:
        block.register_forward_hook(lambda module, given, value: made.append(weakref.ref(value)))
    gc.collect()
    gc.disable()
    try:
        with model.trace(X) as tracer:
            model.h[0].output[:] = 1
            late = model.h[3].output
            early = model.h[1].output
            more = model.h[0].output
        del late, early, more
        assert sum(reference() is not None for reference in made) == 0
    finally:
        gc.enable()
    assert tracer is not None


def test_while_it_runs_only_what_the_block_holds_is_kept(net, model):
    made = []
    for block in net.h:
        block.register_forward_hook(lambda module, given, value: made.append(weakref.ref(value)))
    with model.trace(X):
        late = model.h[3].output
        early = model.h[1].output
        del late, early
        model.head.output
        gc.collect()
        alive = [place for place, reference in enumerate(made) if reference() is not None]
    assert alive == [7]  # what the model itself holds there: the last block's, in the second forward


@pytest.mark.parametrize("way", [in_place, in_place_and_on, held_value, assign, between, an_input])
def test_errors_leave_no_reference_cycle(way, model):
    for _ in range(3):
        with contextlib.suppress(OutOfOrderError):
            way(model)
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            with contextlib.suppress(OutOfOrderError):
                way(model)
        found = gc.collect()
    finally:
        gc.enable()
    assert found <= 20, f"{found / 20} unreachable objects a trace"


def test_an_interruption_in_the_second_forward_leaves_everything_clean(net, model):
    calls = []

    def interrupt(*_):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    handle = net.h[1].register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt), model.trace(X):
        model.h[3].output
        model.h[2].output
    handle.remove()
    assert not has_gates(net)
    with model.trace(X):
        assert same(model.output, hooked(net, (X,))[""][0])


def test_a_caught_refusal_leaves_nothing_to_read_from(model):
    with model.trace(X):
        model.h[3].output
        early = model.h[1].output
        early[:] = 0
        with pytest.raises(OutOfOrderError, match="too late"):
            model.h[2].output


def test_the_cell_shows_the_users_line_on_one_screen(model):
    with pytest.raises(OutOfOrderError) as caught:
        run_cell(
            "with model.trace(x):\n    late = model.h[3].output\n    model.h[1].output = late",
            {"model": model, "x": X},
        )
    assert "Put line 3 before line 2" in str(caught.value)
    assert "a trace of its own" in str(caught.value)
