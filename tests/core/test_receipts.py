"""Receipts of edits: their numbers against copies that plain hooks take, and what they say."""

from __future__ import annotations

import gc
import warnings
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nbsight.core.measuring import PIECE, compare
from nbsight.core.model import wrap
from nbsight.errors import EditWarning, NbsightWarning
from tests.core.small import (
    WIDTH,
    Chain,
    Counter,
    Formed,
    Repeats,
    build,
    close,
    hooked,
    rows,
    run_cell,
    same,
)

X, Y = rows(seed=1), rows(2, seed=2)
NET = build(Chain)
MODEL = wrap(NET)


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error", EditWarning)
        yield


def numbers(before: torch.Tensor, after: torch.Tensor) -> tuple[float, float, float]:
    """Fraction of elements that differ, norm of the difference, norm before: in float64, by numpy."""
    old, new = before.double().numpy(), after.double().numpy()
    return float((old != new).mean()), float(((new - old) ** 2).sum() ** 0.5), float((old**2).sum() ** 0.5)


def check(receipt, before, after):
    changed, norm, norm_before = numbers(before, after)
    assert receipt.changed == pytest.approx(changed, abs=1e-12)
    assert receipt.norm == pytest.approx(norm, rel=1e-5, abs=1e-6)
    assert receipt.norm_before == pytest.approx(norm_before, rel=1e-5)
    if norm_before:
        assert receipt.relative == pytest.approx(norm / norm_before, rel=1e-4, abs=1e-6)
    else:
        assert receipt.relative is None


# -- the numbers -----------------------------------------------------------------------------------


def test_an_assignment_is_measured():
    want = hooked(NET, (X,))["h.1.output"][0]
    with MODEL.trace(X) as tracer:
        MODEL.h[1].output = MODEL.h[1].output * 2
        MODEL.output
    (receipt,) = tracer.edits
    check(receipt, want, want * 2)
    assert (receipt.path, receipt.kind, receipt.how) == ("h.1", "output", "assigned")
    assert receipt.place == "h.1.output"
    assert (receipt.visit, receipt.step, receipt.notes) == (0, None, ())
    assert receipt.before == receipt.after == "float32 (1, 3, 6)"
    assert receipt.text == "MODEL.h[1].output = MODEL.h[1].output * 2"
    with open(__file__, encoding="utf-8") as file:
        assert file.read().splitlines()[receipt.line - 1].strip() == receipt.text


def test_a_change_in_place_is_listed_and_measured_on_request():
    want = hooked(NET, (X,))["h.1.output"][0]
    for receipts in (None, True):
        with MODEL.trace(X, receipts=receipts) as tracer:
            MODEL.h[1].output[:, -1] = 0
            MODEL.output
        (receipt,) = tracer.edits
        assert (receipt.place, receipt.how) == ("h.1.output", "in place")
        assert receipt.text == "MODEL.h[1].output[:, -1] = 0"
        if receipts:
            after = want.clone()
            after[:, -1] = 0
            check(receipt, want, after)
            assert receipt.changed == pytest.approx(1 / 3)
        else:
            assert receipt.changed is receipt.norm is receipt.norm_before is receipt.relative is None


def test_receipts_can_be_switched_off():
    with MODEL.trace(X, receipts=False) as tracer:
        MODEL.h[1].output = MODEL.h[1].output * 1
        MODEL.h[2].output[:] = 0
        final = MODEL.output
    assert tracer.edits == ()
    assert repr(tracer.edits) == "no edits"
    assert close(final, NET.head(NET.h[3](torch.zeros_like(X))))


def test_a_trace_without_edits_has_no_ledger():
    with MODEL.trace(X) as tracer:
        MODEL.h[1].output + 1
        MODEL.output
    assert tracer.ledger is None
    assert len(tracer.edits) == 0


