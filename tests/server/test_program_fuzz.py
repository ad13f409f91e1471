"""Programs made up by hypothesis: Python's own bits or its error; and trees that no parser gives."""

from __future__ import annotations

import ast
import contextlib
import math

import torch
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from nbsight.errors import NbsightError
from nbsight.server.programs.expressions import Scope
from nbsight.server.programs.limits import OverBudget
from nbsight.server.programs.statements import Interpreter
from nbsight.wire.programs import why_no_program
from nbsight.wire.source import parse_text

_OPERATORS = ["+", "-", "*", "/", "//", "%", "@", "<", "<=", "==", "!=", "and", "or", "in"]
_FUNCTIONS = ["abs", "len", "sum", "sorted", "list", "tuple", "max", "min", "str", "bool", "repr", "set"]
_METHODS = ["mean", "sum", "relu", "exp", "clone", "flatten", "tolist", "item", "numel"]

_names = st.sampled_from("abc")
_atoms = st.one_of(
    st.integers(-9, 9).map(repr),
    st.floats(-4, 4, allow_nan=False).map(repr),
    st.sampled_from(["True", "None", "'ab'", "[1, 2]", "(3,)", "{'k': 1}", "t", "u", "range(3)"]),
    _names,
)


def _wider(inner):
    pairs = st.tuples(inner, inner)
    return st.one_of(
        st.tuples(
            st.sampled_from(_OPERATORS),
            pairs,
        ).map(lambda parts: f"({parts[1][0]} {parts[0]} {parts[1][1]})"),
        st.tuples(
            st.sampled_from(
                ["abs", "len", "sum", "sorted", "list", "tuple", "max", "min", "str", "bool", "repr", "set"]
            ),
            inner,
        ).map(lambda parts: f"{parts[0]}({parts[1]})"),
        st.tuples(
            st.sampled_from(_METHODS),
            inner,
        ).map(lambda parts: f"({parts[1]}).{parts[0]}()"),
        pairs.map(lambda parts: f"({parts[0]})[{parts[1]}]"),
        pairs.map(lambda parts: f"[{parts[0]} for a in {parts[1]}]"),
        pairs.map(lambda parts: f"({parts[0]} if {parts[1]} else 0)"),
        inner.map(lambda part: f"(lambda a, b=2: {part})(1)"),
        inner.map(lambda part: f"f'{{{part}}}'"),
        inner.map(lambda part: f"torch.as_tensor({part}).sum()"),
        pairs.map(lambda parts: f"list(map(lambda b: {parts[0]}, {parts[1]}))"),
    )


_expressions = st.recursive(_atoms, _wider, max_leaves=8)
_simple = st.one_of(
    st.tuples(_names, _expressions).map(lambda parts: f"{parts[0]} = {parts[1]}"),
    st.tuples(_names, st.sampled_from(["+", "-", "*"]), _expressions).map(
        lambda parts: f"{parts[0]} {parts[1]}= {parts[2]}"
    ),
    st.tuples(_names, _expressions).map(lambda parts: f"t[0] = {parts[1]}"),
)


def _blocks(inner):
    body = st.lists(inner, min_size=1, max_size=3).map(
        lambda lines: "\n".join(f"    {line}" for text in lines for line in text.split("\n"))
    )
    return st.one_of(
        st.tuples(_expressions, body, body).map(lambda p: f"if {p[0]}:\n{p[1]}\nelse:\n{p[2]}"),
        st.tuples(_expressions, body).map(
            lambda p: f"for a in {p[0]}:\n{p[1]}\n    if a: break\nelse:\n    b = 7"
        ),
        st.tuples(body, _expressions).map(
            lambda p: f"def g(a, *c, b=1):\n{p[0]}\n    return a, b, c\nc = g({p[1]}, 2)"
        ),
    )


_programs = st.lists(st.recursive(_simple, _blocks, max_leaves=3), min_size=1, max_size=4).map("\n".join)


def _outcome(run, source):
    torch.manual_seed(0)
    values = {"a": 1, "b": 2.5, "c": [3], "torch": torch}
    values |= {"t": torch.arange(6.0).reshape(2, 3), "u": torch.tensor([1, 2])}
    try:
        run(source, values)
    except OverBudget:
        return "too much"
    except NbsightError:
        return "not for programs"
    except Exception as error:
        return type(error).__name__
    return {name: _bits(values.get(name)) for name in "abctu"}


def _bits(value):
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, float):
        return "nan" if math.isnan(value) else value.hex()
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [_bits(item) for item in value]
    if isinstance(value, dict):
        return [(_bits(key), _bits(item)) for key, item in value.items()]
    return (
        f"{type(value).__name__} {value!r}"
        if isinstance(value, (bool, int, str, set))
        else type(value).__name__
    )


def _interpret(source, values):
    values = values if isinstance(values, dict) else {}
    del values["torch"]
    tree = parse_text("import torch\n" + source, 1)
    why = why_no_program(tree, source, 1)
    if why is not None:
        raise NbsightError(why)
    Interpreter().run(tree.body, Scope(values, None, "<fuzz>"))


def _execute(source, values):
    exec(source, values)


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(_programs)
def test_a_program_gives_pythons_bits_or_pythons_error(source):
    found = _outcome(_interpret, source)
    if found in ("too much", "not for programs"):
        return
    wanted = _outcome(_execute, source)
    if found != wanted:
        # Of what is no value here, such as a function's text, the interpreter has its own error.
        assert found == "TypeError", (source, found, wanted)


@st.composite
def _junk(draw):
    """A tree that parses, with parts of it exchanged for others, which no parser would give."""
    try:
        tree = ast.parse(draw(_programs))
    except SyntaxError:  # quotes in quotes, before Python 3.12
        reject()
    nodes = [node for node in ast.walk(tree) if isinstance(node, (ast.expr, ast.stmt))]
    for _ in range(draw(st.integers(1, 3))):
        node = draw(st.sampled_from(nodes))
        other = draw(st.sampled_from(nodes))
        field = draw(st.sampled_from(node._fields)) if node._fields else None
        if field is not None and not isinstance(getattr(node, field, None), list) and other is not tree:
            if any(child is node for child in ast.walk(other)):
                continue  # a tree in itself has no end
            setattr(node, field, other)
    return ast.fix_missing_locations(tree)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(_junk())
def test_no_tree_does_more_than_raise(tree):
    """Whatever a tree is made of, nothing of Python's own comes of it."""
    values = {"a": 1, "b": 2.5, "c": [3], "t": torch.ones(2, 3), "u": torch.tensor([1, 2])}
    with contextlib.suppress(Exception):  # of any kind: the job ends with it
        if why_no_program(tree, "", 1) is None:
            Interpreter().run(tree.body, Scope(values, None, "<junk>"))
    for value in values.values():
        assert not callable(value) or type(value).__module__.startswith("nbsight.server.programs")
    assert "__builtins__" not in values
