"""Loops over the passes of a generation and over the calls of one module."""

from __future__ import annotations

import pytest
import torch

from nbsight.core.model import wrap
from nbsight.errors import InputError, OutOfOrderError
from tests.core.small import Counter, Repeats, build, has_gates, hooked, rows, same

X = rows(2)


def counted(**options):
    net = build(Counter)
    return wrap(net), hooked(net, (X,), options, method="generate")


def test_an_open_loop_sees_every_pass_and_what_follows_it_runs():
    model, want = counted(steps=4)
    seen, after = [], None
    with model.generate(X, steps=4) as tracer:
        for step in tracer.iter[:]:
            seen.append((step, model.a.output, model.output))
        after = tracer.result
    assert [step for step, _, _ in seen] == [0, 1, 2, 3]
    assert same([a for _, a, _ in seen], want["a.output"])
    assert same([out for _, _, out in seen], want[".output"])
    assert same(after, want[""][0])


def test_a_loop_that_asks_for_more_passes_than_there_are_ends_with_the_model():
    model, want = counted(steps=2)
    seen, after = [], False
    with model.generate(X, steps=2) as tracer:
        for _ in tracer.iter[:10]:
            seen.append(model.b.output)
        after = True
    assert same(seen, want["b.output"])
    assert after


@pytest.mark.parametrize(
    ("which", "steps"),
    [
        (slice(None), [0, 1, 2, 3, 4]),
        (slice(1, 3), [1, 2]),
        (slice(None, None, 2), [0, 2, 4]),
        (slice(3, None), [3, 4]),
        (2, [2]),
        ([0, 3], [0, 3]),
        ([3, 0], [0, 3]),
        (9, []),
        (slice(2, 2), []),
        ([], []),
    ],
)
def test_a_loop_visits_the_passes_that_its_index_names(which, steps):
    model, want = counted(steps=5)
    seen = {}
    with model.generate(X, steps=5) as tracer:
        for step in tracer.iter[which]:
            seen[step] = model.a.output
        result = tracer.result
    assert list(seen) == steps
    assert all(same(seen[step], want["a.output"][step]) for step in steps)
    assert same(result, want[""][0])


@pytest.mark.parametrize("which", [-1, slice(-2, None), slice(None, -1), slice(None, None, -1), [-3]])
def test_a_negative_step_is_refused(which):
    model, _ = counted()
    with pytest.raises(InputError, match="counted from"), model.generate(X) as tracer:
        for _ in tracer.iter[which]:
            pass
    assert not has_gates(model._module)


def test_all_is_every_pass():
    model, want = counted(steps=3)
    seen = []
    with model.generate(X, steps=3) as tracer:
        for _ in tracer.all():
            seen.append(model.a.output)
    assert same(seen, want["a.output"])


def test_edits_in_a_loop_act_on_their_own_passes():
    net = build(Counter)
    turns = iter(range(4))
    want = hooked(
        net,
        (X,),
        {"steps": 4},
        method="generate",
        edit={"a": lambda value: value + 1 if next(turns) % 2 else value},
    )
    model = wrap(net)
    with model.generate(X, steps=4) as tracer:
        for step in tracer.iter[:]:
            if step % 2:
                model.a.output = model.a.output + 1
        result = tracer.result
    assert same(result, want[""][0])


def test_a_loop_that_reads_nothing_in_some_steps_stays_in_step():
    model, want = counted(steps=5)
    seen = {}
    with model.generate(X, steps=5) as tracer:
        for step in tracer.iter[:]:
            if step in (1, 4):
                seen[step] = model.b.output
    assert same(seen, {step: want["b.output"][step] for step in (1, 4)})


def test_two_loops_one_after_the_other_share_the_passes():
    model, want = counted(steps=5)
    first, second = [], []
    with model.generate(X, steps=5) as tracer:
        for _ in tracer.iter[:2]:
            first.append(model.a.output)
        for _ in tracer.iter[2:]:
            second.append(model.b.output)
    assert same(first, want["a.output"][:2])
    assert same(second, want["b.output"][2:])


def test_breaking_out_of_a_loop_leaves_the_run_where_it_is():
    model, want = counted(steps=5)
    with model.generate(X, steps=5) as tracer:
        for step in tracer.iter[:]:
            hidden = model.a.output
            if step == 1:
                break
        later = model.b.output
        result = tracer.result
    assert same(hidden, want["a.output"][1])
    assert same(later, want["b.output"][1])
    assert same(result, want[""][0])


def test_without_a_loop_a_place_means_its_next_pass():
    model, want = counted(steps=3)
    with model.generate(X, steps=3) as tracer:
        first = model.a.output
        result = tracer.result
    assert same(first, want["a.output"][0])
    assert same(result, want[""][0])


def test_asking_in_the_wrong_order_in_a_step_names_the_step():
    model, _ = counted(steps=3)
    with pytest.raises(OutOfOrderError, match="step 1"), model.generate(X, steps=3) as tracer:
        for step in tracer.iter[:]:
            if step == 1:
                model.b.output
                model.a.output
    assert not has_gates(model._module)


def test_the_model_runs_to_its_end_though_nothing_is_read():
    net = build(Counter)
    calls = []
    handle = net.register_forward_hook(lambda *_: calls.append(1))
    model = wrap(net)
    with model.generate(X, steps=3):
        pass
    assert len(calls) == 3
    with model.generate(X, steps=3):
        model.a.output
    handle.remove()
    assert len(calls) == 6


def test_the_block_may_leave_a_loop_by_return():
    model, want = counted(steps=4)

    def go():
        with model.generate(X, steps=4) as tracer:
            for step in tracer.iter[:]:
                if step == 2:
                    return model.a.output
        return None

    assert same(go(), want["a.output"][2])
    assert not has_gates(model._module)


# -- one forward that calls a module several times -------------------------------------------------


def test_an_open_loop_in_one_forward_ends_when_the_module_is_not_called_again():
    net = build(Repeats)
    want = hooked(net, (X,))["cell.output"]
    model = wrap(net)
    seen, after = [], False
    with model.trace(X) as tracer:
        for _ in tracer.iter[:]:
            seen.append(model.cell.output)
        after = True
    assert same(seen, want)
    assert after


@pytest.mark.parametrize("which", [1, 2, slice(1, 3), [0, 2]])
def test_a_loop_in_one_forward_counts_the_calls_of_the_module(which):
    net = build(Repeats)
    want = hooked(net, (X,))["cell.output"]
    model = wrap(net)
    seen = {}
    with model.trace(X) as tracer:
        for step in tracer.iter[which]:
            seen[step] = model.cell.output
    assert seen
    assert all(same(value, want[step]) for step, value in seen.items())


def test_a_loop_in_one_forward_reads_input_and_output_of_each_call():
    net = build(Repeats)
    want = hooked(net, (X,))
    model = wrap(net)
    pairs = []
    with model.trace(X) as tracer:
        for _ in tracer.iter[:3]:
            pairs.append((model.cell.input, model.cell.output))
    assert same([given for given, _ in pairs], [call[0][0] for call in want["cell.inputs"]])
    assert same([value for _, value in pairs], want["cell.output"])


def test_generate_is_under_no_grad_and_the_block_is_not():
    model, _ = counted()
    seen = []
    handle = model._module.a.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    with model.generate(X, grad=True) as tracer:
        here = []
        for _ in tracer.iter[:2]:
            model.a.output
            here.append(torch.is_grad_enabled())
    handle.remove()
    assert not any(seen)
    assert here == [True, True]