ACTIONS = {
    "assign": lambda value, number: value * number,
    "replace part": lambda value, number: torch.cat([value[:, :1], value[:, 1:] + number], dim=1),
    "same": lambda value, number: value.clone(),
    "in place": lambda value, number: value.mul_(number),
    "slice": lambda value, number: value[:, 1:].add_(number),
    "element": lambda value, number: value[0, 0, 0].fill_(number),
}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["h.0", "h.1", "h.1.lin", "h.2", "h.3.act", "h.3"]),
            st.sampled_from(["output", "input"]),
            st.sampled_from(sorted(ACTIONS)),
            st.floats(-2, 2, width=16),
        ),
        max_size=5,
        unique_by=lambda edit: edit[:2],
    ),
    st.integers(1, 3),
)
def test_the_numbers_of_random_edits_are_those_that_hooks_see(edits, height):
    order = {path: place for place, path in enumerate(["h.0", "h.1", "h.1.lin", "h.2", "h.3", "h.3.act"])}
    at = {(path, kind): (action, number) for path, kind, action, number in edits}
    seen, x = {}, rows(height, seed=3)

    def act(place, value):
        """The oracle: a copy before, a copy after; assignments as a hook returns them."""
        if place not in at:
            return None
        action, number = at[place]
        before = value.clone()
        result = ACTIONS[action](value, number)
        in_place = action in ("in place", "slice", "element")
        seen[place] = before, (value if in_place else result).clone()
        return None if in_place else result

    def given_to(path):
        def edit(args, named):
            new = act((path, "input"), args[0])
            return None if new is None else ((new, *args[1:]), named)

        return edit

    want = hooked(
        NET,
        (x.clone(),),
        edit={path: lambda value, path=path: act((path, "output"), value) for path in order},
        edit_input={path: given_to(path) for path in order},
    )[""][0]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with MODEL.trace(x.clone(), receipts=True) as tracer:
            for path, kind in _in_order(at):
                action, number = at[path, kind]
                envoy = MODEL.get(path)
                result = ACTIONS[action](getattr(envoy, kind), number)
                if action in ("assign", "replace part", "same"):
                    setattr(envoy, kind, result)
            final = MODEL.output
    assert same(final, want)
    assert [(receipt.path, receipt.kind) for receipt in tracer.edits] == _in_order(at)
    for receipt in tracer.edits:
        check(receipt, *seen[receipt.path, receipt.kind])
    nothing = [receipt for receipt in tracer.edits if torch.equal(*seen[receipt.path, receipt.kind])]
    assert [receipt for receipt in tracer.edits if receipt.notes] == nothing
    assert all("changed nothing" in str(warning.message) for warning in caught)
    assert len(caught) == len(nothing)


def _in_order(places):
    """Places in the order in which the model comes by."""
    times = ["h.0.input", "h.0.output", "h.1.input", "h.1.lin.input", "h.1.lin.output", "h.1.output"]
    times += ["h.2.input", "h.2.output", "h.3.input", "h.3.act.input", "h.3.act.output", "h.3.output"]
    return sorted(places, key=lambda place: times.index(".".join(place)))


@pytest.mark.parametrize(
    ("old", "new", "changed", "norm"),
    [
        (torch.tensor([1.0, -torch.inf]), torch.tensor([3.0, -torch.inf]), 0.5, 2.0),
        (torch.tensor([0.0]), torch.tensor([-0.0]), 0.0, 0.0),
        (
            torch.tensor([60000.0, 1], dtype=torch.half),
            torch.tensor([-60000.0, 1], dtype=torch.half),
            0.5,
            120000,
        ),
        (torch.tensor([1, 2, 3]), torch.tensor([1, 2, 7]), 1 / 3, 4.0),
        (torch.tensor([True, False]), torch.tensor([False, False]), 0.5, 1.0),
        (torch.tensor([1j, 1.0]), torch.tensor([0j, 1.0]), 0.5, 1.0),
        (torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([1.0, 2]), 0.5, 8**0.5),
        (torch.tensor([0.1], dtype=torch.double), torch.tensor([0.1]), 1.0, 1.4901161e-09),
    ],
    ids=["infinite", "zeros", "half", "integers", "truth", "complex", "spread", "two widths"],
)
def test_every_kind_of_number_is_compared(old, new, changed, norm):
    fraction, step, _ = compare([(old, new)]).read()
    assert fraction == pytest.approx(changed)
    assert step == pytest.approx(norm, rel=1e-6)


def test_not_a_number_never_equals_anything():
    fraction, norm, _ = compare([(torch.tensor([torch.nan, 1]), torch.tensor([torch.nan, 1]))]).read()
    assert fraction == 0.5
    assert norm != norm


