"""Torch's switches: what one side of a run sets, the other does not see; both ways."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nbsight.core.model import wrap
from nbsight.core.torch_state import snapshot
from tests.core.small import build, rows

X = rows()


def state() -> dict[str, object]:
    """What code that runs now would notice of torch's switches."""
    made = torch.zeros(1)
    return {
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "default dtype": torch.get_default_dtype(),
        "made dtype": made.dtype,
        "made device": made.device.type,
        "made type": type(made).__name__,
        "default device": str(torch.get_default_device()),
        "autocast": torch.is_autocast_enabled("cpu"),
        "autocast dtype": torch.get_autocast_dtype("cpu"),
        "autocast cache": torch.is_autocast_cache_enabled(),
        "product dtype": (torch.ones(2, 2) @ torch.ones(2, 2)).dtype,
    }


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


MODES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast bfloat16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "default dtype": lambda: default_dtype(torch.float64),
    "device": lambda: torch.device("meta"),
    "fake": FakeTensorMode,
    "enable_grad": torch.enable_grad,
}


class Watched(nn.Module):
    """Writes down the switches before, between and after its parts; may set some itself."""

    def __init__(self, mode=contextlib.nullcontext) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Identity(), nn.Identity(), nn.Identity()
        self.mode = mode
        self.seen: list[dict[str, object]] = []

    def forward(self, x):
        self.seen.append(state())
        x = self.a(x)
        self.seen.append(state())
        with self.mode():
            self.seen.append(state())
            x = self.b(x)
            self.seen.append(state())
        self.seen.append(state())
        x = self.c(x)
        self.seen.append(state())
        return x


def plain(mode=contextlib.nullcontext):
    net = build(Watched, mode)
    with torch.no_grad():
        net(X)
    return net.seen


@pytest.mark.parametrize("name", MODES)
def test_what_the_block_sets_the_model_does_not_see(name):
    net = build(Watched)
    model = wrap(net)
    outside = state()
    with model.trace(X):
        here = state()
        model.a.input
        with MODES[name]():
            mine = state()
            model.a.output
            assert state() == mine
            model.b.output
            assert state() == mine
        assert state() == here
        model.output
        assert state() == here
    assert state() == outside
    assert net.seen == plain()


@pytest.mark.parametrize("name", MODES)
def test_what_the_model_sets_the_block_does_not_see(name):
    net = build(Watched, MODES[name])
    model = wrap(net)
    outside = state()
    with model.trace(X):
        here = state()
        model.a.output
        assert state() == here
        model.b.input
        assert state() == here
        model.b.output
        assert state() == here
        model.c.input
        assert state() == here
        model.output
    assert state() == outside
    assert net.seen == plain(MODES[name])


@pytest.mark.parametrize("name", MODES)
def test_a_run_left_in_the_middle_of_a_mode_leaves_nothing_of_it(name):
    net = build(Watched, MODES[name])
    model = wrap(net)
    outside, before = state(), snapshot()
    with model.trace(X):
        model.b.input
    assert state() == outside
    with pytest.raises(ZeroDivisionError), model.trace(X):
        model.b.output
        1 / 0
    assert state() == outside
    assert snapshot() == before


@pytest.mark.parametrize("theirs", ["autocast float16", "inference_mode", "device", "default dtype"])
@pytest.mark.parametrize("mine", ["autocast bfloat16", "no_grad", "device", "fake"])
def test_both_sides_keep_their_own_at_the_same_time(theirs, mine):
    net = build(Watched, MODES[theirs])
    model = wrap(net)
    with model.trace(X, finish=True):
        model.a.output
        with MODES[mine]():
            want = state()
            model.b.input
            assert state() == want
            model.b.output
            assert state() == want
            model.c.output
            assert state() == want
    assert net.seen == plain(MODES[theirs])


def test_autocast_entered_without_a_dtype_uses_the_blocks_own_and_not_the_models():
    net = build(Watched, MODES["autocast float16"])
    model = wrap(net)
    with model.trace(X):
        model.b.output
        with torch.autocast("cpu"):
            product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["no_grad", "autocast bfloat16", "default dtype", "device"])
