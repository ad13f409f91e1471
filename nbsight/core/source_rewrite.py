"""MAGIC: the same function once more, with a door at each of its operations.

What: `listing_of(function)` names the operations in a Python function (its calls and its plain
assignments) and holds code in which each passes through one of two functions that are supplied
later: `f(a)` becomes `call(3, f, a)`, and `h = f(a)` becomes `h = put(4, call(3, f, a))`.

Why: values inside a forward (attention weights, the parts of a fused projection) belong to no
module, so no hook can reach them.

How: the function's own text is parsed, changed and compiled with its file name and line numbers.
The code then runs with the function's own globals, defaults and closure cells; `call` and `put`
arrive as two more cells. Nothing of the function, its module or its class is changed. The code is
made once for each function and kept by identity.

What breaks it: no text (C functions, stdin), a text that changed since it was imported, a lambda.

Tested in `tests/core/test_source_rewrite.py`.
"""

from __future__ import annotations
import __future__

import ast
import copy
import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import CellType, CodeType, FunctionType
from typing import Any

from nbsight.core.by_identity import ByIdentity
from nbsight.core.capture import parse
from nbsight.errors import SourceNotAvailable

__all__ = ["Listing", "Named", "listing_of"]

_FUTURE = 0
for _name in __future__.all_feature_names:
    _FUTURE |= getattr(__future__, _name).compiler_flag

_CALL, _PUT, _CLEAN = "__nbsight_call__", "__nbsight_put__", "__nbsight_clean__"
_BODY = "__nbsight_body__"

#: These look at the frame that calls them, so the call has to stay where it is.
_FRAME_READERS = frozenset({"dir", "eval", "exec", "globals", "locals", "vars"})
_NAME_LISTS = frozenset({"dir", "locals", "vars"})


@dataclass(frozen=True)
class Named:
    """One operation of a function.

    Args:
        name: As in `split_1`; the counter runs over calls and assignments of one name.
        line: Its line in the file.
        callee: The expression that is called; None for an assignment.
    """

    name: str
    line: int
    callee: ast.expr | None


@dataclass(frozen=True, eq=False)
class Listing:
    """A function's operations, and the code that lets each of them be reached.

    Args:
        original: The code of the function as it is.
        lines: Its text, from the first decorator on.
        first_line: The number of the text's first line in the file.
        operations: In the order in which they are numbered.
        code: The function's code with a door at each operation.
        docstring: The numbers of its docstring's lines.
    """

    original: CodeType
    lines: tuple[str, ...]
    first_line: int
    operations: tuple[Named, ...]
    code: CodeType
    docstring: range = range(0)

    def with_doors(
        self, function: FunctionType, call: Callable[..., Any], put: Callable[[int, Any], Any]
    ) -> FunctionType:
        """A function like `function` whose operations go through `call` and `put`."""
        cells = dict(zip(self.original.co_freevars, function.__closure__ or (), strict=True))
        cells[_CALL], cells[_PUT], cells[_CLEAN] = CellType(call), CellType(put), CellType(_clean)
        closure = tuple(cells[name] for name in self.code.co_freevars)
        new = FunctionType(self.code, function.__globals__, function.__name__, function.__defaults__, closure)
        new.__kwdefaults__ = function.__kwdefaults__
        new.__qualname__ = function.__qualname__
        new.__module__ = function.__module__
        new.__dict__.update(function.__dict__)
        return new


def _clean(names: Any) -> Any:
    """What `locals()` and the like say of the function, without what we put into it."""
    if isinstance(names, dict) and _CLEAN in names:
        return {name: names[name] for name in names if name not in (_CALL, _PUT, _CLEAN)}
    if isinstance(names, list):
        return [name for name in names if name not in (_CALL, _PUT, _CLEAN)]
    return names


_known: ByIdentity[Listing] = ByIdentity()


def listing_of(function: FunctionType) -> Listing:
    """The operations of a function.

    Raises:
        SourceNotAvailable: its text cannot be had, or is not the text of this function.
    """
    code = function.__code__
    return _known.get(code) or _known.put(code, _read(function))


