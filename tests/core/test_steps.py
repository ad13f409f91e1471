"""Loops over the passes of a generation and over the calls of one module."""

from __future__ import annotations

import pytest
import torch

from nbsight.core.model import wrap
from nbsight.core.steps import Step
from nbsight.core.tracer import Tracer
from nbsight.errors import CaptureError, InputError, NeverCalledError, OutOfOrderError
from tests.core.small import Counter, Repeats, build, has_gates, hooked, rows, run_cell, same

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


def test_a_turn_begins_before_the_models_input_is_read_or_changed():
    model, want = counted(steps=3)
    given, seen = [], []
    with model.generate(X, steps=3) as tracer:
        for _ in tracer.iter[:]:
            given.append(model.input.clone())
            seen.append(model.a.output)
    assert same(given, [args[0] for args, _ in want[".inputs"]])
    assert same(seen, want["a.output"])
    with model.generate(X, steps=3) as tracer:
        for step in tracer.iter[:]:
            model.input[:] += step
            changed = model.a.output
    net = build(Counter)

    def push(args, kwargs):
        return (args[0] + next(numbers), *args[1:]), kwargs

    numbers = iter(range(3))
    pushed = hooked(net, (X,), {"steps": 3}, method="generate", edit_input={"": push})
    assert same(changed, pushed["a.output"][-1])


def test_invokes_wait_for_steps_each_at_its_own_pace():
    model, want = counted(steps=4)
    every, odd, given = [], [], []
    with model.generate() as tracer:
        with tracer.invoke(X[:1], steps=4):
            for _ in tracer.iter[:]:
                every.append(model.b.output)
        with tracer.invoke(X[1:], steps=4):
            for step in tracer.iter[1::2]:
                odd.append(model.b.output)
                given.append((step, model.output))
    assert same(every, [out[:1] for out in want["b.output"]])
    assert same(odd, [out[1:] for out in want["b.output"][1::2]])
    assert same(given, [(step, want[".output"][step][1:]) for step in (1, 3)])


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


# -- what a step is --------------------------------------------------------------------------------


def test_a_step_is_an_integer_that_knows_the_first_pass():
    model, _ = counted(steps=3)
    with model.generate(X, steps=3) as tracer:
        steps = list(tracer.iter[:])
    assert steps == [0, 1, 2]
    assert all(type(step) is Step for step in steps)
    assert [step.is_prompt for step in steps] == [True, False, False]
    assert [int(step) for step in tracer.steps] == [0, 1, 2]
    assert repr(tracer.steps) == "3 steps\n  0  the prompt\n  1\n  2"
    for ask in ("token", "token_id", "tokens", "token_ids", "position"):
        with pytest.raises(InputError, match="which tokens this generation chooses is not known"):
            getattr(steps[1], ask)


def test_steps_without_a_run_say_so():
    model, _ = counted()
    with pytest.raises(InputError, match="no input of its own"):
        with model.trace(fn="generate") as tracer:
            tracer.steps


def test_a_tracer_that_is_entered_again_counts_again():
    model, _ = counted()
    tracer = model.trace(X, fn="generate", steps=2)
    for _ in range(2):
        with tracer:
            assert [int(step) for step in tracer.iter[:]] == [0, 1]
        assert len(tracer.steps) == 2


def test_a_kept_step_does_not_keep_what_the_run_returned():
    import gc
    import weakref

    model, _ = counted()
    with model.generate(X, steps=2) as tracer:
        steps = list(tracer.iter[:])
        gone = weakref.ref(tracer.result)
    del tracer
    gc.collect()
    assert gone() is None
    assert steps[1].is_prompt is False


# -- next ------------------------------------------------------------------------------------------


def test_next_goes_on_by_one_step_or_by_several():
    model, want = counted(steps=6)
    with model.generate(X, steps=6) as tracer:
        first = model.a.output
        step = tracer.next()
        second = model.b.output
        later = tracer.next(3)
        fifth = model.a.output
        result = tracer.result
    assert (step, later) == (1, 4)
    assert same([first, second, fifth], [want["a.output"][0], want["b.output"][1], want["a.output"][4]])
    assert same(result, want[""][0])


def test_next_beyond_the_end_says_how_many_steps_there_are():
    model, _ = counted()
    with pytest.raises(NeverCalledError, match="asked for step 2, and the model made 2 steps"):
        with model.generate(X, steps=2) as tracer:
            tracer.next()
            tracer.next()
    assert not has_gates(model._module)


def test_each_module_goes_on_for_itself():
    model, want = counted(steps=5)
    with model.generate(X, steps=5):
        values = [model.a.output, model.b.next().output, model.a.next(2).output, model.b.next().output]
    a, b = want["a.output"], want["b.output"]
    assert same(values, [a[0], b[1], a[2], b[2]])


