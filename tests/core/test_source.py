"""`module.source`: the operations inside a forward are read and changed as modules are."""

from __future__ import annotations

import copy
import functools
import gc
import linecache
import pickle
import re
import threading
from pathlib import Path

import accelerate
import pytest
import torch
from torch import nn

from nbsight.core import source_rewrite
from nbsight.core.model import wrap
from nbsight.errors import (
    NeverCalledError,
    OutOfOrderError,
    OutsideTraceError,
    PathError,
    SourceNotAvailable,
)
from tests.core.small import WIDTH, Block, Chain, Repeats, Shared, build, has_gates, rows, same

X = rows(2)


def mix(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    scores = torch.matmul(query, key.transpose(-1, -2))
    scores = scores / WIDTH
    return scores


class Mixer(nn.Module):
    """A small attention whose inner values belong to no module."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.mixers = {"plain": mix}

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        """Mix.

        Positions.
        """
        q, k, v = self.qkv(x).split(WIDTH, dim=-1)
        how = self.mixers["plain"]
        pattern = torch.softmax(how(q, k) * scale, dim=-1)
        if scale > 100:
            pattern = self.twice(pattern)
        h = torch.matmul(pattern, v)
        return self.out(h)

    def twice(self, x: torch.Tensor) -> torch.Tensor:
        return torch.mul(x, 2)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.h = nn.ModuleList([Mixer(), Mixer()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.h:
            x = x + block(x)
        return x

    @torch.no_grad()
    def generate(self, x: torch.Tensor, steps: int = 3) -> torch.Tensor:
        for _ in range(steps):
            x = self(x)
        return x


NAMES = (
    "self_qkv_0", "split_0", "how_0", "how_1", "torch_softmax_0", "pattern_0", "self_twice_0", "pattern_1",
    "torch_matmul_0", "h_0", "self_out_0",
)  # fmt: skip


def by_hand(net, x, *, pattern=lambda p: p, h=lambda h: h, blocks=(0,)):
    """The model's forward, written out, with functions that change inner values of some blocks."""
    seen = []
    for number, block in enumerate(net.h):
        q, k, v = block.qkv(x).split(WIDTH, dim=-1)
        p = torch.softmax(torch.matmul(q, k.transpose(-1, -2)) / WIDTH * 1.0, dim=-1)
        if number in blocks:
            p = pattern(p)
        mixed = torch.matmul(p, v)
        if number in blocks:
            mixed = h(mixed)
        seen.append({"q": q, "k": k, "v": v, "pattern": p, "h": mixed})
        x = x + block.out(mixed)
    return x, seen


@pytest.fixture
def net():
    return build(Model)


@pytest.fixture
def model(net):
    return wrap(net)


# -- names and display -----------------------------------------------------------------------------


def test_the_operations_have_names_in_the_order_of_the_text(model):
    source = model.h[0].source
    assert source.names == NAMES
    assert [operation.name for operation in source] == list(NAMES)
    assert set(dir(source)) == {*NAMES, "names"}
    assert len(source) == len(NAMES)
    assert "how_1" in source
    assert source["how_1"] is source.how_1 is source[3]


def test_the_listing_shows_each_name_beside_its_line(model):
    lines = str(model.h[0].source).splitlines()
    assert lines[0].startswith("h.0.source: Mixer.forward (test_source.py, line ")
    line_of = {line.split("│")[0].strip(): place for place, line in enumerate(lines) if "│" in line}
    assert set(NAMES) <= set(line_of)
    assert "q, k, v = self.qkv(x).split(WIDTH, dim=-1)" in lines[line_of["self_qkv_0"]]
    assert line_of["split_0"] == line_of["self_qkv_0"] + 1
    first = Mixer.forward.__code__.co_firstlineno
    assert f" {first + 5} │     q, k, v" in lines[line_of["self_qkv_0"]]
    assert str(model.h[0].source) == repr(model.h[0].source)


def test_a_long_docstring_is_folded():
    class Wordy(nn.Module):
        def forward(self, x):
            """One.

            Three
            four
            five
            six
            """
            return torch.sin(x)

    text = str(wrap(Wordy()).source)
    assert "One." in text
    assert "five" not in text
    assert text.count("⋮") == 1
    assert text.splitlines()[-1].endswith("return torch.sin(x)")


def test_an_operation_shows_its_line_marked(model):
    text = str(model.h[1].source.h_0)
    assert text.startswith("h.1.source.h_0 (line ")
    marked = [line for line in text.splitlines() if line.startswith("→")]
    assert len(marked) == 1
    assert "h = torch.matmul(pattern, v)" in marked[0]


def test_an_unknown_name_gets_the_names_and_the_close_ones(model):
    with pytest.raises(
        PathError, match=r"`h.0.source` has no operation `split_1`. Did you mean `split_0`"
    ) as e:
        model.h[0].source.split_1
    assert "self_qkv_0, split_0, how_0" in str(e.value)
    assert not hasattr(model.h[0].source, "split_1")
    with pytest.raises(PathError, match=r"`.output`, `.input`.*`model.h\[0\].source.split_0.output`"):
        model.h[0].source.split_0.shape


def test_an_operation_itself_cannot_be_set(model):
    with pytest.raises(PathError, match=r"model.h\[0\].source.h_0.output = "):
        model.h[0].source.h_0 = X
    with pytest.raises(PathError, match="has no `outputs`"):
        model.h[0].source.h_0.outputs = X


def test_a_value_outside_a_trace_says_to_open_one(model):
    with pytest.raises(OutsideTraceError, match=r"x = model.h\[0\].source.h_0.output"):
        model.h[0].source.h_0.output
    with pytest.raises(OutsideTraceError):
        model.h[0].source.h_0.output = X


# -- reading ---------------------------------------------------------------------------------------


def test_values_equal_a_forward_written_by_hand(net, model):
    with torch.no_grad():
        want, seen = by_hand(net, X)
    with model.trace(X):
        got = []
        for block in model.h:
            given = block.source.self_qkv_0.input
            q, k, v = block.source.split_0.output
            (left, right), named = block.source.how_1.inputs
            soft = block.source.torch_softmax_0.output
            pattern = block.source.pattern_0.output
            h = block.source.h_0.input
            got.append({"q": q, "k": k, "v": v, "pattern": pattern, "h": h})
            assert left is q
            assert right is k
            assert named == {}
            assert soft is pattern
        output = model.output
    assert same(got, seen)
    assert torch.equal(output, want)


def test_a_source_that_was_kept_from_before_the_trace_works_in_it(net, model):
    source = model.h[1].source
    operation = source.h_0
    for _ in range(2):
        with model.trace(X):
            h = operation.output
        assert torch.equal(h, by_hand(net, X)[1][1]["h"])


def test_the_run_stops_after_the_operation(model):
    reached = []
    model._module.h[1].register_forward_pre_hook(lambda *_: reached.append("h.1"))
    with model.trace(X):
        model.h[0].source.h_0.output
    assert reached == []


# -- writing ---------------------------------------------------------------------------------------


def flatten(pattern):
    return torch.full_like(pattern, 1 / 3)


def write_call(block):
    block.source.torch_softmax_0.output = flatten(block.source.torch_softmax_0.output)


def write_assignment(block):
    block.source.pattern_0.output = flatten(block.source.pattern_0.output)


def write_input(block):
    block.source.torch_matmul_0.input = flatten(block.source.torch_matmul_0.input)


def write_inputs(block):
    (pattern, v), named = block.source.torch_matmul_0.inputs
    block.source.torch_matmul_0.inputs = ((flatten(pattern), v), named)


def write_in_place(block):
    block.source.pattern_0.output[:] = 1 / 3


def write_skip(block):
    block.source.torch_softmax_0.skip(torch.full((2, 3, 3), 1 / 3))


@pytest.mark.parametrize(
    "write", [write_call, write_assignment, write_input, write_inputs, write_in_place, write_skip]
)
def test_a_write_does_what_the_changed_forward_does(net, model, write):
    with torch.no_grad():
        want, _ = by_hand(net, X, pattern=flatten)
    with model.trace(X):
        write(model.h[0])
        output = model.output
    assert torch.equal(output, want)


def test_a_skipped_call_is_not_made(net, model):
    called = []
    net.h[0].out.register_forward_hook(lambda *_: called.append("out"))
    with model.trace(X):
        model.h[0].source.self_out_0.skip(torch.zeros(2, 3, WIDTH))
        output = model.h[0].output
    assert called == []
    assert torch.equal(output, torch.zeros(2, 3, WIDTH))


def test_gradients_flow_through_operations(net, model):
    x = X.clone().requires_grad_()
    want, seen = by_hand(net, x)
    expected = torch.autograd.grad(want.sum(), seen[0]["pattern"])[0]
    with model.trace(X, grad=True):
        pattern = model.h[0].source.pattern_0.output
        loss = model.output.sum()
        got = torch.autograd.grad(loss, pattern)[0]
    assert torch.equal(got, expected)


# -- batches, steps, loops -------------------------------------------------------------------------


def test_each_invoke_sees_and_changes_its_own_rows(net, model):
    with torch.no_grad():
        one, seen = by_hand(net, X[:1], pattern=flatten)
        two, others = by_hand(net, X[1:])
    with model.trace() as tracer:
        with tracer.invoke(X[:1]):
            write_assignment(model.h[0])
            h_one = model.h[1].source.h_0.output
            out_one = model.output
        with tracer.invoke(X[1:]):
            h_two = model.h[1].source.h_0.output
            out_two = model.output
    assert h_one.shape == (1, 3, WIDTH)
    for got, want in ((h_one, seen[1]["h"]), (h_two, others[1]["h"]), (out_one, one), (out_two, two)):
        assert torch.allclose(got, want, atol=1e-6)


def test_a_value_of_one_invoke_is_written_in_another(net, model):
    with torch.no_grad():
        _, seen = by_hand(net, X[:1])
        want, _ = by_hand(net, X[1:], h=lambda _: seen[0]["h"])
    with model.trace() as tracer:
        with tracer.invoke(X[:1]):
            donor = model.h[0].source.h_0.output
        with tracer.invoke(X[1:]):
            model.h[0].source.h_0.output = donor
            output = model.output
    assert torch.allclose(output, want, atol=1e-6)


def test_every_step_of_a_generation_has_its_values(net, model):
    x, want = X, []
    with torch.no_grad():
        for _ in range(3):
            x, seen = by_hand(net, x)
            want.append(seen[1]["pattern"])
    got = []
    with model.generate(X, steps=3) as tracer:
        for _ in tracer.iter[:]:
            got.append(model.h[1].source.pattern_0.output)
        result = tracer.result
    assert same(got, want)
    assert torch.equal(result, x)


def test_steps_are_changed_one_by_one(net, model):
    x = X
    with torch.no_grad():
        for step in range(3):
            x, _ = by_hand(net, x, pattern=flatten if step == 1 else lambda p: p)
    with model.generate(X, steps=3) as tracer:
        for _ in tracer.iter[1]:
            write_call(model.h[0])
        result = tracer.result
    assert torch.equal(result, x)


def test_an_operation_in_a_loop_has_one_value_for_each_turn():
    net = build(Repeats, 3)
    model = wrap(net)
    x, want = X, []
    with torch.no_grad():
        for _ in range(3):
            x = net.cell(x)
            want.append(x)
    got = []
    with model.trace(X) as tracer:
        for _ in tracer.iter[:]:
            got.append(model.source.self_cell_0.output)
    assert same(got, want)
    with model.trace(X) as tracer:
        for _ in tracer.iter[1]:
            model.source.x_0.output = torch.zeros(2, 3, WIDTH)
        output = model.output
    with torch.no_grad():
        assert torch.equal(output, net.last(net.cell(torch.zeros(2, 3, WIDTH))))


def test_a_module_with_two_paths_has_one_source():
    net = build(Shared)
    model = wrap(net)
    with model.trace(X):
        first = model.a.lin.source.F_linear_0.output
    assert torch.equal(first, net.a.lin(X))
    assert model.a.lin.source is model.b.lin.source


# -- order -----------------------------------------------------------------------------------------


def test_an_operation_that_was_passed_is_out_of_order(model):
    with pytest.raises(OutOfOrderError, match=r"`h.0.source.split_0.output` was asked for after") as error:
        with model.trace(X, strict_order=True):
            model.h[0].source.h_0.output
            model.h[0].source.split_0.output
    assert "`h.0.source.h_0.output`" in str(error.value)


def test_operations_and_modules_share_one_order(net, model):
    with model.trace(X):
        source = model.h[0].source
        projected = model.h[0].qkv.output
        q = source.split_0.output[0]
        h = source.h_0.output
        out = model.h[0].out.output
    assert torch.equal(projected[..., :WIDTH], q)
    assert torch.equal(net.h[0].out(h), out)


def test_a_source_asked_for_too_late_says_how_to_ask_in_time(model):
    with pytest.raises(OutOfOrderError, match=r"already begun `h.0`.*\n.*\n.*`h.0.qkv.output`") as error:
        with model.trace(X, strict_order=True):
            model.h[0].qkv.output
            model.h[0].source.split_0.output
    assert "`source = model.h[0].source`" in str(error.value)


def test_a_source_can_be_asked_for_at_the_modules_own_input(net, model):
    with model.trace(X):
        model.h[0].input[:] = 0
        h = model.h[0].source.h_0.output
    assert torch.equal(h, by_hand(net, torch.zeros_like(X))[1][0]["h"])


def test_a_branch_that_is_not_taken_is_named(model):
    with pytest.raises(NeverCalledError, match=r"branch of `h.0` that holds line \d+ of test_source.py"):
        with model.trace(X):
            model.h[0].source.self_twice_0.output


def test_nothing_inside_a_skipped_module_or_operation_runs(model):
    with pytest.raises(NeverCalledError, match=r"`h.0` was skipped"):
        with model.trace(X):
            model.h[0].skip(X)
            model.h[0].source.h_0.output
    with pytest.raises(NeverCalledError, match=r"`h.0.source.self_out_0` was skipped"):
        with model.trace(X):
            model.h[0].source.self_out_0.skip(X)
            model.h[0].out.output
    with pytest.raises(NeverCalledError, match=r"`h.0.source.how_1` was skipped"):
        with model.trace(X):
            inner = model.h[0].source.how_1.source
            model.h[0].source.how_1.skip(torch.zeros(2, 3, 3))
            inner.scores_0.output


# -- nested ----------------------------------------------------------------------------------------


def test_the_function_that_a_call_turns_out_to_be_is_drilled_into(net, model):
    q, k = (by_hand(net, X)[1][1][name] for name in "qk")
    for _ in range(2):
        with model.trace(X):
            inner = model.h[1].source.how_1.source
            assert inner.names == ("key_transpose_0", "torch_matmul_0", "scores_0", "scores_1")
            raw = inner.scores_0.output
            scaled = model.h[1].source.how_1.source.scores_1.output
            given = model.h[1].source.how_1.output
        assert torch.equal(raw, torch.matmul(q, k.transpose(-1, -2)))
        assert torch.equal(scaled, raw / WIDTH)
        assert given is scaled


def test_a_nested_operation_is_written(net, model):
    with torch.no_grad():
        want, _ = by_hand(net, X, pattern=flatten)
    with model.trace(X):
        model.h[0].source.how_1.source.scores_1.output = torch.zeros(2, 3, 3)
        output = model.output
    assert torch.allclose(output, want, atol=1e-7)


def test_only_the_call_that_was_drilled_into_is_changed(net, model):
    with torch.no_grad():
        _, seen = by_hand(net, X, pattern=flatten, blocks=(0,))
    with model.trace(X):
        model.h[0].source.how_1.source.scores_1.output = torch.zeros(2, 3, 3)
        pattern = model.h[1].source.pattern_0.output
    assert torch.allclose(pattern, seen[1]["pattern"], atol=1e-7)


def test_what_is_known_without_a_run_is_drilled_into_outside_of_one(model):
    assert model.h[0].source.self_twice_0.source.names == ("torch_mul_0",)
    assert "softmax" in str(wrap(nn.Softmax(0)).source.F_softmax_0.source)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("how_1", r"only inside a trace: .*print\(model.h\[0\].source.how_1.source\)"),
        ("how_0", r"is an assignment. Write `.output`"),
        ("self_out_0", r"submodule `h.0.out`.*write `h.0.out.source` or `h.0.out.output`"),
        ("torch_matmul_0", r"not written in Python.*write `.input` or `.output`"),
    ],
)
def test_what_cannot_be_drilled_into_says_what_to_write(model, name, says):
    with pytest.raises(SourceNotAvailable, match=says):
        model.h[0].source[name].source


