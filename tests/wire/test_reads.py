"""A name travels if the block may read it before it binds it."""

from __future__ import annotations

import ast
import builtins

import pytest

from nbsight.wire.reads import needed_names

CASES = {
    "y = x": "x",
    "x = 1; y = x": "",
    "x += 1": "x",
    "x.a = 1": "x",
    "rows[i] = v": "rows i v",
    "x: int = y": "y",
    "del x": "x",
    "import torch.nn as nn; nn.x": "",
    "import torch.nn; torch.x": "",
    "if c: x = 1\ny = x": "c x",
    "if c: x = 1\nelse: x = 2\ny = x": "c",
    "for i in r: x = i\ny = x": "r x",
    "for i in r: x = i; y = x": "r",
    "while c: x = 1; y = x\nz = x": "c x",
    "with a as b: x = b\ny = x": "a",
    "try: x = f()\nexcept E as e: x = e\ny = x": "f E",
    "try: x = f()\nexcept E: pass\ny = x": "f E x",
    "try: x = 1; y = x\nfinally: z = x": "x",
    "def f(a, b=d): c = a; return c + g\nf(1)": "d g",
    "def f(n): return f(n - 1)": "",
    "def f():\n def h(): q = 1\n return q": "q",
    "g = lambda a: a + b": "b",
    "g = [i * k for i in r for j in i if j]": "r k",
    "g = [i for i in r]; h = i": "r i",
    "if (n := f()) and (m := n): y = n\nz = m": "f m",
    "class C(B):\n a = 1\n def f(self): return a + k": "B a k",
    "match v:\n case [a, *b] if a: y = b\n case P(x=1): y = q": "v P q",
    "f'{x:{w}}'": "x w",
    "a = b = c; d = a, b": "c",
    "(a, *b), c[i] = v": "v c i",
    "print(x)": "print x",
    "global x; x = 1": "",
}


@pytest.mark.parametrize("text", CASES)
def test_the_names_that_a_block_needs(text):
    assert set(needed_names(ast.parse(text))) == set(CASES[text].split())


def test_the_first_line_that_reads_a_name_is_given():
    assert needed_names(ast.parse("a = 1\nb = a\n\nc = d\ne = d")) == {"d": 4}


class _Recorder(dict):
    """A namespace that notes which names were asked for and not bound."""

    def __init__(self, values):
        super().__init__()
        self.values_outside, self.asked = values, set()

    def __missing__(self, name):
        if name in self.values_outside:
            self.asked.add(name)
            return self.values_outside[name]
        raise KeyError(name)


@pytest.mark.parametrize(
    "text",
    [
        "y = [x + i for i in range(n)]\nx = 2\nz = x + len(y)",
        "for i in range(n):\n    t = i\nelse:\n    u = t\nw = u",
        "try:\n    a = 1 / 0\nexcept ZeroDivisionError:\n    a = x\nb = a",
        "s = {k: v for k, v in zip('ab', range(n))}\nt = sorted(s, key=lambda c: s[c] * x)",
    ],
)
def test_nothing_that_a_run_asks_for_is_left_out(text):
    outside = _Recorder({"x": 1, "n": 3, "__builtins__": builtins})
    exec(text, outside)
    assert outside.asked - {"__builtins__"} <= set(needed_names(ast.parse(text)))
