"""What edits may not have meant: which warnings come, where they point, and which must not come."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from nbsight.core.model import wrap
from nbsight.core.saving import save
from nbsight.errors import EditError, EditWarning, NbsightWarning
from tests.core.small import FORMS, WIDTH, Chain, Formed, Keywords, build, close, hooked, rows, run_cell, same

X = rows(seed=1)
NET = build(Chain)
MODEL = wrap(NET)


def warned(act) -> list[str]:
    """The texts of the edit warnings that a function gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        act()
    assert all(issubclass(warning.category, EditWarning) for warning in caught)
    return [str(warning.message) for warning in caught]


# -- an edit that changed nothing ------------------------------------------------------------------


def test_an_assignment_that_changes_nothing_is_said_on_its_line():
    def go():
        with MODEL.trace(X):
            MODEL.h[1].output = MODEL.h[1].output * 1
            MODEL.output

    with pytest.warns(EditWarning) as caught:
        go()
    assert len(caught) == 1
    assert str(caught[0].message) == (
        "this edit changed nothing: what was written to `h.1.output` equals what was there"
    )
    assert caught[0].filename == __file__
    with open(__file__, encoding="utf-8") as file:
        assert "MODEL.h[1].output * 1" in file.read().splitlines()[caught[0].lineno - 1]


def test_a_change_in_place_that_changes_nothing_is_said_when_it_is_measured():
    def go(receipts):
        with MODEL.trace(X, receipts=receipts):
            MODEL.h[1].output[:] *= 1
            MODEL.output

    assert warned(lambda: go(None)) == []
    assert len(warned(lambda: go(True))) == 1


def test_an_input_set_to_what_it_was_is_said_and_another_argument_is_not():
    net = build(Keywords)
    model = wrap(net)

    def unchanged():
        with model.trace(X, shift=X):
            model.mixed.input = model.mixed.input.clone()
            model.output

    def other():
        with model.trace(X, shift=X):
            model.mixed.inputs = ((model.mixed.input,), {"scale": 0.5})
            model.output

    assert len(warned(unchanged)) == 1
    assert warned(other) == []


def test_an_equal_value_with_a_gradient_of_its_own_is_a_change():
    def go():
        with MODEL.trace(X, grad=True):
            mark = torch.zeros(WIDTH, requires_grad=True)
            MODEL.h[1].output = MODEL.h[1].output + mark
            MODEL.output

    assert warned(go) == []


def test_one_invoke_that_changes_nothing_is_said():
    def go():
        with MODEL.trace() as tracer:
            with tracer.invoke(X):
                MODEL.h[1].output = MODEL.h[1].output * 1
                MODEL.output
            with tracer.invoke(X + 1):
                MODEL.h[1].output = MODEL.h[1].output * 2
                MODEL.output

    assert len(warned(go)) == 1


# -- a smaller tensor ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(WIDTH,), (1, WIDTH), (1, 1, WIDTH), (1,), (1, 3, 1)])
def test_a_smaller_tensor_that_torch_spreads_is_said(shape):
    def go():
        with MODEL.trace(X):
            MODEL.h[1].act.output = torch.ones(shape)
            MODEL.output

    (text,) = warned(go)
    assert text.startswith(f"`h.1.act.output`, float32 (1, 3, 6), was assigned float32 {shape}, which torch")
    assert "`value.expand(1, 3, 6)`" in text


def test_a_tensor_that_was_spread_on_purpose_is_not_said():
    def go():
        with MODEL.trace(rows(2)):
            MODEL.h[1].act.output = torch.ones(WIDTH).expand(2, 3, WIDTH)
            MODEL.h[2].act.output[:] = torch.ones(WIDTH)
            MODEL.h[3].act.output = torch.ones(1, 3, WIDTH)  # one donor for all rows
            MODEL.output

    assert warned(go) == []


# -- how warnings come -----------------------------------------------------------------------------

LOOP = """
with MODEL.trace(X) as tracer:
    for layer in range(4):
        MODEL.h[layer].output = MODEL.h[layer].output.clone()
"""


def test_a_line_in_a_loop_is_said_once_though_its_text_differs():
    def go():
        names = {"MODEL": MODEL, "X": X}
        run_cell(LOOP, names)
        assert len({receipt.notes for receipt in names["tracer"].edits}) == 4

    for action, times in {"default": 1, "once": 1, "module": 1, "always": 4, "ignore": 0}.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter(action)
            go()
        assert len(caught) == times, action


