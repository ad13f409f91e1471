"""The interpreter: expressions. Nothing here compiles or executes what the user wrote."""

from __future__ import annotations

import ast
import collections
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import PreTrainedTokenizerBase

from nbsight.core.envoy import Envoy
from nbsight.core.loops import Loops
from nbsight.core.steps import StepList
from nbsight.errors import PathError
from nbsight.models.views import Across, Attention, Layer, Layers
from nbsight.server.programs import surface
from nbsight.server.programs.growth import broadcast, check_index
from nbsight.server.programs.limits import (
    ITEMS,
    OverBudget,
    check_bits,
    check_items,
    check_objects,
    check_parts,
)
from nbsight.server.programs.lines import at_line
from nbsight.server.programs.sizes import OPERATOR_CHECKS
from nbsight.server.programs.texts import repr_of, text_of
from nbsight.server.programs.values import Allowed, Bound, Function, Module, check_value, unwrapped

if TYPE_CHECKING:
    from nbsight.server.programs.statements import Interpreter

__all__ = ["ASSIGNED", "IN_PLACE", "Evaluator", "Scope"]

#: Steps of the interpreter that one job may take.
STEPS = 20_000_000

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mult": operator.mul,
    "Div": operator.truediv,
    "FloorDiv": operator.floordiv,
    "Mod": operator.mod,
    "Pow": operator.pow,
    "MatMult": operator.matmul,
    "LShift": operator.lshift,
    "RShift": operator.rshift,
    "BitOr": operator.or_,
    "BitXor": operator.xor,
    "BitAnd": operator.and_,
}

IN_PLACE: dict[str, Callable[[Any, Any], Any]] = {
    name: getattr(operator, f"i{function.__name__.strip('_')}") for name, function in _OPERATORS.items()
}

_UNARY: dict[str, Callable[[Any], Any]] = {
    "Not": operator.not_,
    "USub": operator.neg,
    "UAdd": operator.pos,
    "Invert": operator.invert,
}

_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "Eq": operator.eq,
    "NotEq": operator.ne,
    "Lt": operator.lt,
    "LtE": operator.le,
    "Gt": operator.gt,
    "GtE": operator.ge,
    "Is": operator.is_,
    "IsNot": operator.is_not,
    "In": lambda a, b: a in b,
    "NotIn": lambda a, b: a not in b,
}

#: How a number may be written out: no width in the millions.
_FORMAT = re.compile(r"(.?[<>=^])?[-+ ]?#?0?\d{0,3}[,_]?(\.\d{1,3})?[a-zA-Z%]?")

_INDEXED = (str, bytes, list, tuple, dict, range, torch.Tensor, Envoy, Layers, Across, StepList, Loops)

_END = object()


class Scope:
    """Names, and where to look for those that are not among them.

    Args:
        names: By name.
        outer: The scope around this one.
        filename: The user's file, as its text is registered.
        function: The function whose names these are.
    """

    __slots__ = ("filename", "function", "names", "outer")

    def __init__(self, names: Any, outer: Scope | None, filename: str, function: str = "<module>") -> None:
        self.names = names
        self.outer = outer
        self.filename = filename
        self.function = function

    def find(self, name: str) -> Any:
        """What a name means here."""
        scope: Scope | None = self
        while scope is not None:
            try:
                return scope.names[name]
            except KeyError:
                scope = scope.outer
        if name in surface.BUILTINS:
            return surface.BUILTINS[name]
        raise NameError(f"name {name!r} is not defined", name=name)