def test_two_invokes_drill_into_the_same_call(net, model):
    want = by_hand(net, X)[1][0]
    with model.trace() as tracer:
        with tracer.invoke(X[:1]):
            first = model.h[0].source.how_1.source.scores_1.output
        with tracer.invoke(X[1:]):
            second = model.h[0].source.how_1.source.scores_1.output
    scores = torch.matmul(want["q"], want["k"].transpose(-1, -2)) / WIDTH
    assert torch.allclose(torch.cat([first, second]), scores, atol=1e-6)


def test_a_kept_nested_source_is_no_source_of_another_function(net, model):
    with model.trace(X):
        inner = model.h[0].source.how_1.source
    net.h[0].mixers["plain"] = lambda q, k: torch.matmul(q, k.transpose(-1, -2))
    with model.trace(X):
        want = model.output
    with pytest.raises(OutOfOrderError):
        with model.trace(X):
            inner.scores_0.output
    with model.trace(X):
        source = model.h[0].source
        with pytest.raises(SourceNotAvailable, match="`def`"):
            source.how_1.source
        assert torch.equal(model.output, want)


def test_traces_that_use_sources_leave_nothing_behind(model):
    def use():
        with model.trace(X):
            model.h[0].source.how_1.source.scores_0.output
            model.h[1].source.h_0.output

    for _ in range(5):
        use()
    gc.collect()
    before = len(gc.get_objects())
    gc.disable()
    try:
        for _ in range(100):
            use()
        after = len(gc.get_objects())  # without the collector: no cycles either
    finally:
        gc.enable()
    assert after - before < 50