def test_every_run_of_a_cell_says_it_again():
    # A notebook takes `__warningregistry__` away before each cell; here each cell has new globals.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(2):
            run_cell(LOOP, {"MODEL": MODEL, "X": X})
    assert len(caught) == 2
    assert caught[0].lineno == 4


def test_two_lines_are_said_each():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        with MODEL.trace(X):
            MODEL.h[1].output = MODEL.h[1].output * 1
            MODEL.h[2].output = MODEL.h[2].output * 1
    assert caught[1].lineno == caught[0].lineno + 1


def test_the_class_can_be_made_an_error_and_silenced():
    def go():
        with MODEL.trace(X):
            MODEL.h[1].output = MODEL.h[1].output * 1
            return MODEL.output

    with warnings.catch_warnings():
        warnings.simplefilter("error", EditWarning)
        with pytest.raises(EditWarning, match="changed nothing"):
            go()
        warnings.simplefilter("ignore", EditWarning)
        assert same(go(), hooked(NET, (X,))[""][0])
    assert not any("forward" in vars(module) for module in NET.modules())


def test_it_is_one_of_our_warnings():
    assert issubclass(EditWarning, NbsightWarning)
    assert issubclass(NbsightWarning, UserWarning)


# -- a saved value that is changed later -----------------------------------------------------------


def test_a_part_of_a_tensor_whose_other_parts_change_is_said_to_be_unsure():
    def go():
        with MODEL.trace(X):
            first = MODEL.h[1].output[:, 0].save()
            MODEL.h[1].output[:, 1] = 0
            MODEL.output

    (text,) = warned(go)
    assert "it may show the changed numbers" in text


def test_another_invokes_edit_of_its_own_rows_does_not_change_saved_ones():
    def go():
        with MODEL.trace() as tracer:
            with tracer.invoke(X):
                state = MODEL.h[1].output.save()
            with tracer.invoke(X + 1):
                MODEL.h[1].output[:] = 0
                MODEL.output
        assert close(state, hooked(NET, (X,))["h.1.output"][0])

    assert warned(go) == []


@pytest.mark.parametrize("order", ["first", "last"])
def test_an_invoke_that_changes_the_rows_it_has_saved_is_told(order):
    def go():
        with MODEL.trace() as tracer:
            if order == "last":
                with tracer.invoke(X + 1):
                    other = MODEL.h[1].output.save()
                    MODEL.h[2].output[:] = 1
            with tracer.invoke(X):
                state = MODEL.h[1].output.save()
                state[:] = 0
                MODEL.output
            if order == "first":
                with tracer.invoke(X + 1):
                    other = MODEL.h[1].output.save()
                    MODEL.h[2].output[:] = 1

    (text,) = warned(go)
    assert "`h.1.output` was changed in place later" in text


def test_an_invoke_that_saves_after_its_change_is_not_told():
    def go():
        with MODEL.trace() as tracer:
            with tracer.invoke(X):
                state = MODEL.h[1].output
                state[:] = 0
                state.save()
                MODEL.output
            with tracer.invoke(X + 1):
                MODEL.h[1].output[:] = 0
                MODEL.h[3].output.save()

    assert warned(go) == []


def test_an_invokes_own_tensors_are_compared_as_anywhere():
    def go():
        with MODEL.trace() as tracer:
            with tracer.invoke(X):
                twice = save(MODEL.h[1].output * 2)
                twice += 1
                kept = (MODEL.h[2].output * 2).save()
            with tracer.invoke(X + 1):
                MODEL.h[1].output[:] = 0
                MODEL.output

    assert len(warned(go)) == 1


def test_an_empty_invokes_batch_shows_what_an_invoke_changes():
    def go():
        with MODEL.trace() as tracer:
            with tracer.invoke(X):
                MODEL.output
            with tracer.invoke(X + 1):
                MODEL.output
            with tracer.invoke():
                batch = MODEL.h[1].output.save()
                batch[0] = 0
                MODEL.output

    assert len(warned(go)) == 1


# -- what invokes share ----------------------------------------------------------------------------


class Table(nn.Module):
    """Adds a table that has no rows of the batch, alone or in a tuple with one that has."""

    def __init__(self, in_tuple: bool = False) -> None:
        super().__init__()
        self.in_tuple = in_tuple
        self.table = nn.Identity()
        self.block = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        if self.in_tuple:
            x, table = self.table((x, torch.arange(3 * WIDTH).view(1, 3, WIDTH) * 1.0))
        else:
            table = self.table(torch.arange(3 * WIDTH).view(1, 3, WIDTH) * 1.0)
        return self.block(x) + table


