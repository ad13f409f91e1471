"""Every mistake gets one screen: the user's line, the names and shapes, and what to write."""

from __future__ import annotations

import contextlib
import traceback

import pytest
import torch
from torch import nn

from nbsight import errors
from nbsight.core.model import wrap
from tests.core.small import WIDTH, Block, Counter, build, has_gates, hooked, rows, run_cell, same


class Mixed(nn.Module):
    """Something of everything: lists, a module that is never called, a part that fails on demand."""

    def __init__(self) -> None:
        super().__init__()
        self.h = nn.ModuleList([Block() for _ in range(4)])
        self.blocks = nn.Sequential(Block(), Block())
        self.never = nn.Linear(WIDTH, WIDTH)
        self.constant = Constant()
        self.fails = False

    def forward(self, x):
        for block in self.h:
            x = block(x)
        if self.fails:
            raise LookupError("the model's own trouble")
        return self.blocks(x) + self.constant()

    @property
    def broken(self):
        raise RuntimeError("trouble inside a property")


class Constant(nn.Module):
    def forward(self):
        return torch.ones(WIDTH)


NET = build(Mixed)
MODEL = wrap(NET)
X, Y = rows(seed=1), rows(seed=2)

# What is done, the kind of error, the line that must be shown, and what must be said.
MISTAKES = {
    "an unknown attribute": (
        "model.blocs.output",
        errors.PathError,
        "model.blocs",
        ["blocs", "blocks", "h"],
    ),
    "an unknown attribute of a submodule": (
        "model.h[2].lim",
        errors.PathError,
        "model.h[2].lim",
        ["h.2", "lim", "lin", "act"],
    ),
    "an index beyond the end": (
        "model.h[50]",
        errors.PathError,
        "model.h[50]",
        ["`h` has 4 entries, 0 to 3", "50", "h[-1]"],
    ),
    "an index below the start": ("model.h[-5]", errors.PathError, "model.h[-5]", ["4 entries", "-5"]),
    "an index of what is no list": (
        "model.h[1].lin[0]",
        errors.PathError,
        "model.h[1].lin[0]",
        ["h.1.lin", "Linear", ".output"],
    ),
    "a name in a list": ("model.h['x']", errors.PathError, "model.h['x']", ["x"]),
    "setting what does not exist": (
        "model.h[1].outptu = 1",
        errors.PathError,
        "model.h[1].outptu = 1",
        ["outptu", "output"],
    ),
    "a value outside a trace": (
        "model.h[1].output",
        errors.OutsideTraceError,
        "model.h[1].output",
        ["h.1.output", "with model.trace"],
    ),
    "a write outside a trace": (
        "model.h[1].output = x",
        errors.OutsideTraceError,
        "model.h[1].output = x",
        ["h.1.output", "with model.trace"],
    ),
    "a skip outside a trace": (
        "model.h[1].skip(x)",
        errors.OutsideTraceError,
        "model.h[1].skip(x)",
        ["h.1.skip"],
    ),
    "save outside a trace": ("x.save()", errors.OutsideTraceError, "x.save()", ["save()", "trace"]),
    "a place after the model passed it": (
        "with model.trace(x, strict_order=True):\n    b = model.h[2].output\n    a = model.h[1].output",
        errors.OutOfOrderError,
        "a = model.h[1].output",
        ["h.1.output", "h.2.output", "b = model.h[2].output"],
    ),
    "an input after the output": (
        "with model.trace(x, strict_order=True):\n    b = model.h[2].output\n    a = model.h[2].input",
        errors.OutOfOrderError,
        "a = model.h[2].input",
        ["h.2.input", "h.2.output"],
    ),
    "a place after the model's end": (
        "with model.trace(x, strict_order=True):\n    b = model.output\n    a = model.h[1].output",
        errors.OutOfOrderError,
        "a = model.h[1].output",
        ["h.1.output"],
    ),
    "a write after the model passed the place": (
        "with model.trace(x):\n    b = model.h[2].output\n    model.h[1].output = b",
        errors.OutOfOrderError,
        "model.h[1].output = b",
        ["h.1.output", "h.2.output", "b = model.h[2].output", "Put line 3 before line 2"],
    ),
    "a change in place after the model passed the place": (
        "with model.trace(x):\n    b = model.h[2].output\n    a = model.h[1].output\n    a[:] = 0",
        errors.OutOfOrderError,
        "a = model.h[1].output",
        ["h.1.output", "h.2.output", "b = model.h[2].output", "Put line 3 before line 2"],
    ),
    "an order that a graph does not allow": (
        "with model.trace(x, grad=True):\n    b = model.h[2].output\n    a = model.h[1].output",
        errors.OutOfOrderError,
        "a = model.h[1].output",
        ["h.1.output", "gradients", "grad=False", "Put line 3 before line 2"],
    ),
    "NaN where it is watched for": (
        (
            "with model.trace(x, check_finite=True):\n    model.h[0].output[:] = 3e38\n"
            "    model.h[1].output = model.h[1].lin.input * 0\n    final = model.output"
        ),
        errors.NotFiniteError,
        "model.h[0].output[:] = 3e38",
        ["Inf", "h.0.output", "h.1.lin"],
    ),
    "a module never called": (
        "with model.trace(x):\n    a = model.never.output",
        errors.NeverCalledError,
        "a = model.never.output",
        ["never", "Linear"],
    ),
    "a list of modules, which is never called": (
        "with model.trace(x):\n    a = model.h.output",
        errors.NeverCalledError,
        "a = model.h.output",
        ["`h", "ModuleList"],
    ),
    "a module inside a skipped one": (
        "with model.trace(x):\n    model.h[1].skip(x)\n    a = model.h[1].lin.output",
        errors.NeverCalledError,
        "a = model.h[1].lin.output",
        ["h.1.lin", "skipped", "model.h[1].skip(x)"],
    ),
    "a patch of another length": (
        "donor = longer.clone()\nwith model.trace(x):\n    model.h[1].output[:] = donor",
        errors.EditError,
        "model.h[1].output[:] = donor",
        ["(1, 3, 6)", "(1, 5, 6)", "donor", "h.1.output"],
    ),
    "a patch of another length in an invoke": (
        (
            "with model.trace() as tracer:\n    with tracer.invoke(x):\n        donor = longer.clone()\n"
            "    with tracer.invoke(y):\n        model.h[1].output[:] = donor"
        ),
        errors.EditError,
        "model.h[1].output[:] = donor",
        ["(1, 3, 6)", "(1, 5, 6)", "donor", "h.1.output"],
    ),
    "a value of another shape assigned in an invoke": (
        (
            "with model.trace() as tracer:\n    with tracer.invoke(x):\n        model.h[1].output = longer\n"
            "    with tracer.invoke(y):\n        final = model.output"
        ),
        errors.EditError,
        "model.h[1].output = longer",
        ["(1, 3, 6)", "(1, 5, 6)", "h.1.output"],
    ),
    "a value of another shape that the model cannot use": (
        "with model.trace(x):\n    model.h[1].output = torch.ones(1, 3, 7)\n    final = model.output",
        errors.ModelRunError,
        "model.h[1].output = torch.ones(1, 3, 7)",
        ["(1, 3, 6)", "(1, 3, 7)", "h.1.output", "h.2"],
    ),
    "a value of another shape, with nothing read after it": (
        "with model.trace(x, finish=True):\n    model.h[1].output = torch.ones(1, 3, 7)",
        errors.ModelRunError,
        "model.h[1].output = torch.ones(1, 3, 7)",
        ["(1, 3, 6)", "(1, 3, 7)", "h.1.output"],
    ),
    "a value of another dtype": (
        "with model.trace(x):\n    model.h[1].output = model.h[1].output.double()\n    model.output",
        errors.ModelRunError,
        "model.h[1].output = model.h[1].output.double()",
        ["float32", "float64", "h.1.output"],
    ),
    "a value on another device": (
        "with model.trace(x):\n    model.h[1].output = model.h[1].output.to('meta')\n    model.output",
        errors.ModelRunError,
        "model.h[1].output = model.h[1].output.to('meta')",
        ["cpu", "meta", "h.1.output"],
    ),
    "a value of another kind": (
        "with model.trace(x):\n    model.h[1].output = None\n    model.output",
        errors.ModelRunError,
        "model.h[1].output = None",
        ["NoneType", "h.1.output"],
    ),
    "a wrong edit of an input": (
        "with model.trace(x):\n    model.h[2].lin.input = torch.ones(1, 3, 7)\n    model.output",
        errors.ModelRunError,
        "model.h[2].lin.input = torch.ones(1, 3, 7)",
        ["h.2.lin.input", "(1, 3, 7)"],
    ),
    "inputs that are no pair": (
        "with model.trace(x):\n    model.h[1].inputs = x",
        errors.EditError,
        "model.h[1].inputs = x",
        ["(args, kwargs)", "h.1.inputs"],
    ),
    "an input where there is none": (
        "with model.trace(x):\n    model.constant.input = x",
        errors.EditError,
        "model.constant.input = x",
        ["constant", "argument"],
    ),
    "an invoke in a trace that has an input": (
        "with model.trace(x) as tracer:\n    with tracer.invoke(y):\n        model.output",
        errors.InputError,
        "with tracer.invoke(y):",
        ["already has an input", "model.trace() as tracer"],
    ),
    "a value asked for between the invokes": (
        "with model.trace() as tracer:\n    model.h[1].output\n    with tracer.invoke(y):\n        pass",
        errors.InputError,
        "model.h[1].output",
        ["h.1.output", "invoke"],
    ),
    "only empty invokes": (
        "with model.trace() as tracer:\n    with tracer.invoke():\n        model.h[1].output",
        errors.InputError,
        "with model.trace() as tracer:",
        ["input", "tracer.invoke("],
    ),
    "invokes that are called differently": (
        (
            "with model.trace() as tracer:\n    with tracer.invoke(x):\n        model.output\n"
            "    with tracer.invoke(y, y):\n        model.output"
        ),
        errors.InputError,
        "with model.trace() as tracer:",
        ["alike"],
    ),
    "invokes of different shapes": (
        (
            "with model.trace() as tracer:\n    with tracer.invoke(x):\n        model.output\n"
            "    with tracer.invoke(longer):\n        model.output"
        ),
        errors.InputError,
        "with model.trace() as tracer:",
        ["(3, 6)", "(5, 6)"],
    ),
    "a name that is bound too late": (
        (
            "with model.trace() as tracer:\n    with tracer.invoke(x):\n        late = model.h[3].output\n"
            "    with tracer.invoke(y):\n        model.h[1].output[:] = late"
        ),
        errors.OutOfOrderError,
        "model.h[1].output[:] = late",
        ["`late`", "h.3.output", "two traces"],
    ),
    "a step below zero": (
        "with counter.generate(x) as tracer:\n    for step in tracer.iter[-1]: pass",
        errors.InputError,
        "for step in tracer.iter[-1]: pass",
        ["-1", "0"],
    ),
    "what is no module": (
        "wrap({'a': 1})",
        errors.InputError,
        "wrap({'a': 1})",
        ["torch.nn.Module", "dict"],
    ),
    "a return that cannot wait": (
        (
            "def go():\n    with model.trace() as tracer:\n        with tracer.invoke(x):\n"
            "            return model.output\ngo()"
        ),
        errors.CaptureError,
        "with tracer.invoke(x):",
        ["return", "line 4"],
    ),
    "a backend that is not there": (
        "with model.trace(x, remote='nowhere'):\n    a = model.output",
        errors.RemoteError,
        "with model.trace(x, remote='nowhere'):",
        ["nowhere", "local"],
    ),
}


