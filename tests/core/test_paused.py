"""Runs held open, against plain hooks."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from nbsight.core.model import wrap
from nbsight.errors import (
    EditError,
    InputError,
    ModelRunError,
    NeverCalledError,
    OutOfOrderError,
    OutsideTraceError,
    PathError,
)
from tests.core.small import (
    WIDTH,
    Block,
    Chain,
    Counter,
    Keywords,
    Repeats,
    build,
    has_gates,
    hooked,
    rows,
    run_cell,
    same,
)

X = rows()


def calls_in_order(net, *args):
    """The path of each module when its call returns, and what it returned, by plain hooks."""
    seen, handles = [], []
    for path, module in net.named_modules():
        handles.append(
            module.register_forward_hook(
                lambda m, i, out, path=path: seen.append((path or "model", out.clone()))
            )
        )
    with torch.no_grad():
        net(*args)
    for handle in handles:
        handle.remove()
    return seen


# -- moving ----------------------------------------------------------------------------------------


def test_a_run_stops_where_it_is_told_and_goes_on():
    net = build(Chain)
    model = wrap(net)
    want = hooked(net, (X,))
    run = model.start(X)
    assert run.here is None
    assert same(run.until(model.h[1].output), want["h.1.output"][0])
    assert run.here.path == "h.1"
    assert run.here.shape == tuple(want["h.1.output"][0].shape)
    assert same(run.until("h.2.output"), want["h.2.output"][0])
    assert same(run.finish(), want[""][0])
    assert not run.is_open
    assert run.here is None


def test_steps_visit_every_block_in_turn():
    net = build(Chain)
    want = hooked(net, (X,))
    seen = [(here.path, here.block, here.value) for here in wrap(net).start(X)]
    assert [path for path, *_ in seen] == ["h.0", "h.1", "h.2", "h.3", "model"]
    assert [block for _, block, _ in seen] == [0, 1, 2, 3, None]
    for path, _, value in seen[:-1]:
        assert same(value, want[f"{path}.output"][0])


def test_a_step_into_stops_at_every_submodule_in_the_order_of_the_calls():
    net = build(Chain)
    run = wrap(net).start(X)
    seen = []
    while (here := run.step(into=True)) is not None:
        seen.append((here.path, here.value))
    assert same(seen, calls_in_order(net, X))


def test_a_step_from_inside_a_block_goes_to_its_end():
    run = wrap(build(Chain)).start(X)
    run.step()
    assert run.step(into=True).path == "h.1.lin"
    assert run.here.block == 1
    assert run.step().path == "h.1"
    assert run.step().path == "h.2"


def test_a_module_that_is_called_several_times_is_reached_each_time():
    net = build(Repeats)
    want = hooked(net, (X,))
    run = wrap(net).start(X)
    values = [run.until("cell.output"), run.until("cell.output", again=True)]
    assert run.here.call == 1
    assert run.until("cell.output") is values[1]  # it stands there
    values.append(run.until("cell.output", again=True))
    assert same(values, want["cell.output"])
    with pytest.raises(OutOfOrderError, match=r"before it came to `cell\.output` again"):
        run.until("cell.output", again=True)
    assert same(run.result, want[""][0])


def test_between_two_calls_of_a_module_again_is_how_to_get_to_the_next():
    class Weaves(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            return self.b(self.a(self.b(self.a(x))))

    net = build(Weaves)
    run = wrap(net).start(X)
    run.until("b.output")
    with pytest.raises(OutOfOrderError, match=r'run\.until\("a\.output", again=True\)'):
        run.until("a.output")
    assert same(run.until("a.output", again=True), hooked(net, (X,))["a.output"][1])


@pytest.mark.parametrize(
    "place",
    ["h.2.lin.output", "h[2].lin.output", "model.h[2].lin.output", "h.2.lin", "h[-2].lin"],
)
def test_a_path_may_be_written_in_many_ways(place):
    net = build(Chain)
    assert same(wrap(net).start(X).until(place), hooked(net, (X,))["h.2.lin.output"][0])


def test_a_module_as_the_place_means_its_output():
    net = build(Chain)
    model = wrap(net)
    assert same(model.start(X).until(model.h[2].act), hooked(net, (X,))["h.2.act.output"][0])
    assert same(model.start(X).until(model), hooked(net, (X,))[""][0])
    assert same(model.start(X).until("model.output"), hooked(net, (X,))[""][0])


def test_inputs_are_places_too():
    net = build(Keywords)
    model = wrap(net)
    shift = torch.ones(WIDTH)
    args, kwargs = hooked(net, (X,), {"shift": shift})["mixed.inputs"][0]
    run = model.start(X, shift=shift)
    assert same(run.until(model.mixed.input), args[0])
    assert run.here.kind == "input"
    assert same(run.here.value, args[0])
    assert same(run.until(model.mixed.inputs), (args, kwargs))


def test_operations_inside_a_forward_are_places_too():
    net = build(Chain)
    model = wrap(net)
    want = hooked(net, (X,), edit={"h.1.act": lambda v: v.zero_()})[""][0]
    run = model.start(X)
    run.step()
    value = run.until(model.h[1].source.self_act_0.output)
    assert same(value, hooked(net, (X,))["h.1.act.output"][0])
    assert run.here.path == "h.1.source.self_act_0"
    assert run.here.block == 1
    run.here.value[:] = 0
    with pytest.raises(OutOfOrderError, match=r"has passed `h\.1\.source\.self_lin_0\.output`"):
        run.until("h.1.source.self_lin_0.output")
    assert same(run.finish(), want)


def test_operations_of_a_forward_that_has_begun_are_an_error_that_moves_nothing():
    net = build(Chain)
    model = wrap(net)
    run = model.start(X)
    run.until("h.1.lin.output")
    with pytest.raises(OutOfOrderError, match=r"already begun `h\.1`(?s:.)*stands at `h\.1\.lin\.output`"):
        run.until(model.h[1].source.self_act_0.output)
    assert run.here.path == "h.1.lin"
    assert same(run.until("h.2.source.self_act_0.output"), hooked(net, (X,))["h.2.act.output"][0])
    assert same(run.finish(), hooked(net, (X,))[""][0])
    assert not has_gates(net)


def test_the_functions_that_operations_call_are_looked_into_on_the_way():
    names = run_cell(
        """
        import torch
        from torch import nn

        def mix(x):
            doubled = x * 2
            return torch.tanh(doubled)

        class Calls(nn.Module):
            def __init__(self):
                super().__init__()
                self.lin = nn.Linear(6, 6)
                self.how = {"plain": mix}

            def forward(self, x):
                interface = self.how["plain"]
                return self.lin(interface(x))
        """,
        {},
    )
    net = names["Calls"]().eval()
    model = wrap(net)
    run = model.start(X)
    inner = run.until(model.source.interface_1.source.doubled_0.output)
    assert same(inner, X * 2)
    inner[:] = 0
    assert not has_gates(net)
    with torch.no_grad():
        assert same(run.finish(), net.lin(torch.zeros_like(X)))


# -- what it does not do ---------------------------------------------------------------------------


def test_a_run_does_not_go_back_and_says_so_without_moving():
    net = build(Chain)
    model = wrap(net)
    run = model.start(X)
    run.until("h.2.act")
    for place in ("h.1.output", "h.2.lin.output", "h.2.input", "h.1.lin.input"):
        with pytest.raises(OutOfOrderError, match=r"It stands at `h\.2\.act\.output` and stays"):
            run.until(place)
    with pytest.raises(OutOfOrderError, match=r"run\.until\(model\.h\[0\]\.output\)"):
        run.until(model.h[0].output)
    assert run.here.path == "h.2.act"
    assert same(run.until("h.2.output"), hooked(net, (X,))["h.2.output"][0])
    assert same(run.finish(), hooked(net, (X,))[""][0])


def test_reading_a_place_does_not_move_it():
    net = build(Chain)
    model = wrap(net)
    run = model.start(X)
    with pytest.raises(OutOfOrderError, match="before its first module"):
        model.h[0].output
    run.step()
    for ask in (
        lambda: model.h[1].output,
        lambda: model.h[1].lin.input,
        lambda: model.h[1].skip(X),
        lambda: setattr(model.h[1], "output", X),
        lambda: setattr(model.h[1], "inputs", ((X,), {})),
        lambda: model.h[1].source.self_act_0.output,
    ):
        with pytest.raises(OutOfOrderError, match=r"stands at `h\.0\.output`"):
            ask()
    assert run.here.path == "h.0"
    assert run.here.value is model.h[0].output
    assert same(run.finish(), hooked(net, (X,))[""][0])


def test_a_name_of_until_in_another_cell_moves_nothing():
    model = wrap(build(Chain))
    run = model.start(X)
    run_cell("run.until", {"run": run})
    with pytest.raises(OutOfOrderError):
        model.h[1].output
    assert run.here is None


def test_what_is_no_place_is_explained():
    model = wrap(build(Chain))
    with pytest.raises(InputError, match="needs an input"):
        model.start()
    with pytest.raises(InputError, match="no `remote`"):
        model.start(X, remote="local")
    with model.start(X) as run:
        with pytest.raises(PathError, match="4 entries"):
            run.until(model.h[9].output)
        with pytest.raises(PathError, match="4 entries"):
            run.until("h[9].output")
        with pytest.raises(PathError, match=r"`h\.1` has no `nope`"):
            run.until("h.1.nope.output")
        with pytest.raises(PathError, match="is no place"):
            run.until("h.1.source")
        for wrong in (3, None, X, run.here):
            with pytest.raises(InputError, match="not read in this run"):
                run.until(wrong)
        assert run.here is None
        assert isinstance(run.until("h.1.output"), torch.Tensor)


def test_a_place_that_is_never_reached_ends_the_run_and_says_so():
    class Idle(Chain):
        def __init__(self):
            super().__init__()
            self.idle = Block()

    net = build(Idle)
    model = wrap(net)
    run = model.start(X)
    with pytest.raises(NeverCalledError, match=r"never calls `idle`[^$]*`run\.result`"):
        run.until(model.idle.output)
    assert same(run.result, hooked(net, (X,))[""][0])


def test_the_place_in_the_block_of_a_trace_is_not_the_runs():
    net = build(Chain)
    model = wrap(net)
    run = model.start(rows(seed=3))
    with model.trace(X):
        with pytest.raises(InputError, match=r'write the path: `run\.until\("'):
            run.until(model.h[1].output)
        held = run.until("h.1.output")
        traced = model.h[2].output
    assert same(held, hooked(net, (rows(seed=3),))["h.1.output"][0])
    assert same(traced, hooked(net, (X,))["h.2.output"][0])


# -- edits -----------------------------------------------------------------------------------------


def test_an_edit_between_two_steps_acts():
    net = build(Chain)
    model = wrap(net)
    run = model.start(X)
    run.step()
    run.here.value[:] = 0
    run.step()
    model.h[1].output = model.h[1].output + 1
    run.step()
    run.here.value = run.here.value * 2
    assert same(run.here.value, model.h[2].output)
    result = run.finish()
    edit = {"h.0": lambda v: v.mul_(0), "h.1": lambda v: v + 1, "h.2": lambda v: v * 2}
    assert same(result, hooked(net, (X,), edit=edit)[""][0])


def test_inputs_are_edited_and_calls_skipped_where_it_stands_before_them():
    net = build(Chain)
    model = wrap(net)
    run = model.start(X)
    run.until(model.h[1].input)
    run.here.value = torch.zeros_like(X)
    run.until(model.h[2].input)
    model.h[2].skip(X)
    want = hooked(
        net,
        (X,),
        edit_input={"h.1": lambda args, kwargs: ((torch.zeros_like(X),), kwargs)},
        edit={"h.2": lambda v: X},
    )
    assert same(run.until("h.2.output"), X)
    assert same(run.finish(), want[""][0])


def test_the_last_value_can_be_edited_as_well():
    net = build(Chain)
    run = wrap(net).start(X)
    assert run.until("model.output") is run.here.value
    run.here.value = run.here.value + 1
    with torch.no_grad():
        assert same(run.finish(), net(X) + 1)


def test_the_edits_are_listed_with_their_lines():
    net = build(Chain)
    names = run_cell(
        """
        run = model.start(X)
        run.step()
        run.here.value[:] = 0
        before = run.here, run.edits
        run.step()
        model.h[1].output = X
        """,
        {"model": wrap(net), "X": X},
    )
    assert [edit.path for edit in names["before"][1]] == ["h.0"]
    assert [f"{edit.path}.{edit.kind}" for edit in names["run"].edits] == ["h.0.output", "h.1.output"]
    text = repr(names["run"].edits)
    first, second = (re.split(" {2,}", line) for line in text.splitlines()[1:])
    assert first == ["h.0.output", "in place", "float32 (1, 3, 6)", "–", "–", "–", "4: run.here.value[:] = 0"]
    assert second[:4] == ["h.1.output", "assigned", "float32 (1, 3, 6)", "100%"]
    assert second[-1] == "7: model.h[1].output = X"
    assert repr(wrap(net).start(X).edits) == "no edits"


def test_a_stop_that_the_run_has_left_cannot_be_edited_and_keeps_its_value():
    net = build(Chain)
    run = wrap(net).start(X)
    old = run.step()
    run.step()
    with pytest.raises(OutOfOrderError, match=r"has left `h\.0\.output`"):
        old.value = X
    assert same(old.value, hooked(net, (X,))["h.0.output"][0])
    assert same(run.finish(), hooked(net, (X,))[""][0])


def test_an_edit_that_breaks_the_model_is_named_and_ends_the_run():
    model = wrap(build(Chain))
    run = model.start(X)
    run.until(model.h[1].input)
    run.here.value = torch.zeros(1, 3, WIDTH + 1)
    with pytest.raises(ModelRunError, match=r"(?s)failed in `h\.1\.lin`.*run\.here\.value = torch\.zeros"):
        run.step()
    assert repr(run).startswith("run of Chain, failed: RuntimeError: ")
    for use in (run.step, run.finish, lambda: run.until("h.3.output"), lambda: run.result):
        with pytest.raises(OutOfOrderError, match="the model failed in this run"):
            use()
    with pytest.raises(OutsideTraceError):
        model.h[1].output


def test_kept_edits_act_and_the_run_does_not_stop_for_them():
    net = build(Chain)
    model = wrap(net)
    with model.edit(inplace=True):
        model.h[1].lin.output[:] = 0
        model.h[2].output = model.h[2].output * 3
    want = hooked(net, (X,), edit={"h.1.lin": lambda v: v.zero_(), "h.2": lambda v: v * 3})
    seen = [(here.path, here.value) for here in model.start(X)]
    assert [path for path, _ in seen] == ["h.0", "h.1", "h.2", "h.3", "model"]
    assert all(same(value, want[f"{path}.output"][0]) for path, value in seen[:-1])
    run = model.start(X)
    run.step()
    run.here.value[:] = 1
    model.clear_edits()  # it began with them
    both = {"h.0": lambda v: v.fill_(1), "h.1.lin": lambda v: v.zero_(), "h.2": lambda v: v * 3}
    assert same(run.finish(), hooked(net, (X,), edit=both)[""][0])
    assert same(model.start(X).finish(), hooked(net, (X,))[""][0])
    assert not has_gates(net)


def test_a_kept_edit_that_goes_back_is_an_error_and_not_left_out():
    model = wrap(build(Chain))
    with model.edit(inplace=True):
        late = model.h[2].output
        model.h[3].output = late + model.h[1].output
    run = model.start(X)
    run.until("h.1.output")
    with pytest.raises(OutOfOrderError, match=r"`h\.1\.output`"):
        run.finish()
    assert not run.is_open


def test_a_kept_edit_that_fails_ends_the_run():
    net = build(Chain)
    model = wrap(net)
    with model.edit(inplace=True):
        model.h[1].output / 0 + undefined_name  # noqa: F821
    run = model.start(X)
    run.step()
    with pytest.raises(NameError):
        run.step()
    assert repr(run) == "run of Chain, failed"
    assert not has_gates(net)


# -- the end ---------------------------------------------------------------------------------------


def test_a_finished_run_gives_its_result_as_often_as_it_is_asked():
    net = build(Chain)
    run = wrap(net).start(X)
    with pytest.raises(OutOfOrderError, match=r"run\.finish\(\)"):
        run.result
    result = run.finish()
    assert same(result, hooked(net, (X,))[""][0])
    assert run.finish() is result  # a cell is run twice
    assert run.result is result
    assert run.step() is None
    assert list(run) == []
    assert run.here is None
    with pytest.raises(OutOfOrderError, match="has finished"):
        run.until("h.1.output")


def test_the_error_of_a_run_that_is_over_shows_the_line_and_not_a_trace_to_open():
    model = wrap(build(Chain))
    run = model.start(X)
    run.finish()
    with pytest.raises(OutOfOrderError, match=r"(?s)has finished.*run\.until\(model\.h\[1\]\.output\)"):
        run.until(model.h[1].output)
    closed = model.start(X)
    closed.close()
    closed.close()
    for use in (lambda: closed.until(model.h[1].output), closed.step, closed.finish):
        with pytest.raises(OutOfOrderError, match=r"(?s)is closed.*model\.start\(prompt\)"):
            use()


def test_the_context_manager_closes_it():
    net = build(Chain)
    with wrap(net).start(X) as run:
        run.step()
    assert not run.is_open
    with pytest.raises(OutOfOrderError, match=r"model\.start"):
        run.step()


def test_a_loop_that_is_left_leaves_the_run_where_it_stands():
    net = build(Chain)
    run = wrap(net).start(X)
    for here in run:
        if here.path == "h.1":
            break
    assert run.is_open
    assert run.here.path == "h.1"
    assert [here.path for here in run] == ["h.2", "h.3", "model"]
    assert same(run.result, hooked(net, (X,))[""][0])


# -- several, and beside other runs ----------------------------------------------------------------


def test_two_runs_and_a_trace_do_not_disturb_each_other():
    net = build(Chain)
    model = wrap(net)
    other_input = rows(seed=5)
    one, two = model.start(X), model.start(other_input)
    one.step()
    two.step()
    two.step()
    with model.trace(X):
        traced = model.h[3].output
    assert one.here.path == "h.0"
    assert two.here.path == "h.1"
    assert same(traced, hooked(net, (X,))["h.3.output"][0])
    assert same(two.finish(), hooked(net, (other_input,))[""][0])
    assert same(one.finish(), hooked(net, (X,))[""][0])


def test_the_place_in_until_is_that_of_the_run_it_is_asked_of():
    net = build(Chain)
    model = wrap(net)
    one, two = model.start(X), model.start(rows(seed=5))
    two.step()
    value = one.until(model.h[2].output)
    assert same(value, hooked(net, (X,))["h.2.output"][0])
    assert two.here.path == "h.0"
    assert one.here.path == "h.2"
    two.until(model.h[1].output)
    assert one.here.path == "h.2"


def test_a_state_is_carried_from_one_run_to_the_other():
    net = build(Chain)
    model = wrap(net)
    other_input = rows(seed=5)
    one, two = model.start(X), model.start(other_input)
    donor = one.until("h.1.output")
    two.until("h.1.output")[:, -1] = donor[:, -1]
    plain = hooked(net, (X,))["h.1.output"][0]

    def patch(value):
        value[:, -1] = plain[:, -1]

    assert same(two.finish(), hooked(net, (other_input,), edit={"h.1": patch})[""][0])
    assert same(one.finish(), hooked(net, (X,))[""][0])


def test_two_models_are_stepped_side_by_side():
    nets = build(Chain, seed=1), build(Chain, seed=2)
    runs = [wrap(net).start(X) for net in nets]
    seen = [[], []]
    for _ in range(4):
        for run, values in zip(runs, seen, strict=True):
            values.append(run.step().value)
    for net, values in zip(nets, seen, strict=True):
        want = hooked(net, (X,))
        assert same(values, [want[f"h.{number}.output"][0] for number in range(4)])


def test_gradients_are_there_for_what_was_read():
    net = build(Chain)
    model = wrap(net)
    kept = []
    with torch.enable_grad():
        seen = hooked(net, (X,), edit={"h.1": lambda v: (v.retain_grad(), kept.append(v))[0]}, grad=True)
        seen[""][0].sum().backward()
    wanted = kept[0].grad
    net.zero_grad()
    run = model.start(X, grad=True)
    early = run.until(model.h[1].output)
    run.step()
    late = run.here.value
    result = run.finish()
    result.sum().backward()
    assert torch.allclose(early.grad, wanted)
    assert late.grad is not None
    assert not model.start(X).until("h.1.output").requires_grad


def test_a_backward_pass_may_come_before_the_end():
    net = build(Chain)
    run = wrap(net).start(X, grad=True)
    early = run.until("h.0.output")
    late = run.until("h.2.output")
    late.sum().backward(retain_graph=True)
    found, early.grad = early.grad, None
    assert torch.equal(found, torch.autograd.grad(late.sum(), early, retain_graph=True)[0])
    assert same(run.finish().detach(), hooked(net, (X,))[""][0])


def test_a_generation_is_stepped_pass_by_pass():
    net = build(Counter)
    model = wrap(net)
    want = hooked(net, (X,), {"steps": 3}, method="generate")
    run = model.start(X, fn="generate", steps=3)
    seen = [(here.path, here.step, here.value) for here in run]
    assert [(path, step) for path, step, _ in seen] == [
        (path, step) for step in range(3) for path in ("a", "b", "model")
    ]
    for path, step, value in seen:
        key = "output" if path == "model" else f"{path}.output"
        assert same(value, want[".output" if path == "model" else key][step])
    assert same(run.result, want[""][0])


def test_until_in_a_generation_means_the_next_time():
    net = build(Counter)
    model = wrap(net)
    want = hooked(net, (X,), {"steps": 3}, edit={}, method="generate")
    run = model.start(X, fn="generate", steps=3)
    run.until(model.b.output)
    assert same(run.until(model.a.output), want["a.output"][1])
    assert same(run.until("a.output", again=True), want["a.output"][2])
    assert "step 2" in repr(run)
    run.step()
    with pytest.raises(OutOfOrderError, match=r"`generate` ended before it came to `a\.output` again"):
        run.until(model.a.output)
    assert same(run.result, want[""][0])


# -- what it prints --------------------------------------------------------------------------------


def test_a_run_prints_where_it_stands_and_how_far_it_has_come():
    run = wrap(build(Chain)).start(X)
    assert repr(run) == "run of Chain, held open before its first module\n  [....] 0 of 4 blocks done"
    run.step()
    assert repr(run.here) == "h.0.output: float32 (1, 3, 6)  [#...] block 1 of 4"
    run.step(into=True)
    run.here.value[:] = 0
    assert repr(run) == (
        "run of Chain, held open at h.1.lin.output\n  [#>..] in block 2 of 4\n"
        "  value: float32 (1, 3, 6)\n  edited: h.1.lin.output"
    )
    run.until("head.output")
    assert "[####] 4 of 4 blocks done" in repr(run)
    run.finish()
    assert repr(run) == "run of Chain, finished; run.result is float32 (1, 3, 5)"
    run = wrap(build(Chain)).start(X)
    run.step()
    run.close()
    assert repr(run) == "run of Chain, closed at h.0.output"


def test_the_bar_of_a_deep_model_is_drawn_to_scale():
    run = wrap(build(Chain, 96)).start(X)
    run.until("h.47.output")
    assert f"[{'#' * 24}{'.' * 24}] block 48 of 96" in repr(run.here)


class Nested(nn.Module):
    """Blocks in a list, each with a list of its own, and one part outside."""

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([Chain(2), Chain(2)])
        self.mid = Chain(2)


@pytest.mark.parametrize(
    ("net", "count"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), 3),
        (nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU())), 2),
        (nn.ModuleDict({"net": nn.Sequential(nn.Linear(2, 2), nn.ReLU())}), 2),
        (nn.Bilinear(2, 2, 2), 0),
        (Block(), 2),
        (Chain(), 4),
        (Nested(), 4),
    ],
)
def test_blocks_are_the_outermost_list_there_is(net, count):
    from nbsight.core.trail import find_blocks

    assert len(find_blocks(net)) == count


def test_a_module_without_parts_has_one_step():
    net = nn.Linear(WIDTH, 2)
    run = wrap(net).start(X)
    assert [here.path for here in run] == ["model"]
    with torch.no_grad():
        assert same(run.result, net(X))


# -- shapes alone, and parts -----------------------------------------------------------------------


def test_the_shapes_of_a_scan_are_the_shapes_of_a_run():
    net = build(Chain)
    model = wrap(net)
    with model.scan(X):
        shapes = [block.output.shape for block in model.h]
        final = model.output
    with model.trace(X):
        real = [block.output.shape for block in model.h]
    assert shapes == real
    assert type(final).__name__ == "FakeTensor"
    meta = wrap(build(Chain).to("meta"))
    with meta.scan(X):
        assert meta.output.shape == final.shape


def test_a_part_of_a_model_can_be_traced_alone():
    net = build(Chain)
    model = wrap(net)
    hidden = hooked(net, (X,))["h.1.output"][0].clone()
    with model.h[2].trace(hidden):
        out = model.h[2].output
    with torch.no_grad():
        assert same(out, net.h[2](hidden.clone()))


def test_a_value_of_a_wrong_kind_is_refused_where_it_is_written():
    run = wrap(build(Chain)).start(X)
    run.until("h.1.input")
    with pytest.raises(EditError, match=r"`h\.1\.inputs` is a pair"):
        run._tracer.root.h[1].inputs = 3
    assert run.here.path == "h.1"