def test_an_invoke_cannot_change_in_place_what_all_share():
    net = build(Table)
    model = wrap(net)

    def go(change):
        with model.trace() as tracer:
            with tracer.invoke(rows(1)):
                a = model.output
            with tracer.invoke(rows(1, seed=1)):
                change(model.table.output)
                b = model.output
        return a, b

    for change in (lambda table: table.add_(1), lambda table: table[:, 0].zero_()):
        with pytest.raises(EditError) as caught:
            go(change)
        text = str(caught.value)
        assert "`table.output` holds float32 (1, 3, 6), which has no rows of the batch (of 2)" in text
        assert "change(model.table.output)" in text
        assert "`with tracer.invoke():`" in text
    a, b = go(lambda table: None)
    assert close(a, net(rows(1)))
    assert close(b, net(rows(1, seed=1)))


def test_an_invoke_cannot_replace_what_all_share():
    model = wrap(build(Table))
    with pytest.raises(EditError, match=r"share this tensor of shape \(1, 3, 6\)") as caught:
        with model.trace() as tracer:
            with tracer.invoke(rows(1)):
                model.output
            with tracer.invoke(rows(1, seed=1)):
                model.table.output = torch.zeros(1, 3, WIDTH)
                model.output
    assert "model.table.output = torch.zeros(1, 3, WIDTH)" in str(caught.value)


def test_an_invoke_may_replace_its_rows_beside_what_all_share():
    net = build(Table, True)
    model = wrap(net)
    one, two = rows(1), rows(1, seed=1)
    with model.trace() as tracer:
        with tracer.invoke(one):
            a = model.output
        with tracer.invoke(two):
            x, table = model.table.output
            model.table.output = (x * 2, table)
            b = model.output
    assert close(a, net(one))
    assert close(b, net(two * 2))
    with model.trace() as tracer:
        with tracer.invoke(one):
            a = model.output
        with tracer.invoke(two):
            x, table = model.table.output
            x[:] *= 2
            b = model.output
    assert close(a, net(one))
    assert close(b, net(two * 2))


def test_an_empty_invoke_and_a_lone_prompt_may_change_what_all_share():
    net = build(Table)
    model = wrap(net)
    one, two = rows(1), rows(1, seed=1)
    table = torch.arange(3 * WIDTH).view(1, 3, WIDTH) * 1.0

    def zero():
        with model.trace() as tracer:
            with tracer.invoke(one):
                a = model.output
            with tracer.invoke(two):
                b = model.output
            with tracer.invoke():
                model.table.output[:] = 0
        assert close(a, net(one) - table)
        assert close(b, net(two) - table)

    assert warned(zero) == []
    with model.trace(one):
        model.table.output[:] = 0
        alone = model.output
    assert close(alone, net(one) - table)
    with model.trace() as tracer:
        with tracer.invoke(one):
            model.table.output = torch.zeros(1, 3, WIDTH)
            alone = model.output
    assert close(alone, net(one) - table)


def test_a_number_that_all_share_cannot_be_one_invokes():
    net = build(Formed, "dict")
    model = wrap(net)
    with pytest.raises(EditError, match="share this int 3"):
        with model.trace() as tracer:
            with tracer.invoke(rows(1)):
                model.part.output = {**model.part.output, "count": 4}
                model.output
            with tracer.invoke(rows(1, seed=1)):
                model.output


# -- a value that is changed too late --------------------------------------------------------------