class Evaluator:
    """Works out expressions."""

    def __init__(self) -> None:
        self.steps = 0
        self.depth = 0

    # -- on the user's line --------------------------------------------------------------------

    def do(self, what: str, node: Any, scope: Scope, *values: Any) -> Any:
        """Do an operation on the line of a node."""
        return at_line(what, scope.filename, getattr(node, "lineno", 1), scope.function)(*values)

    def call(self, node: Any, scope: Scope, function: Any, *values: Any) -> Any:
        """Call one of Python's own functions there."""
        return self.do("call", node, scope, function, values, {})

    def fail(self, node: Any, scope: Scope, error: Exception) -> Any:
        """Raise an error there."""
        return self.call(node, scope, _throw, error)

    # -- expressions ---------------------------------------------------------------------------

    def value(self, node: Any, scope: Scope) -> Any:
        """The value of an expression."""
        self.steps += 1
        if self.steps > STEPS:
            self.fail(node, scope, OverBudget(f"the block takes more than {STEPS:,} steps."))
        found = _VALUES[type(node)](self, node, scope)
        if callable(found):
            self.call(node, scope, check_value, found)
        return found

    def _name(self, node: ast.Name, scope: Scope) -> Any:
        try:
            return scope.find(node.id)
        except NameError as error:
            return self.fail(node, scope, error)

    def _attribute(self, node: ast.Attribute, scope: Scope) -> Any:
        value = self.value(node.value, scope)
        return self.attribute(value, node.attr, node, scope)

    def attribute(self, value: Any, name: str, node: Any, scope: Scope) -> Any:
        """An attribute of a value, as far as its type's table goes."""
        if name.startswith("_"):
            self.fail(
                node, scope, PathError(f"`.{name}` begins with an underscore; such attributes are not read.")
            )
        get = at_line("get", scope.filename, getattr(node, "lineno", 1), scope.function)
        return self.call(node, scope, surface.attribute, value, name, get)

    def _subscript(self, node: ast.Subscript, scope: Scope) -> Any:
        value, key = self.value(node.value, scope), self.value(node.slice, scope)
        if not isinstance(value, _INDEXED) and type(value).__module__ not in ("torch.return_types",):
            self.check_record(value, node, scope)
        self.check_key(value, key, node, scope)
        return self.do("item", node, scope, value, key)

    def check_key(self, owner: Any, key: Any, node: Any, scope: Scope) -> None:
        """Refuse a key that takes for ever, or an index that repeats a tensor too often."""
        if isinstance(owner, torch.Tensor):
            self.call(node, scope, check_index, owner, key)
        elif isinstance(key, (tuple, frozenset)):
            self.call(node, scope, check_parts, (key,))

    def check_record(self, value: Any, node: Any, scope: Scope) -> None:
        """Refuse to index what is neither a container nor a record of tensors."""
        from transformers.utils import ModelOutput

        if not isinstance(value, ModelOutput):
            self.fail(node, scope, TypeError(f"a {type(value).__name__} is not indexed in a program."))

    def _slice(self, node: ast.Slice, scope: Scope) -> slice:
        parts = [
            None if part is None else self.value(part, scope) for part in (node.lower, node.upper, node.step)
        ]
        return slice(*parts)

    def items(self, nodes: list[ast.expr], scope: Scope) -> list[Any]:
        """The values of several expressions, with `*these` taken apart."""
        found: list[Any] = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                for item in self.each(self.value(node.value, scope), node, scope):
                    found.append(item)
                    check_items(len(found))
            else:
                found.append(self.value(node, scope))
        return found

    def _set(self, node: ast.Set, scope: Scope) -> Any:
        items = self.items(node.elts, scope)
        self.call(node, scope, check_parts, items)
        return self.call(node, scope, set, items)

    def _dict(self, node: ast.Dict, scope: Scope) -> Any:
        made: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                more = self.value(value, scope)
                self.need(more, (dict,), node, scope)
                made.update(more)
            else:
                name = self.value(key, scope)
                self.call(node, scope, check_parts, (name,))
                self.call(node, scope, made.__setitem__, name, self.value(value, scope))
        return made

    def _binary(self, node: ast.BinOp, scope: Scope) -> Any:
        left, right = self.value(node.left, scope), self.value(node.right, scope)
        return self.operate(type(node.op).__name__, _OPERATORS, left, right, node, scope)

    def operate(
        self, name: str, table: Mapping[str, Any], left: Any, right: Any, node: Any, scope: Scope
    ) -> Any:
        """An operator between two values, once its result is known not to be too large."""
        for value in (left, right):
            self.need(value, _OPERANDS, node, scope)
        check = OPERATOR_CHECKS.get(name)
        if check is not None:
            self.call(node, scope, check, left, right)
        return self.call(node, scope, table[name], left, right)

    def _unary(self, node: ast.UnaryOp, scope: Scope) -> Any:
        return self.call(node, scope, _UNARY[type(node.op).__name__], self.value(node.operand, scope))

    def _bool(self, node: ast.BoolOp, scope: Scope) -> Any:
        stop_at = isinstance(node.op, ast.Or)
        for part in node.values:
            value = self.value(part, scope)
            if self.call(part, scope, bool, value) is stop_at:
                break
        return value

    def _compare(self, node: ast.Compare, scope: Scope) -> Any:
        left: Any = self.value(node.left, scope)
        result: Any = True
        for place, (kind, other) in enumerate(zip(node.ops, node.comparators, strict=True)):
            right = self.value(other, scope)
            if isinstance(kind, (ast.In, ast.NotIn)):
                self.need(right, _CONTAINERS, node, scope)
            if isinstance(left, _DEEP) or isinstance(right, _DEEP):
                self.call(node, scope, check_parts, (left, right))
            self.call(node, scope, broadcast, left, right)
            result = self.call(node, scope, _COMPARISONS[type(kind).__name__], left, right)
            if place + 1 < len(node.ops) and not self.call(node, scope, bool, result):
                break
            left = right
        return result

    def _choice(self, node: ast.IfExp, scope: Scope) -> Any:
        return self.value(node.body if self.truth(node.test, scope) else node.orelse, scope)

    def truth(self, node: ast.expr, scope: Scope) -> bool:
        """Whether an expression's value counts as true."""
        return self.call(node, scope, bool, self.value(node, scope))

    def _walrus(self, node: ast.NamedExpr, scope: Scope) -> Any:
        value = self.value(node.value, scope)
        target = scope
        while target.function == "<comprehension>" and target.outer is not None:
            target = target.outer
        target.names[node.target.id] = value
        return value

    def _text(self, node: ast.JoinedStr, scope: Scope) -> str:
        parts, length = [], 0
        for part in node.values:
            text = str(self.value(part, scope))  # a constant, or what `_formatted` gives
            length += len(text)
            self.call(node, scope, check_items, length)
            parts.append(text)
        return "".join(parts)

    def _formatted(self, node: ast.FormattedValue, scope: Scope) -> str:
        value = self.value(node.value, scope)
        spec = "" if node.format_spec is None else self.value(node.format_spec, scope)
        if not _FORMAT.fullmatch(spec):
            self.fail(node, scope, OverBudget(f"{spec!r} is not a format that a program may use."))
        if node.conversion in (ord("r"), ord("a")):
            value = self.call(node, scope, repr_of, value)
        elif not isinstance(value, (int, float, complex, str, torch.Tensor)) or node.conversion == ord("s"):
            value = self.call(node, scope, text_of, value)
        return self.call(node, scope, format, value, spec)

    # -- calls ---------------------------------------------------------------------------------

    def _call(self, node: ast.Call, scope: Scope) -> Any:
        function = self.value(node.func, scope)
        args, kwargs = self.arguments(node, scope)
        return self.invoke(function, args, kwargs, node, scope)

    def arguments(self, node: ast.Call, scope: Scope) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a call."""
        args = self.items(node.args, scope)
        kwargs: dict[str, Any] = {}
        for keyword in node.keywords:
            value = self.value(keyword.value, scope)
            if keyword.arg is None:
                self.need(value, (dict,), node, scope)
                kwargs.update(value)
            else:
                kwargs[keyword.arg] = value
        return args, kwargs

    def invoke(self, function: Any, args: list[Any], kwargs: dict[str, Any], node: Any, scope: Scope) -> Any:
        """Call a value, if it is one that is called."""
        name = function.name if isinstance(function, Allowed) else ""
        for value in (*args, *kwargs.values()):
            if callable(value):
                self.call(node, scope, check_value, value)
        if name in _FOLDS and function in _FOLDED:
            return self.fold(name, args, kwargs, node, scope)
        args, kwargs = self.given(function, name, args, kwargs, node, scope)
        if isinstance(function, PreTrainedTokenizerBase):
            return self.do("call", node, scope, surface.call_tokenizer, (function, *args), kwargs)
        if isinstance(function, Bound) and isinstance(function.value, (Envoy, torch.Tensor)):
            # Whose line it is, the core asks the frame that calls: ours must not stand between.
            if function.check is not None:
                self.do("call", node, scope, function.check, ((function.value, *args), kwargs), {})
            function = getattr(function.value, function.name)
        elif not isinstance(function, (Allowed, Bound, Function, Envoy, Layer, Attention)):
            kind = "module" if isinstance(function, Module) else type(function).__name__
            self.fail(node, scope, TypeError(f"a {kind} is not called in a program."))
        return self.do("call", node, scope, function, tuple(args), kwargs)

    def given(
        self, function: Any, name: str, args: list[Any], kwargs: dict[str, Any], node: Any, scope: Scope
    ) -> tuple[list[Any], dict[str, Any]]:
        """The arguments as a function of Python's may have them.

        What it goes through is something that a program goes through itself; what it calls, it calls by us.
        """
        is_python = isinstance(function, Allowed) and function in _PYTHONS
        if is_python and (name in _TAKES_MANY or name.startswith("math.")):
            calls = name in ("filter", "map")  # their first argument
            args = [
                self.through(arg, node, scope)
                if _goes_through(arg) and not (calls and place == 0 and callable(arg))
                else arg
                for place, arg in enumerate(args)
            ]
        if isinstance(function, Bound) and isinstance(function.value, _OWNERS):
            args = [self.drawn(arg, node, scope) for arg in args]
        if (is_python and function.calls) or (isinstance(function, Bound) and function.name == "sort"):
            args = [self.called_back(arg, node, scope) for arg in args]
            kwargs = {key: self.called_back(arg, node, scope) for key, arg in kwargs.items()}
        return args, kwargs

    def called_back(self, value: Any, node: Any, scope: Scope) -> Any:
        """A function that Python is to call, as one that comes back here."""
        if not callable(value):
            return value
        return lambda *args, **kwargs: self.invoke(value, list(args), kwargs, node, scope)

    def drawn(self, value: Any, node: Any, scope: Scope) -> Any:
        """What an iterator gives, so that it can be counted before it is used."""
        if not isinstance(value, _LAZY):
            return value
        found, length = [], 0
        for item in self.each(value, node, scope):
            found.append(item)
            length += len(item) if isinstance(item, str) else 1
            if length > ITEMS:
                self.call(node, scope, check_items, length)
        return found

    def fold(self, name: str, args: list[Any], kwargs: dict[str, Any], node: Any, scope: Scope) -> Any:
        """`sum` and `math.prod`: as Python does it for numbers, with our own operators for all else."""
        kind, total = _FOLDS[name]
        if not 1 <= len(args) <= (2 if name == "sum" else 1) or kwargs.keys() - {"start"}:
            self.fail(node, scope, TypeError(f"{name}() takes what to go through, and `start`."))
        items = list(
            self.drawn(args[0], node, scope)
            if isinstance(args[0], _LAZY)
            else self.each(args[0], node, scope)
        )
        result = args[1] if len(args) > 1 else kwargs.get("start", 0 if name == "sum" else 1)
        if all(isinstance(item, (int, float, complex)) for item in (result, *items)):
            if name != "sum":
                bits = sum(int(item).bit_length() for item in items if isinstance(item, int))
                self.call(node, scope, check_bits, bits)
            return self.do("call", node, scope, total, (items,), {"start": result})
        if isinstance(result, (str, bytes)):
            self.fail(node, scope, TypeError(f"{name}() takes no text; write `''.join(...)`."))
        for item in items:
            self.steps += 1
            result = self.operate(kind, _OPERATORS, result, item, node, scope)
        return result

    def through(self, value: Any, node: Any, scope: Scope) -> Any:
        """A value that is about to be gone through by one of Python's own functions."""
        self.need(value, surface.ITERABLE, node, scope)
        self.count(value, node, scope)
        return value

    def count(self, value: Any, node: Any, scope: Scope) -> None:
        """Refuse to make an object of each row of a tensor that has too many."""
        if isinstance(value, torch.Tensor) and value.ndim:
            self.call(node, scope, check_objects, len(value))

    def _lambda(self, node: ast.Lambda, scope: Scope) -> Function:
        return self.function("<lambda>", node.args, node.body, scope)

    def function(self, name: str, parameters: ast.arguments, body: Any, scope: Scope) -> Function:
        """A function of the user's, with the defaults that it has now."""
        made = Function(cast("Interpreter", self), name, parameters, body, scope)
        made.defaults = tuple(self.value(default, scope) for default in parameters.defaults)
        pairs = zip(parameters.kwonlyargs, parameters.kw_defaults, strict=True)
        made.keyword_defaults = {
            arg.arg: self.value(default, scope) for arg, default in pairs if default is not None
        }
        return made

    # -- going through -------------------------------------------------------------------------

    def each(self, value: Any, node: Any, scope: Scope) -> Iterator[Any]:
        """The items of a value."""
        if not isinstance(value, surface.ITERABLE) and type(value).__module__ != "torch.return_types":
            self.fail(node, scope, TypeError(f"a {type(value).__name__} is not gone through in a program."))
        self.count(value, node, scope)
        iterator = self.call(node, scope, iter, value)
        while (item := self.do("next", node, scope, iterator, _END)) is not _END:
            self.steps += 1
            yield item

    def _comprehension(self, node: Any, scope: Scope) -> Any:
        made: list[Any] = []
        length = [0]  # of texts: their characters
        inner = Scope({}, scope, scope.filename, "<comprehension>")

        def turn(place: int) -> None:
            if place == len(node.generators):
                if isinstance(node, ast.DictComp):
                    item = self.value(node.key, inner)
                    made.append((item, self.value(node.value, inner)))
                else:
                    item = self.value(node.elt, inner)
                    made.append(item)
                length[0] += len(item) if isinstance(item, str) else 1
                if length[0] > ITEMS:
                    self.call(node, scope, check_items, length[0])
                return
            part = node.generators[place]
            around = scope if place == 0 else inner
            for item in self.each(self.value(part.iter, around), part.iter, around):
                self.bind(part.target, item, inner)
                if all(self.truth(test, inner) for test in part.ifs):
                    turn(place + 1)

        turn(0)
        if isinstance(node, ast.DictComp):
            self.call(node, scope, check_parts, [key for key, _ in made])
            return self.call(node, scope, dict, made)
        if isinstance(node, ast.SetComp):
            self.call(node, scope, check_parts, made)
            return self.call(node, scope, set, made)
        return made

    # -- binding -------------------------------------------------------------------------------

    def bind(self, target: Any, value: Any, scope: Scope) -> None:
        """Bind a name, an item, an attribute, or several of them."""
        if isinstance(target, ast.Name):
            scope.names[target.id] = value
        elif isinstance(target, ast.Attribute):
            owner = self.value(target.value, scope)
            if not surface.settable(owner, target.attr):
                kind = type(owner).__name__
                self.fail(
                    target, scope, PathError(f"`.{target.attr}` of a {kind} is not assigned in a program.")
                )
            self.do("set", target, scope, owner, target.attr, value)
        elif isinstance(target, ast.Subscript):
            owner = self.value(target.value, scope)
            self.need(owner, ASSIGNED, target, scope)
            key = self.value(target.slice, scope)
            self.check_key(owner, key, target, scope)
            if isinstance(owner, list) and isinstance(key, slice):
                value = list(self.each(value, target, scope))
                self.call(target, scope, check_items, len(owner) + len(value))
            self.do("set_item", target, scope, owner, key, value)
        else:
            self._unpack(target, value, scope)

    def _unpack(self, target: Any, value: Any, scope: Scope) -> None:
        items = list(self.each(value, target, scope))
        names = target.elts
        starred = [place for place, name in enumerate(names) if isinstance(name, ast.Starred)]
        if starred:
            first, after = starred[0], len(names) - starred[0] - 1
            if len(items) < len(names) - 1:
                self.fail(target, scope, ValueError(f"not enough values to unpack (got {len(items)})"))
            end = len(items) - after
            items = [*items[:first], items[first:end], *items[end:]]
            names = [name.value if isinstance(name, ast.Starred) else name for name in names]
        if len(items) != len(names):
            self.fail(target, scope, ValueError(f"{len(names)} names for {len(items)} values"))
        for name, item in zip(names, items, strict=True):
            self.bind(name, item, scope)

    def need(self, value: Any, kinds: tuple[type, ...], node: Any, scope: Scope) -> None:
        """Refuse a value of another kind."""
        if not isinstance(value, kinds):
            self.fail(node, scope, TypeError(f"a {type(value).__name__} is not used like this in a program."))