# -- nobody else notices ---------------------------------------------------------------------------


def test_nothing_stays_on_the_module(net, model):
    before = [dict(module.__dict__) for module in net.modules()]
    forward = Mixer.forward, Mixer.forward.__code__
    with model.trace(X):
        model.h[0].source.how_1.source.scores_0.output
    assert [dict(module.__dict__) for module in net.modules()] == before
    assert (Mixer.forward, Mixer.forward.__code__) == forward
    assert not has_gates(net)


def test_a_plain_call_and_another_run_meanwhile_use_the_forward_as_it_is(net, model, monkeypatch):
    doors = []
    original = source_rewrite.Listing.with_doors
    with torch.no_grad():
        want, _ = by_hand(net, X + 1)
    other = wrap(net)
    with model.trace(X):
        model.h[0].source.split_0.output
        monkeypatch.setattr(source_rewrite.Listing, "with_doors", lambda *a: doors.append(a) or original(*a))
        assert torch.equal(net(X + 1), want)
        with other.trace(X + 1):
            assert torch.equal(other.output, want)
        found = []
        thread = threading.Thread(target=lambda: found.append(net(X + 1)))
        thread.start()
        thread.join()
        # Another thread may split the same product over another number of cores.
        torch.testing.assert_close(found[0], want, rtol=1e-5, atol=1e-6)
        model.h[0].source.h_0.output
    assert doors == []