def test_a_large_tensor_is_compared_in_pieces():
    old = torch.zeros(2, PIECE // 2 + 3)
    new = old.clone()
    new[1, -4:] = 3
    change = compare([(old, new)])
    assert len(change.same) > 1
    assert change.read() == (4 / old.numel(), 6.0, 0.0)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (torch.ones(2), torch.ones(3)),
        (torch.ones(2), torch.ones(2, device="meta")),
        (torch.ones(2), torch.ones(2).to_sparse()),
    ],
)
def test_what_cannot_be_compared_has_no_numbers(old, new):
    assert compare([(old, new)]) is None


# -- where and when --------------------------------------------------------------------------------


def test_an_edit_after_which_nothing_is_read_is_listed():
    with MODEL.trace(X, receipts=True) as tracer:
        MODEL.h[2].output[:] = 0
    (receipt,) = tracer.edits
    assert receipt.changed == 1
    with MODEL.trace(X) as tracer:
        MODEL.output[:, 0] = 0
    assert [receipt.place for receipt in tracer.edits] == ["model.output"]


def test_the_edits_so_far_can_be_asked_for_in_the_block():
    want = hooked(NET, (X,))["h.0.output"][0]
    with MODEL.trace(X) as tracer:
        assert tracer.edits == ()
        MODEL.h[0].output = MODEL.h[0].output + 1
        check(tracer.edits[0], want, want + 1)
        MODEL.h[1].output[:] = 0
        MODEL.h[2].output
        assert len(tracer.edits) == 2
        MODEL.h[3].output = MODEL.h[3].output + 1
    assert [receipt.place for receipt in tracer.edits] == ["h.0.output", "h.1.output", "h.3.output"]


def test_a_change_in_place_before_an_assignment_is_an_edit_of_its_own():
    with MODEL.trace(X, receipts=True) as tracer:
        MODEL.h[0].output[:] = 2
        MODEL.h[0].output = MODEL.h[0].output + 1
        MODEL.h[0].output[:, 0] = 7
        MODEL.output
    _, second, third = tracer.edits
    assert [edit.how for edit in tracer.edits] == ["in place", "assigned", "in place"]
    check(second, torch.full((1, 3, 6), 2.0), torch.full((1, 3, 6), 3.0))
    assert third.changed == pytest.approx(1 / 3)
    assert third.norm == pytest.approx((6 * 4**2) ** 0.5)


def test_an_operator_that_changes_in_place_and_assigns_is_one_edit():
    want = hooked(NET, (X,))["h.1.output"][0]
    with MODEL.trace(X, receipts=True) as tracer:
        MODEL.h[1].output *= 2
        final = MODEL.output
    (receipt,) = tracer.edits
    check(receipt, want, want * 2)
    assert receipt.how == "in place"
    assert same(final, hooked(NET, (X,), edit={"h.1": lambda value: value * 2})[""][0])
    with pytest.warns(EditWarning, match="changed nothing"):
        _put_back()


def _put_back():
    with MODEL.trace(X):
        MODEL.h[1].output = MODEL.h[1].output


def test_the_calls_of_a_module_are_counted():
    net = build(Repeats)
    model = wrap(net)
    with model.trace(X[:, 0]) as tracer:
        for _ in tracer.iter[:3]:
            model.cell.output = model.cell.output * 2
    assert [receipt.visit for receipt in tracer.edits] == [0, 1, 2]
    assert [receipt.step for receipt in tracer.edits] == [None] * 3


def test_the_steps_of_a_generation_are_counted():
    net = build(Counter)
    model = wrap(net)
    states = []

    def add(value):
        states.append(value.clone())
        return value + len(states)

    hooked(net, (X,), edit={"a": add}, method="generate")
    with model.generate(X) as tracer:
        for step in tracer.iter[:]:
            model.a.output = model.a.output + step + 1
    assert [receipt.step for receipt in tracer.edits] == [0, 1, 2, 3]
    for step, receipt in enumerate(tracer.edits):
        check(receipt, states[step], states[step] + step + 1)
    assert "a.output (step 3)" in repr(tracer.edits)


def test_a_skipped_call_is_listed():
    with MODEL.trace(X) as tracer:
        MODEL.h[1].skip(MODEL.h[1].input)
        MODEL.output
    (receipt,) = tracer.edits
    assert (receipt.place, receipt.how, receipt.after) == ("h.1.output", "skipped", "float32 (1, 3, 6)")
    assert receipt.changed is None