def _read(function: FunctionType) -> Listing:
    code = function.__code__
    try:
        lines, first = inspect.getsourcelines(code)
    except (OSError, TypeError):
        raise SourceNotAvailable(
            f"the text of `{function.__qualname__}` is not to be had: it was defined in "
            f"{code.co_filename}, which cannot be read. Define it in a file or a notebook cell."
        ) from None
    node = _definition(lines, first)
    if node is None:
        raise SourceNotAvailable(
            f"`{function.__qualname__}` ({code.co_filename}, line {first}) is not written as a "
            "`def`, so its operations have no lines of their own; write it as a `def`."
        )
    plain = _compile(copy.deepcopy(node), function)
    if not _is_text_of(plain, code):
        raise SourceNotAvailable(
            f"the text at line {first} of {code.co_filename} is no longer that of "
            f"`{function.__qualname__}`: the file was changed after it had been imported, or a tool "
            "rewrote the function. Import it again."
        )
    docstring = range(0)
    if ast.get_docstring(node, clean=False) is not None:
        docstring = range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    rewriter = _Rewriter()
    node.body = [rewriter.visit(statement) for statement in node.body]
    return Listing(
        original=code,
        lines=tuple(line.rstrip("\n") for line in lines),
        first_line=first,
        operations=tuple(rewriter.operations),
        code=_compile(node, function),
        docstring=docstring,
    )


def _definition(lines: list[str], first: int) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """The function's node, with the file's line numbers and columns."""
    text, shift = "".join(lines), first - 1
    if text[:1].isspace():
        text, shift = "if 1:\n" + text, shift - 1  # dedenting would change its strings
    tree = parse(text)
    if tree is None:
        return None
    ast.increment_lineno(tree, shift)
    node: Any = tree.body[0]
    if isinstance(node, ast.If):
        node = node.body[0]
    return node if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) else None


def _compile(node: ast.FunctionDef | ast.AsyncFunctionDef, function: FunctionType) -> CodeType:
    """The code of a definition as if it stood where `function` was defined."""
    original = function.__code__
    # What is evaluated when the `def` runs does not matter: only the body's code is used.
    node.name, node.decorator_list, node.returns = _BODY, [], None
    arguments = node.args
    arguments.defaults, arguments.kw_defaults = [], [None] * len(arguments.kwonlyargs)
    for argument in ast.walk(arguments):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    extra: dict[str, Any] = {}
    if hasattr(node, "type_params"):  # from Python 3.12
        node.type_params = []
        extra["type_params"] = []
    inner: list[ast.stmt] = [node]
    owner = _owner(function)
    if owner:
        # For private names and `super()`. Its own name must hide no global of the function's, and
        # leading underscores do not count in private names.
        inner = [ast.ClassDef("_" * 9 + owner, [], [], inner, [], **extra)]
    free = [_CALL, _PUT, _CLEAN, *original.co_freevars]
    bind = [ast.Assign([ast.Name(name, ast.Store())], ast.Constant(None)) for name in free]
    outer = ast.parse("def factory(): pass")
    outer.body[0].body = [*bind, *inner]  # type: ignore[attr-defined]
    for statement in bind:
        ast.copy_location(statement, node)
    ast.copy_location(inner[0], node)
    ast.fix_missing_locations(outer)
    code = compile(
        outer,
        original.co_filename,
        "exec",
        flags=original.co_flags & _FUTURE,
        dont_inherit=True,
    )
    for _ in range(3 if owner else 2):
        code = next(const for const in code.co_consts if isinstance(const, CodeType))
    names = {"co_name": original.co_name, "co_firstlineno": original.co_firstlineno}
    if hasattr(original, "co_qualname"):
        names["co_qualname"] = original.co_qualname
    return code.replace(**names)


def _owner(function: FunctionType) -> str:
    """The name of the class in whose body the function was written."""
    parts = function.__qualname__.split(".")
    for part, after in zip(parts[-2::-1], parts[:0:-1], strict=True):
        if "<locals>" not in (part, after):
            return part.lstrip("_")
    return ""


def _is_text_of(plain: CodeType, code: CodeType) -> bool:
    """Whether a text compiles to this code, as far as names tell (tools add some of their own)."""
    count = code.co_argcount + code.co_kwonlyargcount
    return (
        plain.co_argcount == code.co_argcount
        and plain.co_kwonlyargcount == code.co_kwonlyargcount
        and plain.co_varnames[:count] == code.co_varnames[:count]
        and set(plain.co_varnames) <= set(code.co_varnames)
        and set(plain.co_names) <= set(code.co_names)
        and set(plain.co_freevars) <= set(code.co_freevars)
    )