def test_two_threads_read_operations_of_one_model(net, model):
    want = {n: by_hand(net, X + n)[1][1]["h"] for n in range(4)}
    wrong = []

    def work(number):
        for _ in range(20):
            with model.trace(X + number):
                h = model.h[1].source.h_0.output
            # Another thread may split the same product over another number of cores.
            if not torch.allclose(h, want[number], rtol=1e-5, atol=1e-6):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_model_whose_source_was_used_is_copied_and_pickled(net, model):
    with model.trace(X):
        want = model.h[0].source.h_0.output
    model.source
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.h[0].source.h_0._root is twin
        with twin.trace(X):
            assert torch.equal(twin.h[0].source.h_0.output, want)
    assert copy.deepcopy([model, model.h[0].source])[1].names == NAMES


def test_code_is_made_once_for_all_layers(net, model, monkeypatch):
    model.h[0].source
    monkeypatch.setattr(source_rewrite, "_read", lambda function: pytest.fail("read again"))
    model.h[1].source
    wrap(copy.deepcopy(net)).h[1].source


def test_modules_whose_source_is_not_asked_for_are_not_rewritten(model, monkeypatch):
    monkeypatch.setattr(source_rewrite.Listing, "with_doors", lambda *_: pytest.fail("rewritten"))
    with model.trace(X):
        model.h[0].output
        model.h[1].qkv.output