def test_kept_edits_leave_receipts_in_every_run():
    want = hooked(NET, (X,))["h.1.output"][0]
    with MODEL.edit() as edited:
        edited.h[1].output = edited.h[1].output + 1
        edited.h[2].output[:] = 0
    for _ in range(2):
        with edited.trace(X, receipts=True) as tracer:
            edited.output
        first, second = tracer.edits
        check(first, want, want + 1)
        assert (second.place, second.how, second.changed) == ("h.2.output", "in place", 1)
        assert second.text == "edited.h[2].output[:] = 0"


def test_each_invoke_has_receipts_of_its_own():
    inputs = [rows(height, seed=height) for height in (1, 2, 3)]
    alone = [hooked(NET, (x,)) for x in inputs]
    with MODEL.trace(receipts=True) as tracer:
        with tracer.invoke(inputs[0]):
            MODEL.h[1].output[:, 0] = 0
            MODEL.h[2].output = MODEL.h[2].output * 3
        with tracer.invoke(inputs[1]):
            MODEL.h[1].output[:] += 1
        with tracer.invoke(inputs[2]):
            MODEL.output
    first, second, third = tracer.edits
    assert [receipt.text.partition(" ")[0] for receipt in tracer.edits] == [
        "MODEL.h[1].output[:,",
        "MODEL.h[1].output[:]",
        "MODEL.h[2].output",
    ]
    before = alone[1]["h.1.output"][0]
    check(second, before, before + 1)
    before = alone[0]["h.1.output"][0]
    after = before.clone()
    after[:, 0] = 0
    check(first, before, after)
    changed = hooked(NET, (inputs[0],), edit={"h.1": lambda _: after})
    before = changed["h.2.output"][0]
    check(third, before, before * 3)


def test_an_edit_of_an_operation_inside_a_forward_points_at_its_line():
    with MODEL.trace(X) as tracer:
        MODEL.h[0].source.self_lin_0.output = MODEL.h[0].source.self_lin_0.output + 1
        MODEL.output
    (receipt,) = tracer.edits
    assert receipt.text.startswith("MODEL.h[0].source.self_lin_0.output = ")
    assert receipt.changed == 1


def test_a_run_held_open_lists_its_edits():
    want = hooked(NET, (X,))["h.1.output"][0]
    run = MODEL.start(X)
    run.until(MODEL.h[1].output)
    MODEL.h[1].output = MODEL.h[1].output + 1
    run.step()
    check(run.edits[0], want, want + 1)
    run.finish()
    check(run.edits[0], want, want + 1)


def test_a_run_held_open_warns_when_it_goes_on():
    run = MODEL.start(X)
    run.until(MODEL.h[1].output)
    MODEL.h[1].output = MODEL.h[1].output.clone()
    with pytest.warns(EditWarning, match="changed nothing") as caught:
        run.step()
    assert caught[0].filename == __file__
    run.close()


def test_a_failing_block_keeps_its_receipts():
    with pytest.raises(KeyError):
        with MODEL.trace(X) as tracer:
            MODEL.h[1].output = MODEL.h[1].output * 2
            raise KeyError
    assert tracer.edits[0].changed == 1


def test_edits_are_noticed_where_the_model_runs_in_inference_mode():
    with torch.inference_mode():
        run = MODEL.start(X, receipts=True)
        run.until(MODEL.h[0].output)
    run.until(MODEL.h[1].output)[:] = 0
    run.finish()
    assert [receipt.place for receipt in run.edits] == ["h.1.output"]
    assert run.edits[0].changed == 1