class InPlace(nn.Module):
    """Changes its own tensors in place, between its modules and in them."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(WIDTH, WIDTH)
        self.relu = nn.ReLU(inplace=True)
        self.same = nn.Identity()
        self.b = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        x = self.a(x)
        x = self.same(self.relu(x))
        x += self.b(x)
        x *= 2
        return self.same(x)


def test_a_value_changed_after_the_model_has_gone_on_is_said_at_the_line_that_read_it():
    def go():
        with MODEL.trace(X, receipts=True) as tracer:
            state = MODEL.h[0].output
            later = MODEL.h[2].output
            state[:] = 0
            final = MODEL.output
        assert tracer.edits == ()
        assert same(final, hooked(NET, (X,))[""][0])

    with pytest.warns(EditWarning, match=r"the value read here from `h\.0\.output` was changed") as caught:
        go()
    assert len(caught) == 1
    with open(__file__, encoding="utf-8") as file:
        assert "state = MODEL.h[0].output" in file.read().splitlines()[caught[0].lineno - 1]


@pytest.mark.parametrize("last", ["h.2.output", "model.output"])
def test_a_late_change_after_the_last_read_is_said(last):
    def go():
        with MODEL.trace(X, receipts=True):
            state = MODEL.h[0].output
            MODEL.h[2].output if last == "h.2.output" else MODEL.output
            state[:] = 0

    assert len(warned(go)) == 1


def test_models_that_change_their_own_tensors_in_place_are_not_blamed_on_the_block():
    net = build(InPlace)
    model = wrap(net)
    x = rows()

    def read():
        with model.trace(x, receipts=True):
            a = model.a.output
            relu = model.relu.output
            inner = model.same.output
            b = model.b.output
            final = model.output
            norms = [value.norm() for value in (a, relu, inner, b)]

    def edit():
        with model.trace(x, receipts=True) as tracer:
            a = model.a.output
            model.relu.output[:, 0] = 3  # the memory of `a`, where the model stands
            b = model.b.output
            model.output
        assert [receipt.place for receipt in tracer.edits] == ["relu.output"]

    assert warned(read) == []
    assert warned(edit) == []


def test_edits_in_time_and_changes_after_the_block_are_not_late():
    def go():
        with MODEL.trace(X, receipts=True):
            state = MODEL.h[0].output
            state[:] += 1
            later = MODEL.h[2].output
            later[:] += 1
            copy = state.clone()
            copy[:] = 0
        state[:] = 0

    assert warned(go) == []


def test_invokes_that_edit_their_rows_are_not_late():
    def go():
        with MODEL.trace(receipts=True) as tracer:
            with tracer.invoke(X):
                state = MODEL.h[0].output
                MODEL.h[2].output[:] = 1
            with tracer.invoke(X + 1):
                MODEL.h[0].output[:] = 1
                MODEL.h[1].output[:] = 1
                MODEL.output

    assert warned(go) == []


@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("none", "number")])
def test_recording_changes_no_number_whatever_a_module_returns(form):
    net = build(Formed, form)
    model = wrap(net)
    want = hooked(net, (X,))
    with model.trace(X, receipts=True) as tracer:
        inputs, value, final = model.part.input, model.part.output, model.output
    assert same(final, want[""][0])
    assert same(value, want["part.output"][0])
    assert tracer.edits == ()


def test_what_a_session_saves_outside_of_its_traces_is_a_donor_like_any():
    with MODEL.session():
        with MODEL.trace(X):
            state = MODEL.h[1].output.save()
        mean = state.mean(1).save()
        with MODEL.trace(X) as tracer:
            MODEL.h[2].output[:, 0] = mean
            final = MODEL.output
    assert [receipt.place for receipt in tracer.edits] == ["h.2.output"]


def test_a_size_that_does_not_fit_is_explained_when_a_session_saved_the_donor():
    with pytest.raises(EditError, match="the shapes on this line do not fit"):
        with MODEL.session():
            donor = torch.ones(7).save()
            with MODEL.trace(X):
                MODEL.h[2].output[:, 0] = donor


@pytest.mark.parametrize(
    ("lines", "number"),
    [
        (["MODEL.h[1].output[:] *= 1", "state = MODEL.h[1].output.clone()"], 0),
        (["state = MODEL.h[1].output", "state.add_(0)", "MODEL.h[1].output.mul_(1)"], 2),
        (["state = MODEL.h[1].output", "state[:] = state.clone()"], 0),
        (["MODEL.h[1].output[:, 0] *= 1", "MODEL.h[1].output[:, 1] *= 1"], 1),
        (["assert MODEL.h[1].output.ndim == 3", "MODEL.h[1].output[:] = MODEL.h[1].output.clone()"], 1),
    ],
)
def test_a_change_in_place_points_at_a_line_that_asked_and_if_it_can_at_the_one_that_wrote(lines, number):
    text = "with MODEL.trace(X, receipts=True) as tracer:\n"
    text += "".join(f"    {line}\n" for line in (*lines, "MODEL.output"))
    names = {"MODEL": MODEL, "X": X}
    assert len(warned(lambda: run_cell(text, names))) == 1
    (receipt,) = names["tracer"].edits
    assert (receipt.line, receipt.text) == (number + 2, lines[number])