class _Rewriter(ast.NodeTransformer):
    """Gives each operation its number and its door."""

    def __init__(self) -> None:
        self.operations: list[Named] = []
        self._counts: Counter[str] = Counter()

    def _number(self, base: str, line: int, callee: ast.expr | None) -> ast.Constant:
        count = self._counts[base]
        self._counts[base] += 1
        self.operations.append(Named(f"{base}_{count}", line, callee))
        return ast.Constant(len(self.operations) - 1)

    # -- calls ---------------------------------------------------------------------------------

    def visit_Call(self, node: ast.Call) -> ast.expr:
        callee = node.func
        if isinstance(callee, ast.Name) and callee.id == "super" and not node.args:
            return node  # it finds its arguments in the frame that calls it
        name, written = _callee_name(callee), copy.deepcopy(callee)
        self.generic_visit(node)  # what is inside is computed first
        line = callee.end_lineno if isinstance(callee, ast.Attribute) else node.lineno
        number = self._number(name, line or node.lineno, written)
        if isinstance(callee, ast.Name) and callee.id in _FRAME_READERS:
            value: ast.expr = node
            if callee.id in _NAME_LISTS:
                value = ast.copy_location(ast.Call(ast.Name(_CLEAN, ast.Load()), [node], []), node)
            new = ast.Call(ast.Name(_PUT, ast.Load()), [number, value], [])
        else:
            door = ast.Name(_CALL, ast.Load())
            new = ast.Call(door, [number, node.func, *node.args], node.keywords)
        return ast.copy_location(new, node)

    # -- assignments ---------------------------------------------------------------------------

    def visit_Assign(self, node: ast.Assign) -> ast.Assign:
        node.value = self.visit(node.value)
        node.targets = [self.visit(target) for target in node.targets]
        if len(node.targets) == 1:
            node.value = self._put(node.targets[0], node.value, node.lineno)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        if node.value is not None:
            node.value = self.visit(node.value)
            node.target = self.visit(node.target)
            node.value = self._put(node.target, node.value, node.lineno)
        return node

    def _put(self, target: ast.expr, value: ast.expr, line: int) -> ast.expr:
        if _goes_item_by_item(target, value):
            assert isinstance(target, (ast.Tuple, ast.List))
            assert isinstance(value, (ast.Tuple, ast.List))
            pairs = zip(target.elts, value.elts, strict=True)
            value.elts = [self._put(*pair, line) for pair in pairs]
            return value
        base = _target_name(target)
        if base is None:
            return value
        number = self._number(base, line, None)
        new = ast.Call(ast.Name(_PUT, ast.Load()), [number, value], [])
        return ast.copy_location(new, value)

    # -- what is not evaluated where it stands ---------------------------------------------------

    def visit_arg(self, node: ast.arg) -> ast.arg:
        return node  # its annotation

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        returns, node.returns = node.returns, None
        self.generic_visit(node)
        node.returns = returns
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        returns, node.returns = node.returns, None
        self.generic_visit(node)
        node.returns = returns
        return node


def _dotted(node: ast.expr) -> tuple[str, list[str]]:
    """The name at the root of an expression ("" if it is another thing) and the attributes after."""
    attributes: list[str] = []
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        if isinstance(node, ast.Attribute):
            attributes.insert(0, node.attr)
        node = node.value
    return (node.id if isinstance(node, ast.Name) else ""), attributes


def _callee_name(callee: ast.expr) -> str:
    root, attributes = _dotted(callee)
    return "_".join([root, *attributes] if root else attributes) or "call"


def _target_name(target: ast.expr) -> str | None:
    root, attributes = _dotted(target)
    return "_".join([root, *attributes]) if root else None


def _goes_item_by_item(target: ast.expr, value: ast.expr) -> bool:
    """Whether `a, b = x, y` can be taken as two assignments."""
    return (
        isinstance(target, (ast.Tuple, ast.List))
        and isinstance(value, (ast.Tuple, ast.List))
        and len(target.elts) == len(value.elts)
        and not any(isinstance(item, ast.Starred) for item in (*target.elts, *value.elts))
    )