def test_what_is_set_around_the_trace_holds_for_both_sides(name):
    net = build(Watched)
    with torch.no_grad(), MODES[name]():
        net(X)
    want, net.seen = net.seen, []
    model = wrap(net)
    with MODES[name]():
        with model.trace(X):
            mine = state()
            model.b.output
            assert state() == mine
            model.output
    assert [{**seen, "grad": False} for seen in net.seen] == want


@pytest.mark.parametrize("name", MODES)
def test_invokes_keep_their_own_switches(name):
    net = build(Watched)
    model = wrap(net)
    seen = {}
    with model.trace(finish=True) as tracer:
        with MODES[name]():
            want = state()
        here = state()
        with tracer.invoke(X):
            with MODES[name]():
                model.a.output
                seen["first"] = state()
                model.b.output
                seen["first again"] = state()
        with tracer.invoke(X):
            model.a.output
            seen["second"] = state()
            model.c.output
            seen["second again"] = state()
    assert seen == {
        "first": want,
        "first again": want,
        "second": here,
        "second again": here,
    }
    assert net.seen == plain()


def test_a_block_of_invokes_that_leaves_a_mode_open_does_not_pass_it_on():
    net = build(Watched)
    model = wrap(net)
    here = state()
    with pytest.raises(ZeroDivisionError), model.trace() as tracer:
        with tracer.invoke(X):
            torch.set_grad_enabled(False)
            model.b.output
            1 / 0
        with tracer.invoke(X):
            model.c.output
    assert state() == here


def test_the_block_has_its_own_grad_mode_back_after_the_trace():
    net = build(Watched)
    model = wrap(net)
    for outer in (torch.no_grad, torch.enable_grad):
        with outer():
            before = torch.is_grad_enabled()
            with model.trace(X):
                model.a.output
            assert torch.is_grad_enabled() is before
            with pytest.raises(ZeroDivisionError), model.trace(X):
                1 / 0
            assert torch.is_grad_enabled() is before


def test_a_suspended_block_leaves_the_callers_switches_alone():
    net = build(Watched, MODES["autocast bfloat16"])
    model = wrap(net)

    def held():
        with model.trace(X):
            yield model.b.input

    before = state()
    suspended = held()
    next(suspended)
    assert state() == before
    suspended.close()
    assert state() == before


def test_two_held_runs_keep_theirs_apart():
    one, two = build(Watched, MODES["autocast bfloat16"]), build(Watched, MODES["inference_mode"])
    first, second = wrap(one), wrap(two)
    outside = state()
    with first.trace(X):
        first.b.input
        here = state()
        with second.trace(X):
            second.b.input
            first.b.output
            assert state() == here
            second.output
        first.output
    assert one.seen == plain(MODES["autocast bfloat16"])
    assert two.seen == plain(MODES["inference_mode"])
    assert state() == outside


def test_values_from_fake_tensors_are_read_in_the_block_as_they_are():
    net = build(Watched)
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(X)
    model = wrap(net)
    with model.trace(fake):
        value = model.b.output
    assert value is fake


def test_the_random_numbers_of_a_run_are_those_of_a_plain_call():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Dropout(0.5), nn.Dropout(0.5)

        def forward(self, x):
            return self.b(self.a(x))

    net = Noisy().train()
    torch.manual_seed(3)
    want = net(X)
    torch.manual_seed(3)
    model = wrap(net)
    with model.trace(X):
        model.a.output
        got = model.output
    assert torch.equal(got, want)


def test_a_question_that_cannot_be_answered_does_not_use_up_random_numbers():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Dropout(0.5), nn.Dropout(0.5)

        def forward(self, x):
            return self.b(self.a(x))

    net = Noisy().train()
    model = wrap(net)
    torch.manual_seed(3)
    net(X)
    want = torch.rand(1)
    torch.manual_seed(3)
    with pytest.raises(ValueError), model.trace(X):
        model.b.output
        model.a.output
    assert torch.equal(torch.rand(1), want)