def names():
    return {
        "model": MODEL,
        "counter": wrap(build(Counter)),
        "wrap": wrap,
        "torch": torch,
        "x": X.clone(),
        "y": Y.clone(),
        "longer": torch.randn(1, 5, WIDTH),
    }


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_screen(mistake):
    source, kind, line, said = MISTAKES[mistake]
    with pytest.raises(kind) as caught:
        run_cell(source, names())
    text = str(caught.value)
    screen = "".join(traceback.format_exception(caught.value))
    # Frames of this test and of pytest are not the user's.
    shown = screen[screen.index('File "<test cell') :] if 'File "<test cell' in screen else screen
    assert len(shown.splitlines()) <= 30, shown
    assert line in shown, shown
    for word in said:
        assert word in text, f"{word!r} is not in: {text}"
    assert not has_gates(NET)
    with MODEL.trace(X):
        final = MODEL.output
    assert same(final, hooked(NET, (X,))[""][0])


def test_no_message_speaks_of_our_own_files():
    for source, kind, *_ in MISTAKES.values():
        with pytest.raises(kind) as caught:
            run_cell(source, names())
        assert "nbsight/core" not in str(caught.value)


def test_hasattr_and_getattr_with_a_default_work_on_what_is_not_there():
    assert not hasattr(MODEL, "nothing")
    assert getattr(MODEL.h[1], "nothing", 5) == 5
    with pytest.raises(LookupError):
        MODEL.h[99]