def test_a_function_that_outlives_the_run_is_a_plain_function():
    kept = []

    class Keeps(nn.Module):
        def forward(self, x):
            kept.append(lambda y: torch.mul(y, 3))
            return torch.mul(x, 2)

    model = wrap(Keeps())
    with model.trace(X):
        model.source.torch_mul_1.output
    assert torch.equal(kept[0](X), X * 3)
    with model.trace(X):
        model.output
        assert torch.equal(kept[0](X), X * 3)


# -- forwards of all kinds -------------------------------------------------------------------------


def logged(function):
    @functools.wraps(function)
    def wrapper(self, *args, **kwargs):
        self.calls += 1
        return function(self, *args, **kwargs)

    return wrapper


class Decorated(nn.Module):
    calls = 0

    @logged
    @torch.no_grad()
    def forward(self, x):
        y = torch.sin(x)
        return torch.cos(y)


def test_decorators_stay_in_force():
    net = Decorated()
    model = wrap(net)
    x = X.clone().requires_grad_()
    with model.trace(x, grad=True):
        y = model.source.y_0.output
        output = model.output
    assert torch.equal(y, torch.sin(X))
    assert not output.requires_grad
    assert net.calls == 1


def test_a_forward_of_the_instance_is_shown():
    net = build(Block)

    def forward(x):
        y = torch.sin(x)
        return y * 2

    net.forward = forward
    model = wrap(net)
    with model.trace(X):
        model.source.y_0.output = torch.ones(1)
        assert torch.equal(model.output, torch.full((1,), 2.0))
    assert net.__dict__["forward"] is forward


