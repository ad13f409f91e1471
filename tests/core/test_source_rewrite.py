"""Functions that are rewritten operation by operation do what they did, whatever Python they hold."""

# ruff: noqa: B008, B009, C400, C408, C417, F821, F842, PIE804, UP008 - the language is the subject here

from __future__ import annotations

import asyncio
import functools
import inspect
import linecache
import traceback

import pytest
import torch

from nbsight.core.source_peel import peel
from nbsight.core.source_rewrite import listing_of
from nbsight.errors import SourceNotAvailable


def double(x):
    return x * 2


def add(*items, start=0, **named):
    return sum(items) + start + sum(named.values())


SCALE = 3


class Base:
    def value(self, x):
        return x + 100


class Owner(Base):
    """Methods that hold what a forward may hold."""

    __secret = 5
    number = 7

    def __private(self, x):
        return x + self.__secret

    def value(self, x):
        return super().value(x) + super(Owner, self).value(x)

    def private(self, x):
        self.__kept = self.__private(x)
        return self.__kept

    def own_class(self, x):
        return __class__.number + Owner.number + add(x)

    def comprehensions(self, x):
        a = [double(i) for i in range(x) if add(i) % 2]
        b = {double(i): add(i, j) for i in range(x) for j in range(2)}
        c = {add(i) for i in a}
        d = sum(double(i) for i in a)
        return a, b, c, d, list(map(lambda i: add(i, x), a))

    def walrus(self, x):
        if (n := double(x)) > 2 and any((last := i) > 1 for i in range(n)):
            return n, last
        return None

    def augmented(self, x):
        total = add(x)
        total += double(total)
        items = [1, 2, 3]
        items[double(1)] *= add(total)
        self.number += 1
        return total, items, self.number

    def comparisons(self, x):
        return 0 < add(x) <= double(x) < 100, not double(x), double(x) if add(x) else add(0)

    def short_circuits(self, x):
        return double(x) and add(0) and missing, double(0) or add(1, x) or missing

    def stars(self, x):
        args, named = (1, 2), {"a": 3}
        return add(*args, x, *range(2), start=double(x), **named, **{"b": 4}), [*args, *range(x)]

    def clashing_names(self, x):
        return add(number=x, called=1, self=2, args=3), dict(function=double(x))

    def strings(self, x):
        text = """
  a line with less indentation, and double(x)"""
        return f"{add(x)!r:>{double(4)}}|{x=}|{text}|{'nested ' + f'{double(x)}'}"

    def unpacking(self, x):
        a, b = double(x), add(x, 1)
        (c, (d, e)) = (a, (b, double(b)))
        f, *g = [a, b, c]
        h = i = add(d, e)
        [j, k] = double([h, i])[:2]
        m: int = add(j)
        n: int
        o = p, q = add(1), 2
        a, b = b, a
        return a, b, c, d, e, f, g, h, i, j, k, m, o, p, q

    def targets(self, x):
        self.kept = double(x)
        self.table = {}
        self.table["a"] = add(x)
        self.table[add(x)] = double(x)
        return self.kept, self.table

    def contexts(self, x):
        with torch.no_grad(), functools.partial(open, __file__)() as file:
            line = file.readline()
            free = torch.ones(1, requires_grad=True) * x
        return line, free.requires_grad

    def errors(self, x):
        try:
            value = 1 / double(0)
        except ZeroDivisionError as error:
            value = str(error)
        else:
            value = 0
        finally:
            self.number = add(x)
        return value, self.number

    def loops(self, x):
        found = []
        for i, j in enumerate(range(add(x))):
            if double(i) == 4:
                continue
            found.append(j)
            if add(i) > 5:
                break
        else:
            found.append(double(100))
        while len(found) > 2:
            found.pop()
        return found

    def branches(self, x):
        if double(x) > 100:
            return "early"
        elif add(x) > 1:
            result = "second"
        else:
            result = "third"
        assert isinstance(result, str), add(x)
        return result

    def nested(self, x, by=double):
        @functools.lru_cache(maxsize=double(4))
        def inner(y: int = add(1), *, z=double(2)) -> int:
            nonlocal x
            x = add(x, y)
            return by(x) + z

        class Local:
            size = double(3)

            def get(self):
                return add(self.size, x)

        return inner(), inner(4), x, Local().get()

    def generator(self, x):
        for i in range(x):
            got = yield double(i)
            add(got or 0)
        yield from (add(i) for i in range(2))

    def all_generated(self, x):
        return list(self.generator(x))

    def frame_readers(self, x):
        here = double(x)
        seen = locals()
        return seen["here"], eval("here + x"), "x" in vars(), sorted(dir()), globals() is not None

    def matches(self, x):
        match_ = {"a": double(x), "b": [1, add(x)]}
        return match_.get("a"), getattr(self, "number"), (lambda: add(x))(), [double][0](x)

    def globals_(self, x):
        global SCALE
        before, SCALE = SCALE, double(SCALE)
        after, SCALE = SCALE, before
        return before, after

    def deletes(self, x):
        y = double(x)
        del y
        return "y" in locals()

    def positional(self, a, b=2, /, c=3, *rest, d=4, **named):
        return add(a, b, c, *rest, d, **named)

    def recursion(self, x):
        return add(1) if x < 1 else x * self.recursion(x - 1)