def test_a_property_of_the_module_that_fails_shows_its_own_error():
    with pytest.raises(RuntimeError, match="trouble inside a property"):
        MODEL.broken


def test_a_models_error_keeps_its_kind_and_the_original():
    NET.fails = True
    try:
        with pytest.raises(LookupError) as caught, MODEL.trace(X):
            MODEL.h[1].output
            MODEL.output
    finally:
        NET.fails = False
    assert isinstance(caught.value, errors.ModelRunError)
    assert type(caught.value.original) is LookupError
    assert "the model's own trouble" in str(caught.value)
    assert caught.value.original.__traceback__ is not None


def test_an_error_of_the_model_without_any_edit_blames_no_edit():
    NET.fails = True
    try:
        with pytest.raises(errors.ModelRunError) as caught, MODEL.trace(X):
            MODEL.output
    finally:
        NET.fails = False
    assert "changed" not in str(caught.value)


def test_the_newest_edit_before_a_failure_is_named():
    with pytest.raises(errors.ModelRunError) as caught, MODEL.trace(X):
        MODEL.h[0].output = MODEL.h[0].output + 1
        MODEL.h[2].output = torch.ones(1, 3, 9)
        MODEL.output
    assert "h.2.output" in str(caught.value)
    assert "(1, 3, 9)" in str(caught.value)