def test_the_users_modes_do_not_see_how_edits_are_measured():
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Functions(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(getattr(func, "__name__", str(func)))
            return func(*args, **(kwargs or {}))

    class Dispatches(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    for mode in (Functions, Dispatches):
        with MODEL.trace(X, receipts=True) as tracer:
            MODEL.h[0].output
            with mode():
                new = MODEL.h[1].output + 1
                del seen[:]
                MODEL.h[1].output = new
                MODEL.h[2].output[:] = 0
                MODEL.h[3].output
        assert [receipt.changed for receipt in tracer.edits] == [1, 1]
        assert not [name for name in seen if any(word in name for word in ("norm", "eq", "count", "clone"))]


def test_scans_have_receipts_without_numbers():
    with MODEL.scan(X) as tracer:
        MODEL.h[1].output = MODEL.h[1].output + 1
        MODEL.output
    assert [(receipt.place, receipt.changed) for receipt in tracer.edits] == [("h.1.output", None)]


# -- what is kept ----------------------------------------------------------------------------------


@pytest.mark.parametrize("receipts", [None, True])
def test_receipts_keep_no_tensor_of_the_run_and_no_cycle(receipts):
    kept = []

    class Watched(nn.Module):
        def forward(self, x):
            y = x * 2
            kept.append(weakref.ref(y))
            return y

    model = wrap(nn.Sequential(nn.Linear(WIDTH, WIDTH), Watched(), nn.Tanh()))
    gc.collect()
    gc.disable()
    try:
        with model.trace(X, receipts=receipts, grad=False) as tracer:
            new = model[1].output + 1
            kept.append(weakref.ref(new))
            model[1].output = new
            del new
            model[2].output[:] = 0
        run = weakref.ref(tracer.run)
        assert [ref() for ref in kept] == [None, None]
        receipts = tracer.edits
        del tracer
        assert run() is None
    finally:
        gc.enable()
    assert [receipt.place for receipt in receipts] == ["1.output", "2.output"]
    assert not any(isinstance(value, torch.Tensor) for value in vars(receipts[0]).values())


def test_the_table_has_a_row_for_each_edit_and_its_warnings():
    names = {"MODEL": MODEL, "X": X}
    run_cell(
        """
        import warnings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with MODEL.trace(X) as tracer:
                MODEL.h[0].output = MODEL.h[0].output.clone()
                MODEL.h[1].output[:] = 0
        """,
        names,
    )
    lines = repr(names["tracer"].edits).splitlines()
    assert lines[0].split() == ["place", "how", "value", "changed", "norm", "relative", "line"]
    assert lines[1].split()[:2] == ["h.0.output", "assigned"]
    assert "0%" in lines[1]
    assert lines[1].endswith("6: MODEL.h[0].output = MODEL.h[0].output.clone()")
    assert lines[2].startswith("    this edit changed nothing")
    assert lines[3].split()[:3] == ["h.1.output", "in", "place"]
    assert len(lines) == 4
    assert repr(names["tracer"].edits[0]).startswith("h.0.output assigned; 0% of the elements, norm 0")


# -- beside what others do -------------------------------------------------------------------------


def test_edits_around_a_read_out_of_order_leave_one_receipt_each():
    with MODEL.edit() as edited:
        edited.h[0].output[:, 0] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NbsightWarning)
        warnings.simplefilter("error", EditWarning)
        with edited.trace(X) as tracer:
            edited.h[1].output = edited.h[1].output * 2
            edited.h[2].output[:, 1] = 3
            later = edited.h[3].output
            early = edited.h[0].lin.output
            edited.h[3].output = edited.h[3].output + 1
            final = edited.output
    assert [(receipt.place, receipt.how) for receipt in tracer.edits] == [
        ("h.0.output", "in place"),
        ("h.1.output", "assigned"),
        ("h.2.output", "in place"),
        ("h.3.output", "assigned"),
    ]


def test_items_put_into_a_container_are_edits_too():
    net = build(Formed, "dict")
    model = wrap(net)
    want = hooked(net, (X,))["part.output"][0]["hidden"]
    with model.trace(X, receipts=True) as tracer:
        model.part.output["hidden"] = want * 3
        model.output
    (receipt,) = tracer.edits
    assert (receipt.place, receipt.how) == ("part.output", "in place")
    check(receipt, want, want * 3)
    with model.trace(receipts=True) as tracer:
        with tracer.invoke(X):
            model.part.output["hidden"] = want * 3
            model.output
        with tracer.invoke(X + 1):
            model.part.output
            model.output
    (receipt,) = tracer.edits
    check(receipt, want, want * 3)


def test_a_generation_that_is_observed_is_measured_like_any():
    net = build(Counter)
    model = wrap(net)
    with model.generate(X, steps=2, receipts=True) as tracer:
        for _ in tracer.iter[:]:
            model.a.output[:, 0] = torch.rand(WIDTH)
    assert [(receipt.step, receipt.changed) for receipt in tracer.edits] == [(0, 1 / 3), (1, 1 / 3)]