METHODS = [
    name
    for name, value in vars(Owner).items()
    if inspect.isfunction(value) and not name.startswith("_") and name not in ("generator", "positional")
]


def rewritten(called, seen=None):
    """The same callable with doors that write down what passes."""
    peeled = peel(called)
    listing = listing_of(peeled.function)

    def call(number, target, /, *args, **kwargs):
        value = target(*args, **kwargs)
        if seen is not None:
            seen.append((listing.operations[number].name, value))
        return value

    def put(number, value):
        if seen is not None:
            seen.append((listing.operations[number].name, value))
        return value

    return peeled.rebuild(listing.with_doors(peeled.function, call, put))


@pytest.mark.parametrize("x", [0, 1, 4])
@pytest.mark.parametrize("name", METHODS)
def test_a_rewritten_method_returns_what_the_method_returns(name, x):
    want = getattr(Owner(), name)(x)
    seen = []
    got = rewritten(getattr(Owner(), name), seen)(x)
    assert repr(got) == repr(want)
    assert seen


def test_arguments_and_defaults_are_passed_as_before():
    new = rewritten(Owner().positional)
    assert new(1) == 10
    assert new(1, 1, 1, 1, d=1, e=1) == 6
    assert inspect.signature(new) == inspect.signature(Owner().positional)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'b'"):
        rewritten(Owner().branches)(1, b=2)


def test_generators_can_be_sent_to():
    plain, new = Owner().generator(2), rewritten(Owner().generator)(2)
    for value in (None, 5, None):
        assert plain.send(value) == new.send(value)


def test_a_coroutine_is_awaited_in_the_middle_of_an_expression():
    async def later(x):
        return x + 1

    async def forward(x):
        y = await later(x)
        return [await later(i) async for i in numbers(y)]

    async def numbers(count):
        for i in range(count):
            yield i

    seen = []
    assert asyncio.run(rewritten(forward, seen)(2)) == asyncio.run(forward(2)) == [1, 2, 3]
    assert ("y_0", 3) in seen


def test_a_closure_keeps_its_variables_and_shares_them():
    count = 0

    def forward(x):
        nonlocal count
        count = add(count, x)
        return count

    new = rewritten(forward)
    assert [forward(1), new(1), forward(1)] == [1, 2, 3]


def test_a_function_may_bear_the_name_of_a_global_that_it_reads():
    names = {"seen": []}
    text = "def forward(x):\n    return x if x < 1 else forward(x - 1)\n"
    linecache.cache["<one name>"] = (len(text), None, text.splitlines(True), "<one name>")
    exec(compile(text, "<one name>", "exec"), names)
    new = rewritten(names["forward"])
    names["forward"] = lambda x: "the global"
    assert new(3) == "the global"


def test_operations_are_seen_in_the_order_in_which_they_run():
    def forward(x):
        h = double(add(x, add(1)))
        a, b = double(h), add(h)
        return a + b

    seen = []
    rewritten(forward, seen)(1)
    assert seen == [
        ("add_0", 1), ("add_1", 2), ("double_0", 4), ("h_0", 4), ("double_1", 8), ("a_0", 8),
        ("add_2", 4), ("b_0", 4),
    ]  # fmt: skip


def names_of(function):
    return [operation.name for operation in listing_of(function).operations]


