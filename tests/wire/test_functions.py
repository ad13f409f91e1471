"""A function of the user's does at the other end what it does here."""

from __future__ import annotations

import functools
import linecache

import pytest
import torch

from nbsight.core.model import wrap
from nbsight.wire.encode import Unsendable
from tests.wire.trips import trip

ROOT = wrap(torch.nn.Linear(2, 2))

FACTOR = 3
LOG: list[int] = []


def scaled(x, by=FACTOR + 1, *more, plus: int = 2, **rest) -> unknown:  # noqa: F821
    """Reads a global, defaults, and another function."""
    return helper(x) * by + plus + sum(more) + len(rest)


def helper(x):
    LOG.append(int(x))
    return x * FACTOR


def even(n):
    return True if n == 0 else odd(n - 1)


def odd(n):
    return False if n == 0 else even(n - 1)


@torch.no_grad()
def without_graph(x):
    return (x * FACTOR).requires_grad


@functools.lru_cache(maxsize=None)  # noqa: UP033
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def test_a_function_brings_the_globals_and_defaults_that_it_reads():
    got = trip(scaled, ROOT)
    assert got is not scaled
    for args, kwargs in (((5,), {}), ((5, 1), {"plus": 0}), ((5, 2, 3, 4), {"plus": 1, "other": 0})):
        assert got(*args, **kwargs) == scaled(*args, **kwargs)
    assert (got.__name__, got.__doc__) == (scaled.__name__, scaled.__doc__)


def test_functions_share_what_they_read_and_nothing_leaks_back():
    before = list(LOG)
    first, second, log = trip((helper, scaled, LOG), ROOT)
    first(7)
    second(8)
    assert log[len(before) :] == [7, 8]
    assert before == LOG


def test_functions_may_call_themselves_and_each_other():
    got = trip(even, ROOT)
    assert [got(n) for n in range(5)] == [True, False, True, False, True]
    assert trip(fibonacci, ROOT)(20) == fibonacci(20)


def test_decorators_travel_with_a_decorated_function():
    x = torch.ones(2, requires_grad=True)
    assert trip(without_graph, ROOT)(x) is without_graph(x) is False
    assert trip(without_graph.__wrapped__, ROOT)(x) is True


def test_a_function_brings_what_it_closes_over():
    count = [0]
    width = 4

    def add(n):
        count[0] += n * width
        return add if n else count

    got = trip(add, ROOT)
    assert got(2)(0) == [8]
    assert count == [0]


def test_lambdas_on_one_line_are_told_apart():
    shift = 10
    plus, minus = (lambda x, y=2: x + y + shift), (lambda x, y=2: x - y - shift)
    got_plus, got_minus = trip((plus, minus), ROOT)
    assert (got_plus(1), got_minus(1), got_plus(1, y=5)) == (13, -11, 16)
    long = lambda x: (
        x
        * 2
    )  # fmt: skip
    assert trip(long, ROOT)(4) == 8


def test_a_function_defined_in_a_cell_travels():
    text = "def f(x):\n    y = [k * x for k in range(3)]\n    return max(y)\n"
    linecache.cache["<a cell>"] = (len(text), None, text.splitlines(keepends=True), "<a cell>")
    space: dict = {}
    exec(compile(text, "<a cell>", "exec"), space)
    assert trip(space["f"], ROOT)(4) == 8


def test_an_error_in_it_points_at_the_line_it_has_here():
    def fails(x):
        y = x
        return y / 0

    with pytest.raises(ZeroDivisionError) as caught:
        trip(fails, ROOT)(1)
    place = caught.traceback[-1]
    assert place.lineno + 1 == fails.__code__.co_firstlineno + 2
    assert str(place.path).endswith("test_functions.py")


def test_what_cannot_be_sent_as_source_says_why():
    space: dict = {}
    exec("def f(): pass", space)
    with pytest.raises(Unsendable, match="define it in a cell or a file"):
        trip(space["f"], ROOT)
    with pytest.raises(Unsendable, match="installed package `hypothesis`"):
        import hypothesis

        trip(hypothesis.given, ROOT)

    def wrapped_by_code(x):
        return x

    with pytest.raises(Unsendable, match="decorate it with `@`"):
        trip(torch.no_grad()(wrapped_by_code), ROOT)


def test_a_value_that_a_function_reads_and_that_does_not_travel_is_named():
    handle = open(__file__)  # noqa: SIM115
    with handle, pytest.raises(Unsendable, match="read it first") as caught:
        trip(lambda: handle.read(), ROOT)
    assert caught.value.place == "`handle` in <lambda>()"