def test_a_forward_that_accelerate_wrapped_is_reached(net):
    class Shift(accelerate.hooks.ModelHook):
        def pre_forward(self, module, *args, **kwargs):
            return (args[0] + 1, *args[1:]), kwargs

    accelerate.hooks.add_hook_to_module(net.h[0], Shift())
    want = net(X)
    model = wrap(net)
    with model.trace(X):
        given = model.h[0].source.self_qkv_0.input
        h = model.h[0].source.h_0.output
        output = model.output
    assert torch.equal(given, X + 1)
    assert torch.equal(output, want)
    with model.trace(X):
        model.h[0].source.h_0.output = h * 2
        changed = model.h[0].output
    assert torch.equal(changed, net.h[0].out(h * 2))


def test_a_compiled_function_in_a_forward_says_why_it_has_no_source():
    class Within(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.compile(lambda x: torch.sin(x) * 2, backend="eager")

        def forward(self, x):
            return self.inner(x) + 1

    model = wrap(build(Within))
    with model.trace(X):
        inner = model.source.self_inner_0.output
    assert torch.allclose(inner, torch.sin(X) * 2)
    with pytest.raises(SourceNotAvailable, match=r"compiled by torch.compile"):
        with model.trace(X):
            model.source.self_inner_0.source.names


def test_a_scripted_module_says_why_it_has_no_source():
    with pytest.raises(SourceNotAvailable, match=r"not written in Python"):
        wrap(torch.jit.trace(nn.Linear(WIDTH, 2), X)).source


def test_a_checkpointed_block_is_reached_in_training():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block()

        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(self.block, x, use_reentrant=False)

    net = build(Checkpointed).train()
    x = X.clone().requires_grad_()
    want = torch.autograd.grad(net(x).sum(), x)[0]
    model = wrap(net)
    with model.trace(x, grad=True):
        act = model.block.source.self_act_0.output
        loss = model.output.sum()
        got = torch.autograd.grad(loss, x)[0]
    assert torch.equal(act, net.block.act(net.block.lin(x)))
    assert torch.equal(got, want)


def test_kept_edits_change_operations_in_every_run(net, model):
    with torch.no_grad():
        want, _ = by_hand(net, X, pattern=flatten)
    with model.edit() as edited:
        edited.h[0].source.pattern_0.output = torch.full((2, 3, 3), 1 / 3)
    for _ in range(2):
        with edited.trace(X):
            assert torch.equal(edited.output, want)


def test_a_chain_of_blocks_is_read_in_one_pass():
    net = build(Chain, 3)
    model = wrap(net)
    with model.trace(X):
        acts = [block.source.self_act_0.output for block in model.h]
    x, want = X, []
    for block in net.h:
        want.append(block.act(block.lin(x)))
        x = block(x)
    assert same(acts, want)


def test_the_page_on_sources_runs_as_it_stands(capsys):
    page = (Path(__file__).parents[2] / "docs" / "source.md").read_text()
    names = {}
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page, re.S)):
        place = "cell" if number == 0 else f"cell {number}"
        linecache.cache[place] = (len(code), None, code.splitlines(True), place)
        exec(compile(code, place, "exec"), names)
        if number == 1:
            shown = re.search(r"```text\n(.*?)```", page, re.S)
            assert capsys.readouterr().out == shown.group(1)