def test_names_are_those_that_nnsight_gives():
    """Expected names were taken down from nnsight 0.8.1 on the same lines."""

    def forward(self, x):
        h = self.lin(x)
        h = torch.relu(self.lin(h))
        a, b = h.split(2, dim=-1)
        c = d = a + b
        h += 1
        h = h[..., 0]
        z = list(torch.cos(q) for q in h)
        y = self.d["f"](h)
        y: int = self.subs[0](y)
        if (n := len(z)) > 1:
            self._p = torch.exp(y)
        self.d["k"] = y.view(-1).sum()
        r = super().forward(x)
        r = (x + x).view(1)
        r = getattr(self, "lin")(x)
        r = (lambda: 1)()
        r = self.d["f"].real.conj(x)
        e, (g, k) = torch.ones(1), (torch.ones(2), 3)
        f, g = g(), f()
        return torch.softmax(h.reshape(1), 0)

    assert " ".join(names_of(forward)) == (
        "self_lin_0 h_0 self_lin_1 torch_relu_0 h_1 h_split_0 h_2 torch_cos_0 list_0 z_0 self_d_0 y_0 "
        "self_subs_0 y_1 len_0 torch_exp_0 self__p_0 y_view_0 sum_0 self_d_1 forward_0 r_0 view_0 r_1 "
        "getattr_0 call_0 r_2 call_1 r_3 self_d_real_conj_0 r_4 torch_ones_0 torch_ones_1 e_0 g_0 k_0 "
        "g_1 f_0 f_1 g_2 h_reshape_0 torch_softmax_0"
    )


# -- errors and their lines ------------------------------------------------------------------------


def test_a_traceback_shows_the_functions_own_file_and_line():
    def forward(x):
        y = double(x)
        return y.nothing()

    with pytest.raises(AttributeError) as plain:
        forward(1)
    with pytest.raises(AttributeError) as new:
        rewritten(forward)(1)
    want, got = (traceback.extract_tb(caught.value.__traceback__)[-1] for caught in (plain, new))
    assert (got.filename, got.lineno, got.name) == (want.filename, want.lineno, want.name)
    assert got.line == "return y.nothing()"


def test_code_is_made_once_for_each_function():
    assert listing_of(double) is listing_of(double)
    assert listing_of(Owner().nested.__func__) is listing_of(Owner.nested)


def test_a_changed_text_is_refused(tmp_path):
    file = tmp_path / "module.py"
    file.write_text("def forward(x):\n    return x + 1\n")
    names = {}
    exec(compile(file.read_text(), str(file), "exec"), names)
    file.write_text("def other(x):\n    y = x\n    return y\n")
    with pytest.raises(SourceNotAvailable, match="changed"):
        listing_of(names["forward"])


def test_a_function_without_a_text_is_refused():
    names = {}
    exec("def forward(x):\n    return x", names)
    with pytest.raises(SourceNotAvailable, match="file or a notebook cell"):
        listing_of(names["forward"])


def test_a_lambda_is_refused():
    forward = lambda x: double(x)
    with pytest.raises(SourceNotAvailable, match="`def`"):
        listing_of(forward)


# -- wrappings -------------------------------------------------------------------------------------


def counted(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        value = function(*args, **kwargs)
        return ("counted", value)

    return wrapper


def unnamed(function):
    def wrapper(*args):
        return ("unnamed", function(*args))

    return wrapper


def choosing(function):
    @functools.wraps(function)
    def wrapper(x):
        chosen = pick(function)
        return chosen(x)

    return wrapper


def pick(function):
    return function


class Callable:
    def __call__(self, x):
        y = double(x)
        return y


@counted
@torch.no_grad()
@counted
def decorated(x):
    y = double(x)
    return y, torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("called", "name"),
    [
        (decorated, "double_0"),
        (functools.partial(decorated, 2), "double_0"),
        (Callable(), "double_0"),
        (unnamed(decorated), "function_0"),
        (choosing(double), "pick_0"),
    ],
    ids=["decorators", "partial", "an object", "a wrapper that hides", "a wrapper that chooses"],
)
def test_wrappings_stay_around_the_rewritten_function(called, name):
    args = () if isinstance(called, functools.partial) else (2,)
    seen = []
    assert rewritten(called, seen)(*args) == called(*args)
    assert name in dict(seen)


@pytest.mark.parametrize("called", [torch.sin, len, torch.Tensor.add, dict, torch.nn.Linear, (1).bit_length])
def test_what_is_not_a_python_function_is_refused(called):
    with pytest.raises(SourceNotAvailable, match=r"rite `\."):
        peel(called)
