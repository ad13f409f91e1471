"""Whether a block is a program: what a server of the `program` tier interprets.

A look at the text alone, so that who sends a block learns before sending it what such a server does
not take. The server looks again, and what only shows while the block runs it refuses then.
"""

from __future__ import annotations

import ast

from nbsight.wire.source import show

__all__ = ["why_no_program"]

_TAKEN: tuple[type[ast.AST], ...] = (
    *(ast.Expr, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.For, ast.While, ast.If, ast.With, ast.Pass),
    *(
        ast.Break,
        ast.Continue,
        ast.Delete,
        ast.Assert,
        ast.FunctionDef,
        ast.Return,
        ast.Import,
        ast.ImportFrom,
    ),
    *(ast.Constant, ast.Name, ast.Tuple, ast.List, ast.Set, ast.Dict, ast.Starred, ast.BinOp, ast.UnaryOp),
    *(ast.BoolOp, ast.Compare, ast.Call, ast.IfExp, ast.Attribute, ast.Subscript, ast.Slice, ast.NamedExpr),
    *(
        ast.ListComp,
        ast.SetComp,
        ast.DictComp,
        ast.GeneratorExp,
        ast.Lambda,
        ast.JoinedStr,
        ast.FormattedValue,
    ),
    *(ast.arguments, ast.arg, ast.keyword, ast.comprehension, ast.withitem, ast.alias, ast.Module),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context),
)

_NAMES = {
    ast.ClassDef: "a class",
    ast.Try: "`try`",
    ast.Raise: "`raise`",
    ast.Global: "`global`",
    ast.Nonlocal: "`nonlocal`",
    ast.Yield: "`yield`",
    ast.YieldFrom: "`yield`",
    ast.Await: "`await`",
    ast.Match: "`match`",
}

#: Modules of which a program may bring some functions.
MODULES = frozenset({"torch", "torch.nn", "torch.nn.functional", "math", "nbsight"})

#: Nodes of a block, and how deep they stand, at most.
_NODES = 20_000

#: Bits of a number that is written out.
_BITS = 4096
_DEPTH = 100


def why_no_program(tree: ast.Module, source: str, line: int) -> str | None:
    """Why a block is no program; None if, as far as its text says, it is one.

    Args:
        tree: The block.
        source: Its text.
        line: The number of its first line.
    """
    stack: list[tuple[ast.AST, int]] = [(tree, 0)]
    seen = 0
    while stack:
        node, depth = stack.pop()
        seen += 1
        if seen > _NODES or depth > _DEPTH:
            return f"it has more than {_NODES:,} parts, or is nested more than {_DEPTH} deep."
        why = _why(node)
        if why is not None:
            at = getattr(node, "lineno", line)
            return f"{why}\n  {show(source, line, at)}"
        stack += [(child, depth + 1) for child in ast.iter_child_nodes(node)]
    return None


def _names_of(node: ast.AST) -> list[str]:
    """The names that a node binds or reads."""
    fields = {
        ast.Name: "id",
        ast.arg: "arg",
        ast.keyword: "arg",
        ast.FunctionDef: "name",
        ast.alias: "asname",
    }
    name = getattr(node, fields.get(type(node), ""), None)
    return [] if name is None else [name]


def _why(node: ast.AST) -> str | None:
    if not isinstance(node, _TAKEN):
        return f"{_NAMES.get(type(node), type(node).__name__)} is not part of what it takes."
    if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
        return f"`.{node.attr}` begins with an underscore; such attributes are not read."
    for name in _names_of(node):
        if name.startswith("__"):
            return f"`{name}` begins with two underscores; such names are not used."
    if isinstance(node, ast.Constant) and type(node.value) is int and node.value.bit_length() > _BITS:
        return f"a number of {node.value.bit_length():,} bits; {_BITS:,} are the most."
    if isinstance(node, ast.Import):
        wrong = [alias.name for alias in node.names if alias.name not in MODULES]
        return f"the module {wrong[0]!r} is not brought in." if wrong else None
    if isinstance(node, ast.ImportFrom) and (node.level or node.module not in MODULES):
        return f"the module {node.module!r} is not brought in."
    if isinstance(node, ast.comprehension) and node.is_async:
        return "`async` is not part of what it takes."
    if isinstance(node, ast.FunctionDef) and node.decorator_list:
        return "decorators are not part of what it takes."
    return None
