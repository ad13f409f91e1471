"""Which names a block needs from outside.

A name that the block certainly binds before it reads it is the block's own. What an earlier run of
the cell left under such a name must not travel: it may be large, or of a kind that cannot.
"""

from __future__ import annotations

import ast
from types import CodeType
from typing import Any

from nbsight.wire.functions import lookups

__all__ = ["needed_names"]


def needed_names(tree: ast.Module) -> dict[str, int]:
    """Names that may be read before they are bound, with the line of the first such read.

    Names of Python's own are left in: the user may have given them another meaning.
    """
    walk = _Walk()
    walk.statements(tree.body)
    return walk.needed


_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class _Walk:
    """Goes through statements in order and keeps the names that are bound by then."""

    def __init__(self) -> None:
        self.bound: set[str] = set()
        self.needed: dict[str, int] = {}

    def statements(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self.statement(statement)

    def statement(self, node: ast.stmt) -> None:
        if isinstance(node, (ast.If, ast.While)):
            self.expression(node.test)
            self.branches([node.body, node.orelse], loop=isinstance(node, ast.While))
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            self.expression(node.iter)
            self.branches([[_assignment(node.target), *node.body], node.orelse], loop=True)
        elif isinstance(node, (ast.With, ast.AsyncWith)):
            for item in node.items:
                self.expression(item.context_expr)
                if item.optional_vars is not None:
                    self.bind(item.optional_vars)
            self.statements(node.body)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            self.definition(node)
        elif isinstance(node, ast.AugAssign):
            self.expression(node.value)
            if isinstance(node.target, ast.Name):
                self.read(node.target.id, node.lineno)
            self.bind(node.target)
        elif isinstance(node, ast.Assign):
            self.expression(node.value)
            for target in node.targets:
                self.bind(target)
        elif isinstance(node, ast.AnnAssign):
            if node.value is not None:
                self.expression(node.value)
                self.bind(node.target)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            self.bound |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Delete):
            for target in node.targets:
                self.expression(target)
                if isinstance(target, ast.Name):
                    self.bound.discard(target.id)
        elif isinstance(node, (ast.Expr, ast.Return, ast.Raise, ast.Assert)):
            for child in ast.iter_child_nodes(node):
                self.expression(child)
        elif isinstance(node, ast.Match):
            self.expression(node.subject)
            for case in node.cases:
                self.case(case)
        elif hasattr(node, "handlers"):  # Try, and TryStar where there is one
            self.attempt(node)
        # What is left (pass, break, global …) reads no names.

    def branches(self, bodies: list[list[ast.stmt]], *, loop: bool) -> None:
        before, after = set(self.bound), []
        for body in bodies:
            self.bound = set(before)
            self.statements(body)
            after.append(self.bound)
        self.bound = before if loop else set.intersection(*after)

    def attempt(self, node: Any) -> None:
        before = set(self.bound)
        self.statements([*node.body, *node.orelse])
        ways = [self.bound]
        for handler in node.handlers:
            # It may have been reached from the first statement of the body.
            self.bound = before | ({handler.name} if handler.name else set())
            if handler.type is not None:
                self.expression(handler.type)
            self.statements(handler.body)
            ways.append(self.bound)
        self.bound = set(before)
        self.statements(node.finalbody)
        self.bound |= set.intersection(*ways)

    def case(self, node: ast.match_case) -> None:
        before = set(self.bound)
        for child in ast.walk(node.pattern):
            for name in (getattr(child, "name", None), getattr(child, "rest", None)):
                if isinstance(name, str):
                    self.bound.add(name)
            if isinstance(child, ast.expr):
                self.expression(child)
        if node.guard is not None:
            self.expression(node.guard)
        self.statements(node.body)
        self.bound = before

    def definition(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        for decorator in node.decorator_list:
            self.expression(decorator)
        if isinstance(node, ast.ClassDef):
            for child in (*node.bases, *node.keywords):
                self.expression(child)
            inner = _Walk()
            inner.bound = set(self.bound)
            inner.statements(node.body)
            for name, line in inner.needed.items():
                self.read(name, line)
            # The names of a class are not those that its methods see.
            code = compile(ast.Module([node], []), "<block>", "exec", dont_inherit=True)
            for own in (part for part in code.co_consts if isinstance(part, CodeType)):
                self.reads_of(own, node)
        else:
            self.function(node)
        self.bound.add(node.name)

    def function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        for default in (*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)):
            self.expression(default)
        statement = ast.copy_location(ast.Expr(node), node) if isinstance(node, ast.Lambda) else node
        code = compile(ast.Module([statement], []), "<block>", "exec", dont_inherit=True)
        self.reads_of(code, node)

    def reads_of(self, code: CodeType, node: ast.stmt | ast.Lambda) -> None:
        """What the functions in a piece of code look up; their own name is bound when they are called."""
        names = {name for part in code.co_consts if isinstance(part, CodeType) for name in lookups(part)}
        for name in sorted(names - {getattr(node, "name", "")}):
            self.read(name, node.lineno)

    def expression(self, node: ast.AST) -> None:
        if isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Store):
                self.read(node.id, node.lineno)
        elif isinstance(node, ast.Lambda):
            self.function(node)
        elif isinstance(node, ast.NamedExpr):
            self.expression(node.value)
            self.bind(node.target)
        elif isinstance(node, _COMPREHENSIONS):
            self.comprehension(node)
        elif isinstance(node, (ast.BoolOp, ast.IfExp)):
            # A `:=` in a part that may not run binds nothing for certain.
            first = node.values[0] if isinstance(node, ast.BoolOp) else node.test
            self.expression(first)
            before = set(self.bound)
            for child in ast.iter_child_nodes(node):
                if child is not first:
                    self.expression(child)
                    self.bound = set(before)
        else:
            for child in ast.iter_child_nodes(node):
                self.expression(child)

    def comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        before = set(self.bound)
        for generator in node.generators:
            self.expression(generator.iter)
            self.bind(generator.target)
            for condition in generator.ifs:
                self.expression(condition)
        results = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        for result in results:
            self.expression(result)
        self.bound = before

    def bind(self, target: ast.AST) -> None:
        for child in ast.walk(target):
            if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Load):
                self.read(child.id, child.lineno)  # `rows[i] = …` reads both
        for child in ast.walk(target):
            if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
                self.bound.add(child.id)

    def read(self, name: str, line: int) -> None:
        if name not in self.bound:
            self.needed.setdefault(name, line)


def _assignment(target: ast.expr) -> ast.stmt:
    value = ast.copy_location(ast.Constant(None), target)
    return ast.copy_location(ast.Assign([target], value), target)