def _throw(error: Exception) -> None:
    raise error


def _goes_through(value: Any) -> bool:
    """Whether a builtin would go through a value and not call or count it."""
    return not isinstance(value, (int, float, complex, bool, type(None), Allowed, Bound, Function))


#: What is gone through later, when somebody asks.
_LAZY = (map, filter, zip, enumerate, reversed)

#: Values whose methods go through what they are given.
_OWNERS = (str, list, dict, set, frozenset, collections.deque)

#: Values that Python compares part by part.
_DEEP = (list, tuple, dict, set, frozenset, collections.deque)

_PYTHONS = {*surface.BUILTINS.values(), *surface.MODULES["math"].names.values()}

_FOLDS: dict[str, tuple[str, Any]] = {"sum": ("Add", sum), "math.prod": ("Mult", math.prod)}
_FOLDED = {surface.BUILTINS["sum"], surface.MODULES["math"].names["prod"]}

#: Builtins that go through their arguments.
_TAKES_MANY = frozenset(
    [
        "all",
        "any",
        "dict",
        "enumerate",
        "filter",
        "frozenset",
        "list",
        "map",
        "max",
        "min",
        "reversed",
        "set",
        "sorted",
        "sum",
        "tuple",
        "zip",
    ]
)

_OPERANDS: tuple[type, ...] = (
    *(int, float, complex, str, bytes, list, tuple, set, frozenset, dict, torch.Tensor, type({}.keys())),
)
#: Values whose items are assigned.
ASSIGNED: tuple[type, ...] = (list, dict, torch.Tensor, Across, Envoy)

