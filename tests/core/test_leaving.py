"""An error that leaves a block ends at the user's line and says what to write there instead."""

from __future__ import annotations

import traceback

import pytest
import torch

from nbsight.core.model import wrap
from nbsight.errors import EditError, InputError, OutOfOrderError
from tests.core.small import Chain, Formed, build, has_gates, hooked, rows, run_cell, same

X = rows(2)


def raised_by(source, model, kind):
    """The error of a cell, and its frames as (is it the cell's, line number, function)."""
    with pytest.raises(kind) as caught:
        run_cell(source, {"model": model, "x": X, "torch": torch})
    frames = traceback.extract_tb(caught.value.__traceback__)
    first = next(place for place, frame in enumerate(frames) if frame.filename.startswith("<test cell"))
    assert not has_gates(model._module)
    return caught.value, [
        (frame.filename.startswith("<test cell"), frame.lineno, frame.name) for frame in frames[first:]
    ]


@pytest.mark.parametrize(
    "source",
    [
        """
        with model.trace(x):
            model.part.output[0] = 0
        """,
        """
        with model.trace(x):
            out = model.part.output; out[0] = 0
        """,
        """
        with model.trace() as tracer:
            with tracer.invoke(x):
                model.part.output[0] = 0
            with tracer.invoke(x): pass
        """,
    ],
)
def test_an_item_put_into_a_tuple_says_how_it_is_done_and_works_so(source):
    net = build(Formed, "tuple")
    model = wrap(net)
    error, frames = raised_by(source, model, EditError)
    assert isinstance(error, TypeError)
    assert "`part.output` is a tuple" in str(error)
    assert "`part.output[0][:] = value`" in str(error)
    assert "`part.output = (value, *part.output[1:])`" in str(error)
    line = next(n for n, text in enumerate(source.splitlines(), 1) if "[0] = 0" in text)
    assert frames[-1][:2] == (True, line)
    with model.trace(X):
        model.part.output[0][:] = 0
        one = model.output
    with model.trace(X):
        value = torch.zeros_like(model.part.output[0])
        model.part.output = (value, *model.part.output[1:])
        two = model.output
    want = hooked(net, (X,), edit={"part": lambda out: (torch.zeros_like(out[0]), *out[1:])})[""][0]
    assert same([one, two], [want, want])


def test_a_tuple_of_the_users_own_is_python_s_affair():
    model = wrap(build(Formed, "tuple"))
    error, _ = raised_by(
        """
        with model.trace(x):
            model.part.output
            mine = (1, 2)
            mine[0] = 3
        """,
        model,
        TypeError,
    )
    assert type(error) is TypeError


def test_rows_of_the_wrong_shape_end_at_the_line_that_wrote_them():
    error, frames = raised_by(
        """
        with model.trace() as tracer:
            with tracer.invoke(x):
                model.h[1].output = torch.ones(7, 3, 6)
                model.output
            with tracer.invoke(x):
                model.output
        """,
        wrap(build(Chain)),
        EditError,
    )
    assert "line 4: model.h[1].output = torch.ones(7, 3, 6)" in str(error)
    assert frames[-1][:2] == (True, 4)


def test_shapes_that_do_not_fit_end_at_the_users_line():
    error, frames = raised_by(
        """
        with model.trace(x):
            model.h[1].output[:] = torch.ones(7, 7)
        """,
        wrap(build(Chain)),
        EditError,
    )
    assert isinstance(error, RuntimeError)
    assert [frame[:2] for frame in frames if frame[0]] == [(True, 2), (True, 3)]


def test_an_error_in_an_invokes_body_shows_the_users_lines_and_one_of_ours():
    _error, frames = raised_by(
        """
        with model.trace() as tracer:
            with tracer.invoke(x):
                model.h[1].output
                1 / 0
            with tracer.invoke(x):
                model.output
        """,
        wrap(build(Chain)),
        ZeroDivisionError,
    )
    assert [frame[:2] for frame in frames if frame[0]] == [(True, 2), (True, 5)]
    assert [frame[2] for frame in frames if not frame[0]] == ["__exit__"]


def test_an_invoke_where_there_can_be_none_ends_at_its_line():
    _error, frames = raised_by(
        """
        with model.trace(x) as tracer:
            with tracer.invoke(x):
                pass
        """,
        wrap(build(Chain)),
        InputError,
    )
    assert [frame[:2] for frame in frames] == [(True, 3)]


def test_an_input_that_cannot_be_used_shows_one_frame_of_ours():
    class Picky(type(wrap(build(Chain)))):
        def _prepare(self, args, kwargs):
            return self._look(args)

        def _look(self, args):
            raise InputError("no such input")

    _error, frames = raised_by(
        """
        with model.trace(x):
            model.output
        """,
        Picky(build(Chain)),
        InputError,
    )
    assert [frame[2] for frame in frames] == ["<module>", "__enter__"]


def test_the_root_is_called_model_in_messages():
    error, _ = raised_by(
        """
        with model.trace(x, strict_order=True):
            final = model.output
            early = model.h[0].output
        """,
        wrap(build(Chain)),
        OutOfOrderError,
    )
    assert "By then the model stood at `model.output`" in str(error)
