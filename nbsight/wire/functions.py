"""Functions of the user's: they travel as source, with the values that they read.

The source is the function's own lines. Decorators, annotations and default expressions were
evaluated where the function was defined, so they are not evaluated again: defaults travel as
values, and decorators only where the object itself is the decorated one (`functools.wraps` says
so), as in `@torch.no_grad()`.
"""

from __future__ import annotations

import ast
import builtins
import copy
import dis
import inspect
import linecache
import site
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

from nbsight.wire.source import parse_file, parse_text, register

__all__ = [
    "FunctionText",
    "NoSource",
    "build",
    "decorator_names",
    "describe",
    "free_values",
    "global_names",
    "innermost",
    "lookups",
]

_MAKER = "_nbsight_maker"


class NoSource(ValueError):
    """A function whose source cannot be had or used; the message says why and what to do."""


@dataclass(frozen=True)
class FunctionText:
    """The source of a function: lines of a `def`, or the expression of a `lambda`."""

    source: str
    filename: str
    line: int
    name: str
    decorated: bool
    free: tuple[str, ...]


def innermost(function: Any) -> FunctionType | None:
    """The plain function under a function's decorators; None if there is none."""
    try:
        plain = inspect.unwrap(function)
    except ValueError:
        return None
    return plain if isinstance(plain, FunctionType) else None


def describe(function: Any) -> FunctionText:
    """The source of a function.

    Raises:
        NoSource: it cannot be had or used.
    """
    plain = innermost(function)
    assert plain is not None
    code, decorated = plain.__code__, plain is not function
    if _is_installed(code.co_filename):
        package = (plain.__module__ or "?").split(".")[0]
        raise NoSource(
            f"belongs to the installed package `{package}`; import it inside the block, where the model runs"
        )
    if "__class__" in code.co_freevars:
        raise NoSource("uses `super()` or `__class__`; write a function that does not")
    lines = linecache.getlines(code.co_filename, plain.__globals__)
    tree = parse_file("".join(lines)) if lines else None
    node = _node(tree, code) if tree is not None else None
    if node is None:
        raise NoSource("has no source that could be sent; define it in a cell or a file")
    if isinstance(node, ast.Lambda):
        source = ast.get_source_segment("".join(lines), node) or ""
        return FunctionText(source, code.co_filename, node.lineno, "<lambda>", False, code.co_freevars)
    if decorated and not node.decorator_list:
        raise NoSource("was wrapped by code; decorate it with `@` where it is defined")
    source = "".join(lines[code.co_firstlineno - 1 : node.end_lineno])
    return FunctionText(source, code.co_filename, code.co_firstlineno, node.name, decorated, code.co_freevars)


def _is_installed(filename: str) -> bool:
    places = [sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")]
    places.append(site.getusersitepackages())
    return filename.startswith("<frozen") or any(filename.startswith(place) for place in places if place)


def _node(tree: ast.Module, code: CodeType) -> ast.FunctionDef | ast.Lambda | None:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
            first = min([node.lineno, *(item.lineno for item in node.decorator_list)])
            if first == code.co_firstlineno:
                return node
        if isinstance(node, ast.Lambda) and node.lineno == code.co_firstlineno and _same(node, code):
            return node
    return None


def _same(node: ast.Lambda, code: CodeType) -> bool:
    """Whether a lambda of this line is the one; two that do the same need not be told apart."""
    made = _first_code(_made_by(ast.Expr(node), code.co_freevars, node), "<lambda>")
    return made is not None and made.co_name == code.co_name and _essence(made) == _essence(code)


def _essence(code: CodeType) -> Any:
    constants = [_essence(c) if isinstance(c, CodeType) else (type(c), c) for c in code.co_consts]
    return code.co_code, code.co_names, code.co_varnames, code.co_freevars, constants


def _first_code(code: CodeType, name: str) -> CodeType | None:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_name == name:
                return constant
            found = _first_code(constant, name)
            if found is not None:
                return found
    return None


def _made_by(last: ast.stmt, free: tuple[str, ...], place: ast.AST, filename: str = "<lambda>") -> CodeType:
    """Code that defines a maker, whose arguments are the free names of what it returns."""
    maker = ast.parse(f"def {_MAKER}({', '.join(free)}): pass").body[0]
    assert isinstance(maker, ast.FunctionDef)
    maker.body = [last]
    tree = ast.Module([maker], [])
    return compile(ast.fix_missing_locations(tree), filename, "exec", dont_inherit=True)


def global_names(function: Any) -> set[str]:
    """The names that a function, or one defined in it, looks up in its globals."""
    plain = innermost(function)
    assert plain is not None
    return lookups(plain.__code__)


def decorator_names(text: FunctionText) -> set[str]:
    """The names in the decorators that travel with a function."""
    if not text.decorated:
        return set()
    node: Any = parse_text(text.source, text.line).body[0]
    return {
        child.id
        for decorator in node.decorator_list
        for child in ast.walk(decorator)
        if isinstance(child, ast.Name)
    }


def lookups(code: CodeType) -> set[str]:
    """The names that code, or a function in it, looks up in its globals."""
    names = {
        step.argval
        for step in dis.get_instructions(code)
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
    }
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= lookups(constant)
    return names


def free_values(function: Any) -> dict[str, Any]:
    """What the names that a function took from the function around it mean (those that have a meaning)."""
    plain = innermost(function)
    assert plain is not None
    values = {}
    for name, cell in zip(plain.__code__.co_freevars, plain.__closure__ or (), strict=False):
        try:
            values[name] = cell.cell_contents
        except ValueError:  # not bound yet
            continue
    return values


def build(text: FunctionText, space: dict[str, Any]) -> Callable[..., Any]:
    """Make a function from its source; its defaults and free names are set afterwards.

    Args:
        text: The source.
        space: The globals it is to have.

    Raises:
        RemoteError: the source cannot be read.
    """
    space.setdefault("__builtins__", builtins)
    name = register(text.source, text.line, text.filename)
    inner: Any
    if text.name == "<lambda>":
        node: Any = parse_text(f"({text.source}\n)", text.line).body[0]
        inner = node.value
        body = [ast.copy_location(ast.Return(inner), node)]
    else:
        inner = copy.deepcopy(parse_text(text.source, text.line).body[0])
        if not text.decorated:
            inner.decorator_list = []
        inner.returns = None
        body = [inner, ast.copy_location(ast.Return(ast.Name(inner.name, ast.Load())), inner)]
    _strip(inner.args)
    maker: Any = ast.parse(f"def {_MAKER}({', '.join(text.free)}): pass").body[0]
    maker.body = body
    tree = ast.fix_missing_locations(ast.Module([maker], []))
    local: dict[str, Any] = {}
    exec(compile(tree, name, "exec", dont_inherit=True), space, local)
    made: Callable[..., Any] = local[_MAKER](*[None] * len(text.free))
    return made


def _strip(arguments: ast.arguments) -> None:
    """Defaults become None, so that none is evaluated; annotations go."""
    none = ast.Constant(None)
    arguments.defaults = [ast.copy_location(copy.copy(none), old) for old in arguments.defaults]
    arguments.kw_defaults = [
        None if old is None else ast.copy_location(copy.copy(none), old) for old in arguments.kw_defaults
    ]
    for argument in ast.walk(arguments):
        if isinstance(argument, ast.arg):
            argument.annotation = None