_CONTAINERS: tuple[type, ...] = (
    *(str, bytes, list, tuple, dict, set, frozenset, range, torch.Tensor, type({}.keys()), type({}.values())),
)

_isinstance = Allowed("isinstance", lambda value, kinds: isinstance(value, unwrapped(kinds)))
surface.BUILTINS["isinstance"] = _isinstance

_VALUES: dict[type, Callable[[Evaluator, Any, Scope], Any]] = {
    ast.Constant: lambda self, node, scope: node.value,
    ast.Name: Evaluator._name,
    ast.Attribute: Evaluator._attribute,
    ast.Subscript: Evaluator._subscript,
    ast.Slice: Evaluator._slice,
    ast.Tuple: lambda self, node, scope: tuple(self.items(node.elts, scope)),
    ast.List: lambda self, node, scope: self.items(node.elts, scope),
    ast.Set: Evaluator._set,
    ast.Dict: Evaluator._dict,
    ast.BinOp: Evaluator._binary,
    ast.UnaryOp: Evaluator._unary,
    ast.BoolOp: Evaluator._bool,
    ast.Compare: Evaluator._compare,
    ast.IfExp: Evaluator._choice,
    ast.NamedExpr: Evaluator._walrus,
    ast.JoinedStr: Evaluator._text,
    ast.FormattedValue: Evaluator._formatted,
    ast.Call: Evaluator._call,
    ast.Lambda: Evaluator._lambda,
    ast.ListComp: Evaluator._comprehension,
    ast.SetComp: Evaluator._comprehension,
    ast.DictComp: Evaluator._comprehension,
    ast.GeneratorExp: Evaluator._comprehension,
}