def test_after_a_caught_model_error_a_further_read_says_that_the_model_failed():
    NET.fails = True
    try:
        with pytest.raises(ValueError, match="failed"), MODEL.trace(X):
            with contextlib.suppress(LookupError):
                MODEL.output
            MODEL.blocks.output
    finally:
        NET.fails = False


def test_a_users_own_error_in_a_block_is_not_rewritten():
    class Own(Exception):
        pass

    with pytest.raises(Own, match=r"^mine$"), MODEL.trace(X):
        MODEL.h[1].output
        raise Own("mine")


def test_a_size_error_can_still_be_caught_as_torchs_own_kind():
    with pytest.raises(RuntimeError, match="size of tensor"), MODEL.trace(X):
        MODEL.h[1].output
        torch.ones(3) + torch.ones(4)


@pytest.mark.parametrize(
    "line",
    ["kept = [1, 2].save()", "kept = (model.h[0].output, 3).save()", "kept = (3).save()", "kept = {}.save()"],
)
@pytest.mark.parametrize("invoked", [False, True])
def test_saving_what_is_no_tensor_names_the_function_that_does(line, invoked):
    model = wrap(build(Mixed))
    inner = f"with tracer.invoke(x):\n        {line}" if invoked else line
    given = "" if invoked else "x"
    with pytest.raises(
        AttributeError, match=r"has no attribute 'save'.*write `nbsight\.save\(\.\.\.\)`"
    ) as caught:
        run_cell(f"with model.trace({given}) as tracer:\n    {inner}", {"model": model, "x": rows()})
    assert type(caught.value) is AttributeError
    assert line in "".join(traceback.format_exception(caught.value))
    assert not has_gates(model._module)


def test_another_attribute_that_is_missing_is_pythons_own_error():
    model = wrap(build(Mixed))
    with pytest.raises(AttributeError) as caught:
        with model.trace(rows()):
            [1].saved()
    assert str(caught.value) == "'list' object has no attribute 'saved'"
