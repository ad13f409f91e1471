"""What a trace shows and does is, bit for bit, what a plain hook would see and do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nbsight.core.model import wrap
from nbsight.errors import NeverCalledError
from tests.core.small import (
    FORMS,
    WIDTH,
    Block,
    Chain,
    Formed,
    Keywords,
    Repeats,
    Shared,
    build,
    each_tensor,
    has_gates,
    hooked,
    rows,
    same,
)

# -- reading ---------------------------------------------------------------------------------------


def test_every_output_and_input_of_a_chain_is_what_a_hook_sees():
    net, x = build(Chain), rows()
    want = hooked(net, (x,))
    model = wrap(net)
    # The order in which a forward meets the places: a module's input, its children, its output.
    with model.trace(x):
        got = {".inputs": model.inputs}
        for layer in range(4):
            block = model.h[layer]
            got[f"h.{layer}.inputs"] = block.inputs
            got[f"h.{layer}.lin.inputs"] = block.lin.inputs
            got[f"h.{layer}.lin.output"] = block.lin.output
            got[f"h.{layer}.act.inputs"] = block.act.inputs
            got[f"h.{layer}.act.output"] = block.act.output
            got[f"h.{layer}.output"] = block.output
        got["head.inputs"] = model.head.inputs
        got["head.output"] = model.head.output
        got[".output"] = model.output
    assert got.keys() == want.keys() - {""}
    for place, value in got.items():
        assert same(value, want[place][0]), place
    assert not has_gates(net)


def test_input_is_the_first_argument_whether_by_place_or_by_name():
    net, x = build(Keywords), rows()
    shift = torch.ones(1)
    want = hooked(net, (x,), {"shift": shift})
    model = wrap(net)
    with model.trace(x, shift=shift):
        root = model.input, model.inputs
        named = model.by_name.input, model.by_name.inputs
        nothing = model.constant.input, model.constant.inputs, model.constant.output
        mixed = model.mixed.input, model.mixed.inputs
    assert same(root, (x, ((x,), {"shift": shift})))
    assert named[0] is x
    assert same(named[1], want["by_name.inputs"][0])
    assert named[1][1].keys() == {"x", "scale"}
    assert nothing[0] is None
    assert same(nothing[1], ((), {}))
    assert same(nothing[2], want["constant.output"][0])
    assert same(mixed, (want["mixed.inputs"][0][0][0], want["mixed.inputs"][0]))


@pytest.mark.parametrize("form", FORMS)
def test_a_value_of_any_form_is_the_very_object_that_the_module_returned(form):
    net, x = build(Formed, form), rows()
    want = hooked(net, (x,))
    model = wrap(net)
    with model.trace(x):
        value = model.part.output
        again = model.part.output
        final = model.output
    assert value is again
    assert type(value) is type(want["part.output"][0])
    assert same(value, want["part.output"][0])
    assert same(final, want[""][0])


def test_reading_does_not_copy():
    net, x = build(Chain), rows()
    kept = []
    handle = net.h[1].register_forward_hook(lambda module, given, value: kept.append(value))
    with wrap(net).trace(x):
        pass
    model = wrap(net)
    with model.trace(x):
        value = model.h[1].output
        after = model.h[2].input
    handle.remove()
    assert after is value
    # A user's own hook runs after the gate, on the same storage.
    assert kept[-1].data_ptr() == value.data_ptr()


def test_each_call_of_a_module_called_often_is_reached_by_what_follows_it():
    net, x = build(Repeats), rows()
    want = hooked(net, (x,))["cell.output"]
    model = wrap(net)
    with model.trace(x) as tracer:
        got = [model.cell.output for _ in tracer.iter[:3]]
        last = model.last.output
    assert [same(left, right) for left, right in zip(got, want, strict=True)] == [True] * 3
    assert same(last, hooked(net, (x,))["last.output"][0])


def test_a_module_reached_by_two_paths_has_one_envoy_and_both_calls_can_be_read():
    net, x = build(Shared), rows()
    want = hooked(net, (x,))
    model = wrap(net)
    assert model.a.lin is model.b.lin
    with model.trace(x) as tracer:
        lins = [model.b.lin.output for _ in tracer.iter[:2]]
    assert same(lins, want["a.lin.output"])
    with model.trace(x):
        a = model.a.output
        second = model.b.lin.output
    assert same([a, second], [want["a.output"][0], want["a.lin.output"][1]])


def test_a_parent_is_reached_from_inside_its_child_on_either_path():
    net, x = build(Shared), rows()
    want = hooked(net, (x,))
    model = wrap(net)
    with model.trace(x):
        model.a.output
        model.b.lin.output
        outer = model.b.output
    assert same(outer, want["b.output"][0])


def test_a_list_of_modules_that_has_a_forward_of_its_own_can_be_read():
    class Stack(nn.ModuleList):
        def forward(self, x):
            for part in self:
                x = part(x)
            return x

    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.stack = Stack([Block(), Block()])

        def forward(self, x):
            return self.stack(x) * 2

    holder, x = build(Holder), rows()
    model = wrap(holder)
    with model.trace(x):
        inner = model.stack[0].output
        value = model.stack.output
    want = hooked(holder, (x,))
    assert same([inner, value], [want["stack.0.output"][0], want["stack.output"][0]])


def test_a_module_replaced_between_traces_is_read_in_its_new_form():
    net, x = build(Chain), rows()
    model = wrap(net)
    with model.trace(x):
        model.h[1].output
        model.head.output
    net.h[1] = build(Block, seed=5)
    net.head = build(nn.Linear, 6, 2, seed=6)
    want = hooked(net, (x,))
    with model.trace(x):
        hidden = model.h[1].output
        head = model.head.output
    assert same([hidden, head], [want["h.1.output"][0], want["head.output"][0]])


def test_what_is_inside_a_module_that_took_anothers_place_is_found():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = Block(), Block()

        def forward(self, x):
            return self.b(self.a(x))

    net, x = build(Two), rows()
    model = wrap(net)
    inner = model.a.lin
    with model.trace(x):
        inner.output
    net.a = build(Block, seed=5)
    want = hooked(net, (x,))
    with pytest.raises(NeverCalledError, match=r"(?s)has been replaced since.*run the block again"):
        with model.trace(x):
            inner.output
    with model.trace(x):
        hidden = model.a.lin.output
    assert same(hidden, want["a.lin.output"][0])
    net.a = nn.Sequential(build(nn.Linear, 6, 6, seed=6), nn.Tanh())
    assert model.a[1]._path == "a.1"
    with model.trace(x):
        hidden = model.a[0].output
    assert same(hidden, hooked(net, (x,))["a.0.output"][0])


# -- changing --------------------------------------------------------------------------------------


def zero_middle(value):
    value[:, 1] = 0


@pytest.mark.parametrize("path", ["h.0", "h.2.lin", "h.3.act", "head"])
def test_an_edit_in_place_is_a_hook_that_edits_in_place(path):
    net, x = build(Chain), rows(2)
    want = hooked(net, (x,), edit={path: zero_middle})
    model = wrap(net)
    with model.trace(x):
        model.get(path).output[:, 1] = 0
        final = model.output
    assert same(final, want[""][0])
    assert not same(final, hooked(net, (x,))[""][0])


@pytest.mark.parametrize("path", ["h.0", "h.2.lin", "h.3.act", "head", ""])
def test_an_assigned_output_is_a_hook_that_returns_it(path):
    net, x = build(Chain), rows(2)
    want = hooked(net, (x,), edit={path: lambda value: value * -2})
    model = wrap(net)
    with model.trace(x):
        envoy = model._at(path)
        envoy.output = envoy.output * -2
        seen = envoy.output
        final = model.output
    assert same(final, want[""][0])
    assert same(seen, want[f"{path}.output"][0])


@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("none", "number")])
def test_an_edit_inside_a_returned_container_is_a_hook_that_does_it(form):
    net, x = build(Formed, form), rows()

    def double(value):
        each_tensor(value, lambda tensor: tensor.mul_(2))

    want = hooked(net, (x,), edit={"part": double})
    model = wrap(net)
    with model.trace(x):
        double(model.part.output)
        final = model.output
    assert same(final, want[""][0])


@pytest.mark.parametrize(("form", "key"), [("list", 0), ("dict", "hidden"), ("mapping", "hidden")])
def test_an_item_assigned_into_a_returned_container_is_a_hook_that_does_it(form, key):
    net, x = build(Formed, form), rows()
    new = rows(seed=9)

    def put(value):
        value[key] = new

    want = hooked(net, (x,), edit={"part": put})
    model = wrap(net)
    with model.trace(x):
        model.part.output[key] = new
        final = model.output
    assert same(final, want[""][0])


def test_an_assigned_input_is_a_pre_hook_that_returns_it():
    net, x = build(Keywords), rows()
    shift = torch.ones(1)
    new = rows(seed=3)
    want = hooked(
        net,
        (x,),
        {"shift": shift},
        edit_input={
            "by_name": lambda given, named: ((), {**named, "x": new}),
            "mixed": lambda given, named: ((given[0] + 1,), named),
        },
    )
    model = wrap(net)
    with model.trace(x, shift=shift):
        model.by_name.input = new
        model.mixed.input = model.mixed.input + 1
        seen = model.mixed.inputs
        final = model.output
    assert same(final, want[""][0])
    assert same(seen, want["mixed.inputs"][0])


def test_assigned_inputs_replace_arguments_and_keywords():
    net, x = build(Keywords), rows()
    shift = torch.ones(1)
    want = hooked(
        net,
        (x,),
        {"shift": shift},
        edit_input={"mixed": lambda given, named: ((given[0] - 4,), {"scale": -1.0})},
    )
    model = wrap(net)
    with model.trace(x, shift=shift):
        (first,), named = model.mixed.inputs
        model.mixed.inputs = ((first - 4,), {"scale": -1.0})
        final = model.output
    assert named == {"scale": 2.0}
    assert same(final, want[""][0])


def test_an_input_edited_in_place_is_a_pre_hook_that_does_it():
    net, x = build(Chain), rows(2)

    def clear(given, named):
        given[0][:, 0] = 0

    want = hooked(net, (x,), edit_input={"h.2.lin": clear})
    model = wrap(net)
    with model.trace(x):
        model.h[2].lin.input[:, 0] = 0
        final = model.output
    assert same(final, want[""][0])


def test_a_skipped_module_does_not_run_and_its_value_goes_on():
    net, x = build(Chain), rows()
    calls = []
    handle = net.h[1].lin.register_forward_hook(lambda *_: calls.append(1))
    want = hooked(net, (x,), edit={"h.1": lambda value: torch.full_like(value, 0.25)})
    calls.clear()
    model = wrap(net)
    with model.trace(x):
        model.h[1].skip(torch.full_like(x, 0.25))
        seen = model.h[1].output
        final = model.output
    handle.remove()
    assert calls == []
    assert same(seen, torch.full_like(x, 0.25))
    assert same(final, want[""][0])


def test_a_module_skipped_with_its_own_input_passes_it_on():
    net, x = build(Chain), rows()
    want = hooked(net, (x,), edit={"h.1": lambda _: None})
    model = wrap(net)
    with model.trace(x):
        before = model.h[1].input
        model.h[1].skip(before)
        after = model.h[2].input
        final = model.output
    assert after is before
    expected = net.head(net.h[3](net.h[2](net.h[0](x))))
    assert same(final, expected)
    assert not same(final, want[""][0])


def test_several_edits_in_one_run_act_together():
    net, x = build(Chain), rows(2)
    want = hooked(
        net,
        (x,),
        edit={
            "h.0": zero_middle,
            "h.1.lin": lambda value: value + 1,
            "h.2": lambda value: value.flip(1),
        },
    )
    model = wrap(net)
    with model.trace(x):
        model.h[0].output[:, 1] = 0
        model.h[1].lin.output = model.h[1].lin.output + 1
        model.h[2].output = model.h[2].output.flip(1)
        final = model.output
    assert same(final, want[""][0])


def test_each_call_of_a_module_called_often_can_be_edited_on_its_own():
    net, x = build(Repeats), rows()
    turns = iter(range(3))
    want = hooked(net, (x,), edit={"cell": lambda value: value * next(turns)})
    model = wrap(net)
    with model.trace(x) as tracer:
        for turn in tracer.iter[:3]:
            model.cell.output = model.cell.output * turn
        final = model.output
    assert same(final, want[""][0])


def test_the_next_run_and_the_plain_model_know_nothing_of_an_edit():
    net, x = build(Chain), rows()
    with torch.no_grad():
        want = net(x)
    model = wrap(net)
    with model.trace(x):
        model.h[0].output[:] = 0
        changed = model.output
    with model.trace(x):
        again = model.output
    assert not same(changed, want)
    assert same(again, want)
    with torch.no_grad():
        assert same(net(x), want)


def test_an_envoy_called_inside_a_trace_applies_its_module_and_the_run_goes_on():
    net, x = build(Chain), rows()
    want = hooked(net, (x,))
    model = wrap(net)
    with model.trace(x):
        early = model.head(model.h[0].output)
        late = model.head(model.h[3].output)
        final = model.output
    with torch.no_grad():
        assert same(early, net.head(want["h.0.output"][0]))
    assert same([late, final], [want[""][0]] * 2)


def test_another_method_is_traced_by_name_or_as_a_function():
    class Two(Chain):
        def encode(self, x, layers=2):
            for block in list(self.h)[:layers]:
                x = block(x)
            return x

    net, x = build(Two), rows()
    with torch.no_grad():
        want = net.encode(x, layers=3)
    model = wrap(net)
    for fn in ("encode", net.encode):
        with model.trace(x, layers=3, fn=fn) as tracer:
            hidden = model.h[2].output
            result = tracer.result
        assert same([hidden, result], [want, want])


def test_trace_false_calls_the_model():
    net, x = build(Chain), rows()
    with torch.no_grad():
        want = net(x)
    assert same(wrap(net).trace(x, trace=False), want)


def test_steering_by_one_of_the_models_own_weights_works_as_in_a_hook():
    class View(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            return self.lin(x.reshape(-1, WIDTH)).view(x.shape)

    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = View()
            self.last = nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            return self.last(self.part(x))

    net, x = build(Holder), rows()
    direction = net.last.weight[2]

    def steer(value):
        value += direction

    want = hooked(net, (x,), edit={"part": steer})[""][0]
    model = wrap(net)
    with model.trace(x):
        model.part.output[:] += direction
        final = model.output
    assert same(final, want)


def test_the_values_of_a_model_that_runs_in_inference_mode_can_be_edited_in_place():
    class Inferring(Chain):
        @torch.inference_mode()
        def forward(self, x):
            return super().forward(x)

    net, x = build(Inferring), rows()
    want = hooked(net, (x,), edit={"h.1": zero_middle})[""][0]
    model = wrap(net)
    with model.trace(x):
        model.h[1].output[:, 1] = 0
        final = model.output
    assert same(final, want)


def test_a_model_that_swallows_exceptions_is_still_left_early():
    class Greedy(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = Block()
            self.b = Block()
            self.went_on = False

        def forward(self, x):
            try:
                x = self.a(x)
            except Exception:
                self.went_on = True
            self.went_on = True
            return self.b(x)

    net, x = build(Greedy), rows()
    model = wrap(net)
    with model.trace(x):
        model.a.output
    assert net.went_on is False
    assert not has_gates(net)
