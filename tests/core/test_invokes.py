"""Several invokes are one forward, and each has the numbers of a run of its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nbsight.core.model import wrap
from nbsight.errors import InputError
from tests.core.small import (
    FORMS,
    WIDTH,
    Block,
    Chain,
    Counter,
    Formed,
    Keywords,
    build,
    close,
    each_tensor,
    first_tensor,
    has_gates,
    hooked,
    rows,
    same,
)


def count_calls(module: nn.Module) -> list[int]:
    """A list that grows by one with each call of the module."""
    calls: list[int] = []
    forward = type(module).forward

    class Counting(type(module)):  # type: ignore[misc]
        def forward(self, *args, **kwargs):
            calls.append(1)
            return forward(self, *args, **kwargs)

    module.__class__ = Counting
    return calls


# -- one forward, separate numbers -------------------------------------------------------------


def test_invokes_of_different_heights_are_one_forward_with_the_numbers_of_separate_runs():
    net = build(Chain)
    inputs = [rows(1, seed=1), rows(3, seed=2), rows(2, seed=3)]
    want = [hooked(net, (x,)) for x in inputs]
    calls = count_calls(net)
    model = wrap(net)
    got = []
    with model.trace() as tracer:
        for x in inputs:
            with tracer.invoke(x):
                seen = {}
                for layer in range(4):
                    seen[f"h.{layer}.lin.inputs"] = model.h[layer].lin.inputs
                    seen[f"h.{layer}.lin.output"] = model.h[layer].lin.output
                    seen[f"h.{layer}.output"] = model.h[layer].output
                seen[".output"] = model.output
                got.append(seen)
    assert len(calls) == 1
    assert len(got) == 3
    for seen, expected in zip(got, want, strict=True):
        for place, value in seen.items():
            assert close(first_tensor(value), first_tensor(expected[place][0])), place
    assert not has_gates(net)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_root_is_called_once_however_many_invokes_there_are(count):
    net = build(Chain)
    calls = count_calls(net)
    model = wrap(net)
    shapes = []
    with model.trace() as tracer:
        for number in range(count):
            with tracer.invoke(rows(number + 1)):
                shapes.append(model.h[1].output.shape[0])
    assert len(calls) == 1
    assert shapes == list(range(1, count + 1))


@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("none", "number")])
def test_an_invoke_sees_its_own_rows_of_a_value_of_any_form(form):
    net = build(Formed, form)
    one, two = rows(1, seed=1), rows(2, seed=2)
    want = [hooked(net, (x,))["part.output"][0] for x in (one, two)]
    model = wrap(net)
    with model.trace() as tracer:
        with tracer.invoke(one):
            a = model.part.output
        with tracer.invoke(two):
            b = model.part.output
    for got, expected in ((a, want[0]), (b, want[1])):
        assert type(got) is type(expected)
        assert close(first_tensor(got), first_tensor(expected))


@pytest.mark.parametrize("form", ["none", "number"])
def test_what_is_no_tensor_is_shown_to_each_invoke_as_it_is(form):
    net = build(Formed, form)
    model = wrap(net)
    with model.trace() as tracer:
        with tracer.invoke(rows()):
            a = model.part.output
        with tracer.invoke(rows(2)):
            b = model.part.output
    assert a is b is {"none": None, "number": 7}[form]


@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("none", "number")])
def test_an_in_place_edit_of_one_invoke_never_touches_another(form):
    net = build(Formed, form)
    one, two = rows(1, seed=1), rows(2, seed=2)

    def shift(value):
        each_tensor(value, lambda tensor: tensor.add_(1) if tensor.ndim else None)

    want_one = hooked(net, (one,), edit={"part": shift})[""][0]
    want_two = hooked(net, (two,))[""][0]
    model = wrap(net)
    with model.trace() as tracer:
        with tracer.invoke(one):
            shift(model.part.output)
            a = model.output
        with tracer.invoke(two):
            b = model.output
    assert close(a, want_one)
    assert close(b, want_two)


@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("none", "number")])
def test_an_assigned_value_of_any_form_replaces_only_its_invokes_rows(form):
    net = build(Formed, form)
    one, two = rows(2, seed=1), rows(1, seed=2)
    donor = build(Formed, form, seed=4).part

    def other(_):
        return donor(one)

    want_one = hooked(net, (one,), edit={"part": other})[""][0]
    want_two = hooked(net, (two,))[""][0]
    model = wrap(net)
    with model.trace() as tracer:
        with tracer.invoke(one):
            new = donor(one)
            if form == "tuple":  # its last entry has no rows, so it is everybody's
                new = (*new[:2], model.part.output[2])
            model.part.output = new
            a = model.output
        with tracer.invoke(two):
            b = model.output
    assert close(a, want_one)
    assert close(b, want_two)


@pytest.mark.parametrize(("form", "key"), [("list", 0), ("dict", "hidden"), ("mapping", "hidden")])
def test_an_item_assigned_into_a_container_lands_in_an_invokes_rows(form, key):
    net = build(Formed, form)
    one, two = rows(1, seed=1), rows(1, seed=2)
    new = rows(seed=8)

    def put(value):
        value[key] = new

    want = hooked(net, (one,), edit={"part": put})[""][0]
    model = wrap(net)
    with model.trace() as tracer:
        with tracer.invoke(one):
            model.part.output[key] = new
            a = model.output
        with tracer.invoke(two):
            b = model.output
    assert close(a, want)
    assert close(b, hooked(net, (two,))[""][0])


def test_an_assigned_input_replaces_only_its_invokes_rows():
    net = build(Chain)
    one, two = rows(1, seed=1), rows(2, seed=2)
    want = hooked(net, (two,), edit_input={"h.2": lambda given, named: ((given[0] * 3,), named)})
    model = wrap(net)
    with model.trace() as tracer:
        with tracer.invoke(one):
            a = model.output
        with tracer.invoke(two):
            model.h[2].input = model.h[2].input * 3
            b = model.output
    assert close(a, hooked(net, (one,))[""][0])
    assert close(b, want[""][0])


def test_keywords_are_joined_by_name_in_whatever_order_they_are_given():
    net = build(Keywords)
    one, two = rows(1, seed=1), rows(1, seed=2)
    shifts = torch.ones(1, 3, WIDTH), torch.full((1, 3, WIDTH), 5.0)
    want = [net(x, shift=shift) for x, shift in ((one, shifts[0]), (two, shifts[1]))]

    class ByName(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net

        def forward(self, x=None, shift=None):
            return self.inner(x, shift=shift)

    model = wrap(ByName().eval())
    with model.trace() as tracer:
        with tracer.invoke(x=one, shift=shifts[0]):
            a = model.output
        with tracer.invoke(shift=shifts[1], x=two):
            b = model.output
    assert close(a, want[0])
    assert close(b, want[1])


def test_an_empty_invoke_sees_and_changes_the_whole_batch():
    net = build(Chain)
    one, two = rows(1, seed=1), rows(2, seed=2)

    def halve(value):
        value *= 0.5

    want = hooked(net, (torch.cat([one, two]),), edit={"h.1": halve})
    model = wrap(net)
    with model.trace() as tracer:
        with tracer.invoke(one):
            a = model.output
        with tracer.invoke(two):
            b = model.output
        with tracer.invoke():
            hidden = model.h[1].output
            hidden *= 0.5
            whole = model.output
    assert same(whole, want[""][0])
    assert same([a, b], [whole[:1], whole[1:]])
    assert same(hidden, want["h.1.output"][0])


def test_an_empty_invoke_after_a_single_filled_one_sees_its_batch():
    net, x = build(Chain), rows(2)
    model = wrap(net)
    with model.trace() as tracer:
        with tracer.invoke(x):
            a = model.h[0].output
        with tracer.invoke():
            b = model.h[0].output
    assert same(a, b)
    assert same(a, hooked(net, (x,))["h.0.output"][0])


def test_invokes_in_order_see_what_earlier_ones_did_to_the_whole_batch():
    net = build(Chain)
    one, two = rows(1, seed=1), rows(1, seed=2)
    model = wrap(net)
    with model.trace() as tracer:
        with tracer.invoke():
            model.h[1].output = torch.ones(2, 3, WIDTH)
        with tracer.invoke(one):
            a = model.h[1].output
            a[:] = 2
        with tracer.invoke(two):
            b = model.h[2].input
        with tracer.invoke():
            whole = model.h[2].input
    assert a.eq(2).all()
    assert b.eq(1).all()
    assert same(whole, torch.cat([a, b]))


def test_a_module_whose_first_dimension_is_not_the_batch_is_shown_whole():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Identity()
            self.block = Block()

        def forward(self, x):
            return self.block(x) + self.table(torch.arange(WIDTH) * 1.0)

    net = build(Mixed)
    model = wrap(net)
    with model.trace() as tracer:
        with tracer.invoke(rows(1)):
            pass
        with tracer.invoke(rows(1, seed=1)):
            model.block.output
            table = model.table.output
            final = model.output
    assert same(table, torch.arange(WIDTH) * 1.0)
    assert close(final, net.block(rows(1, seed=1)) + table)


def test_skip_in_an_empty_invoke_skips_for_all():
    net = build(Chain)
    one, two = rows(1, seed=1), rows(2, seed=2)
    batch = torch.cat([one, two])
    want = hooked(net, (batch,), edit={"h.2": lambda value: torch.zeros_like(value)})
    model = wrap(net)
    with model.trace() as tracer:
        with tracer.invoke(one):
            a = model.output
        with tracer.invoke(two):
            b = model.output
        with tracer.invoke():
            model.h[2].skip(torch.zeros_like(model.h[2].input))
    assert close(a, want[""][0][:1])
    assert close(b, want[""][0][1:])


def test_skip_by_one_of_several_invokes_says_why_it_cannot_be():
    net = build(Chain)
    model = wrap(net)
    with pytest.raises(InputError, match="whole batch"), model.trace() as tracer:
        with tracer.invoke(rows()):
            model.h[1].skip(model.h[1].input)
        with tracer.invoke(rows()):
            model.output
    assert not has_gates(net)


def test_generation_serves_every_invoke_its_own_rows():
    net = build(Counter)
    one, two = rows(1, seed=1), rows(2, seed=2)
    want = [hooked(net, (x,), method="generate") for x in (one, two)]
    model = wrap(net)
    with model.generate() as tracer:
        with tracer.invoke(one):
            a = []
            for _ in tracer.iter[:]:
                a.append(model.a.output)
        with tracer.invoke(two):
            b = []
            for _ in tracer.iter[1:3]:
                b.append(model.b.output)
    assert len(a) == 4
    assert len(b) == 2
    assert all(map(close, a, want[0]["a.output"]))
    assert all(map(close, b, want[1]["b.output"][1:3]))


def test_code_around_the_invokes_runs_first_and_in_order():
    net = build(Chain)
    model = wrap(net)
    log = []
    with model.trace() as tracer:
        log.append("before")
        with tracer.invoke(rows()):
            log.append("first")
            model.h[0].output
            log.append("first again")
        log.append("between")
        with tracer.invoke(rows()):
            log.append("second")
            model.h[1].output
        log.append("after")
    assert log == ["before", "between", "after", "first", "second", "first again"]


def test_one_invoke_alone_may_change_the_number_of_rows():
    net, x = build(Chain), rows(2)
    model = wrap(net)
    with model.trace() as tracer:
        with tracer.invoke(x):
            model.h[1].output = model.h[1].output[:1]
            final = model.output
    assert same(final, hooked(net, (x,), edit={"h.1": lambda value: value[:1]})[""][0])


def test_a_trace_may_begin_on_the_line_of_its_invoke():
    net, x = build(Chain), rows()
    model = wrap(net)
    with model.trace() as tracer, tracer.invoke(x) as invoke:
        hidden = model.h[1].output
    assert same(hidden, hooked(net, (x,))["h.1.output"][0])
    assert invoke.tracer is tracer


def test_saved_rows_are_not_reported_as_changed_when_another_invoke_edits_its_own(recwarn):
    net = build(Chain)
    one, two = rows(1, seed=1), rows(1, seed=2)
    model = wrap(net)
    with model.trace() as tracer:
        with tracer.invoke(one):
            donor = model.h[1].output.save()
        with tracer.invoke(two):
            model.h[1].output[:] = donor
            final = model.output.save()
    assert same(donor, hooked(net, (one,))["h.1.output"][0])
    assert close(final, hooked(net, (one,))[""][0])
    assert [str(warning.message) for warning in recwarn] == []


def test_a_context_manager_beside_the_invoke_holds_for_the_body():
    net = build(Chain)
    model = wrap(net)
    with model.trace() as tracer:
        with tracer.invoke(rows()), torch.no_grad():
            beside = torch.is_grad_enabled()
        with torch.no_grad():
            with tracer.invoke(rows()):
                around = torch.is_grad_enabled()
    assert (beside, around) == (False, False)


def test_stop_in_one_invoke_ends_the_run_for_all_and_keeps_what_was_read():
    net = build(Chain)
    late = []
    handle = net.h[2].register_forward_hook(lambda *_: late.append(1))
    model = wrap(net)
    c = None
    with model.trace() as tracer:
        with tracer.invoke(rows(seed=1)):
            a = model.h[1].output
            tracer.stop()
            c = "never"
        with tracer.invoke(rows(seed=2)):
            b = model.h[0].output
            model.output
            c = "never"
    handle.remove()
    assert close(a, hooked(net, (rows(seed=1),))["h.1.output"][0])
    assert close(b, hooked(net, (rows(seed=2),))["h.0.output"][0])
    assert late == []
    assert c is None
    assert not has_gates(net)


def test_a_site_where_one_invoke_stops_is_still_served_to_the_others():
    net = build(Chain)
    model = wrap(net)
    b = None
    with model.trace() as tracer:
        with tracer.invoke(rows(seed=1)):
            model.h[1].output
            tracer.stop()
        with tracer.invoke(rows(seed=2)):
            b = model.h[1].output
    assert b is not None
    assert close(b, hooked(net, (rows(seed=2),))["h.1.output"][0])


def test_an_error_in_one_invoke_keeps_what_the_others_bound():
    net = build(Chain)
    model = wrap(net)
    with pytest.raises(ZeroDivisionError), model.trace() as tracer:
        with tracer.invoke(rows(seed=1)):
            a = model.h[0].output
            model.output
        with tracer.invoke(rows(seed=2)):
            model.h[1].output
            1 / 0
    assert close(a, hooked(net, (rows(seed=1),))["h.0.output"][0])
    assert not has_gates(net)


def test_no_forward_is_made_when_no_invoke_asks_for_anything():
    net = build(Chain)
    calls = count_calls(net)
    model = wrap(net)
    with model.trace() as tracer:
        with tracer.invoke(rows()):
            x = 1
        with tracer.invoke(rows()):
            y = x + 1
    assert calls == []
    assert y == 2