def test_next_of_a_module_in_a_loop_counts_from_the_loops_step():
    model, want = counted(steps=6)
    seen = []
    with model.generate(X, steps=6) as tracer:
        for _ in tracer.iter[1:6:2]:
            seen.append(model.a.output)
            if len(seen) < 6:
                seen.append(model.a.next().output)
            if len(seen) == 4:
                break
    assert same(seen, want["a.output"][1:5])


def test_next_back_to_a_step_that_has_gone_by_is_out_of_order():
    model, _ = counted()
    with pytest.raises(OutOfOrderError, match="step 1"):
        with model.generate(X, steps=5):
            model.a.next(3).output
            model.b.next(1).output


@pytest.mark.parametrize("name", ["next", "iter", "all", "wait_for_output", "wait_for_input"])
def test_older_names_are_there_while_a_trace_runs_and_not_otherwise(name):
    model, _ = counted()
    assert not hasattr(model.a, name)
    with model.generate(X, steps=2):
        assert hasattr(model.a, name)
    assert not hasattr(model.a, name)


def test_older_names_of_loops_and_waiting():
    model, want = counted(steps=3)
    with model.generate(X, steps=3):
        some = [model.a.output for _ in model.a.iter[:2]]
        model.b.wait_for_output()
        rest = [model.b.output for _ in model.all()]
    assert same(some, want["a.output"][:2])
    assert same(rest, want["b.output"][1:])
    with model.trace(X, strict_order=True):
        model.b.wait_for_input()
        with pytest.raises(OutOfOrderError):
            model.a.output


# -- the form with `with` --------------------------------------------------------------------------


def test_the_body_of_a_with_runs_once_a_step_and_what_follows_runs():
    model, want = counted(steps=4)
    seen, last = [], None
    with model.generate(X, steps=4) as tracer:
        with tracer.iter[1:] as step:
            last = step * 10
            seen.append((step, model.a.output))
        after = tracer.result
    assert [number for number, _ in seen] == [1, 2, 3]
    assert same([value for _, value in seen], want["a.output"][1:])
    assert (step, last) == (3, 30)
    assert same(after, want[""][0])


def test_the_body_of_a_with_over_all_steps_may_edit_and_count():
    model, _ = counted()
    want = hooked(model._module, (X,), {"steps": 3}, method="generate", edit={"a": lambda value: value + 1})
    count = 0
    with model.generate(X, steps=3) as tracer:
        with tracer.all():
            count += 1
            model.a.output = model.a.output + 1
        result = tracer.result
    assert count == 3
    assert same(result, want[""][0])


def test_the_body_of_a_with_in_an_invoke_and_in_a_function():
    model, want = counted(steps=3)

    def go():
        kept = []
        with model.generate(X, steps=3) as tracer:
            with tracer.iter[:2] as step:
                name = f"step {step}"
                kept.append((name, model.b.output))
        return kept, name

    kept, name = go()
    assert [text for text, _ in kept] == ["step 0", "step 1"]
    assert name == "step 1"
    assert same([value for _, value in kept], want["b.output"][:2])
    outer = 5
    with model.trace(fn="generate") as tracer:
        with tracer.invoke(X, steps=3):
            found = []
            with tracer.iter[:] as step:
                found.append((step + outer, model.b.output))
            after = len(found)
    assert [number for number, _ in found] == [5, 6, 7]
    assert same([value for _, value in found], want["b.output"])
    assert after == 3


def test_an_error_in_the_body_of_a_with_is_on_the_users_line():
    model, _ = counted()
    with pytest.raises(ZeroDivisionError) as caught:
        with model.generate(X, steps=3) as tracer:
            with tracer.iter[:] as step:
                1 / (1 - step)
    assert caught.traceback[-1].path.name == "test_steps.py"
    assert "1 / (1 - step)" in str(caught.traceback[-1].statement)
    assert not has_gates(model._module)


def test_the_body_of_a_with_needs_its_text():
    model, _ = counted()
    code = "with model.generate(x, steps=2) as tracer:\n    with tracer.iter[:] as step:\n        pass"
    with pytest.raises(CaptureError, match=r"Write `for step in tracer.iter\[...\]:`"):
        exec(compile(code, "<nowhere>", "exec"), {"model": model, "x": X})
    assert run_cell(code, {"model": model, "x": X})["step"] == 1


# -- tracers of one's own --------------------------------------------------------------------------


def test_a_subclass_of_the_tracer_may_be_named():
    class Own(Tracer):
        """A tracer with something more."""

        word = "own"

    model, _ = counted()
    with model.trace(X, tracer_cls=Own) as tracer:
        value = model.a.output
    assert tracer.word == "own"
    assert same(value, model._module.a(X))
    with pytest.raises(InputError, match=r"subclass of nbsight\.core\.tracer\.Tracer"):
        model.trace(X, tracer_cls=dict)
