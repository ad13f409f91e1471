"""The interpreter: statements, functions of the user's, and the model's own `with` blocks."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from nbsight.core.capture import Block
from nbsight.core.invokes import Invoker
from nbsight.core.loops import Loop, Loops
from nbsight.core.model import Model
from nbsight.core.tracer import Tracer
from nbsight.errors import PathError, RemoteError
from nbsight.server.programs import surface
from nbsight.server.programs.expressions import ASSIGNED, IN_PLACE, Evaluator, Scope
from nbsight.server.programs.limits import OverBudget
from nbsight.server.programs.texts import text_of
from nbsight.server.programs.values import Function

__all__ = ["BODY", "Interpreter", "body_block"]

#: Functions that may stand in one another.
_DEEPEST = 60


class _Break(Exception):
    """`break`."""


class _Continue(Exception):
    """`continue`."""


class _Return(Exception):
    """`return`."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


class Interpreter(Evaluator):
    """Runs blocks."""

    def run(self, body: list[ast.stmt], scope: Scope) -> None:
        """Run statements."""
        for node in body:
            self.steps += 1
            _STATEMENTS[type(node)](self, node, scope)

    # -- plain statements ----------------------------------------------------------------------

    def _expression(self, node: ast.Expr, scope: Scope) -> None:
        self.value(node.value, scope)

    def _assign(self, node: ast.Assign, scope: Scope) -> None:
        value = self.value(node.value, scope)
        for target in node.targets:
            self.bind(target, value, scope)

    def _annotated(self, node: ast.AnnAssign, scope: Scope) -> None:
        if node.value is not None:
            self.bind(node.target, self.value(node.value, scope), scope)

    def _augment(self, node: ast.AugAssign, scope: Scope) -> None:
        kind, target = type(node.op).__name__, node.target
        if isinstance(target, ast.Name):
            old = self._name(target, scope)
            scope.names[target.id] = self.operate(
                kind, IN_PLACE, old, self.value(node.value, scope), node, scope
            )
            return
        owner = self.value(target.value, scope)
        if isinstance(target, ast.Attribute):
            old = self.attribute(owner, target.attr, node, scope)
            new = self.operate(kind, IN_PLACE, old, self.value(node.value, scope), node, scope)
            if not surface.settable(owner, target.attr):
                self.fail(node, scope, PathError(f"`.{target.attr}` is not assigned in a program."))
            self.do("set", node, scope, owner, target.attr, new)
            return
        key = self.value(target.slice, scope)
        self.need(owner, ASSIGNED, node, scope)
        self.check_key(owner, key, node, scope)
        old = self.do("item", node, scope, owner, key)
        new = self.operate(kind, IN_PLACE, old, self.value(node.value, scope), node, scope)
        self.do("set_item", node, scope, owner, key, new)

    def _delete(self, node: ast.Delete, scope: Scope) -> None:
        for target in node.targets:
            if isinstance(target, ast.Name):
                try:
                    del scope.names[target.id]
                except KeyError:
                    self.fail(node, scope, NameError(f"name {target.id!r} is not defined", name=target.id))
            elif isinstance(target, ast.Subscript):
                owner = self.value(target.value, scope)
                self.need(owner, (list, dict), node, scope)
                self.do("del_item", node, scope, owner, self.value(target.slice, scope))
            else:
                self.fail(node, scope, PathError("attributes are not deleted in a program."))

    def _assert(self, node: ast.Assert, scope: Scope) -> None:
        if not self.truth(node.test, scope):
            message = () if node.msg is None else (self.value(node.msg, scope),)
            self.fail(node, scope, AssertionError(*map(text_of, message)))

    def _import(self, node: ast.Import, scope: Scope) -> None:
        for alias in node.names:
            name = alias.name if alias.asname else alias.name.partition(".")[0]
            module = surface.MODULES.get(alias.name) and surface.MODULES.get(name)
            if module is None:
                self.fail(node, scope, ImportError(f"a program brings in no module {alias.name!r}."))
            scope.names[alias.asname or name] = module

    def _import_from(self, node: ast.ImportFrom, scope: Scope) -> None:
        module = surface.MODULES.get(node.module or "")
        for alias in node.names:
            if module is None or alias.name not in module.names:
                self.fail(node, scope, ImportError(f"a program brings in no {node.module}.{alias.name}."))
            else:
                scope.names[alias.asname or alias.name] = module.names[alias.name]

    # -- the ways through ----------------------------------------------------------------------

    def _if(self, node: ast.If, scope: Scope) -> None:
        self.run(node.body if self.truth(node.test, scope) else node.orelse, scope)

    def _while(self, node: ast.While, scope: Scope) -> None:
        while self.truth(node.test, scope):
            if self._breaks(node.body, scope):
                return
        self.run(node.orelse, scope)

    def _for(self, node: ast.For, scope: Scope) -> None:
        for item in self.each(self.value(node.iter, scope), node, scope):
            self.bind(node.target, item, scope)
            if self._breaks(node.body, scope):
                return
        self.run(node.orelse, scope)

    def _breaks(self, body: list[ast.stmt], scope: Scope) -> bool:
        """Run the body of a loop once; whether that ends the loop."""
        try:
            self.run(body, scope)
        except _Break:
            return True
        except _Continue:
            pass
        return False

    def _break(self, node: ast.Break, scope: Scope) -> None:
        raise _Break

    def _continue(self, node: ast.Continue, scope: Scope) -> None:
        raise _Continue

    def _return(self, node: ast.Return, scope: Scope) -> None:
        raise _Return(None if node.value is None else self.value(node.value, scope))

    # -- functions -----------------------------------------------------------------------------

    def _define(self, node: ast.FunctionDef, scope: Scope) -> None:
        scope.names[node.name] = self.function(node.name, node.args, node.body, scope)

    def call_function(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function of the user's."""
        if self.depth >= _DEEPEST:
            raise OverBudget(f"functions call one another more than {_DEEPEST} deep.")
        scope = Scope(_bound(function, args, kwargs), function.scope, function.scope.filename, function.name)
        self.depth += 1
        try:
            if isinstance(function.body, ast.expr):
                return self.value(function.body, scope)
            self.run(function.body, scope)
        except _Return as returned:
            return returned.value
        finally:
            self.depth -= 1
        return None

    # -- with ----------------------------------------------------------------------------------

    def _with(self, node: ast.With, scope: Scope, place: int = 0) -> None:
        if place == len(node.items):
            self.run(node.body, scope)
            return
        item = node.items[place]
        manager = self._manager(item.context_expr, scope)
        if isinstance(manager, Invoker):
            if place + 1 < len(node.items):
                self.fail(
                    node, scope, RemoteError("`tracer.invoke(...)` is the last of a `with` in a program.")
                )
            self._invoke(node, item.optional_vars, manager, scope)
        elif isinstance(manager, (Loop, Loops)):
            self._loop(node, item.optional_vars, manager, scope)
        elif isinstance(manager, surface.MANAGERS):
            self._managed(node, item.optional_vars, manager, scope, place)
        else:
            self.fail(node, scope, TypeError(f"a {type(manager).__name__} is not entered in a program."))

    def _manager(self, node: ast.expr, scope: Scope) -> Any:
        """What a `with` enters; `model.generate(...)` is a run here, and runs at once elsewhere."""
        call = node if isinstance(node, ast.Call) else None
        function = None if call is None else call.func
        if call is not None and isinstance(function, ast.Attribute) and function.attr == "generate":
            owner = self.value(function.value, scope)
            if isinstance(owner, Model):
                args, kwargs = self.arguments(call, scope)
                self.call(node, scope, surface.check_options, args, kwargs)
                return self.do("call", node, scope, Tracer, (owner, "generate", tuple(args), kwargs), {})
        return self.value(node, scope)

    def _managed(self, node: ast.With, target: Any, manager: Any, scope: Scope, place: int) -> None:
        handle = self.do("enter", node, scope, manager)
        if target is not None:
            self.bind(target, handle, scope)
        try:
            self._with(node, scope, place + 1)
        except (_Break, _Continue, _Return):
            self.do("leave", node, scope, manager, None, None, None)
            raise
        except BaseException as error:
            if not self.do("leave", node, scope, manager, type(error), error, error.__traceback__):
                raise
        else:
            self.do("leave", node, scope, manager, None, None, None)

    def _loop(self, node: ast.With, target: Any, loop: Any, scope: Scope) -> None:
        """`with tracer.iter[...] as step:`, which runs its body several times."""
        for step in self.each(loop, node, scope):
            if target is not None:
                self.bind(target, step, scope)
            self.run(node.body, scope)

    def _invoke(self, node: ast.With, target: Any, invoker: Invoker, scope: Scope) -> None:
        """The body waits until the whole batch is known; then a worker runs it, by this interpreter."""
        if target is not None and not isinstance(target, ast.Name):
            self.fail(node, scope, RemoteError("`tracer.invoke(...) as` is followed by one name."))
        name = None if target is None else target.id
        block, run = body_block(self, node.body, node.lineno, name, scope)
        values: dict[str, Any] = {BODY: run}
        for read in block.loads:
            try:
                values[read] = scope.find(read)
            except NameError:
                continue  # it is bound by then, or its line says that it is not
        self.call(node, scope, invoker.take, block, values, _frame_of(scope.names))


def body_block(
    interpreter: Interpreter,
    body: list[ast.stmt],
    line: int,
    target: str | None,
    scope: Scope,
    targets: tuple[str, ...] = (),
) -> tuple[Block, Callable[[Any], None]]:
    """A body as the core keeps one, and the function that stands in it under the name `BODY`.

    What the core executes is one fixed line of ours; it calls the interpreter.
    """
    stores, loads = _names(body)

    def run(names: Any) -> None:
        interpreter.run(body, Scope(names, None, scope.filename, scope.function))

    code = _CALLER.replace(co_filename=scope.filename, co_firstlineno=max(line, 1))
    block = Block(code, tuple(body), scope.filename, line, target, stores, loads, targets)
    return block, run


#: A name that no program can bind or read: it begins with two underscores.
BODY = "__nbsight_body__"
_CALLER = compile(f"{BODY}(locals())", "<body>", "exec")


def _names(body: list[ast.stmt]) -> tuple[frozenset[str], frozenset[str]]:
    """The names that a body binds, and those that it reads."""
    stores: set[str] = set()
    loads: set[str] = set()
    stack: list[tuple[ast.AST, bool]] = [(node, True) for node in body]
    while stack:
        node, binds = stack.pop()
        if isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Load):
                loads.add(node.id)
            elif binds:
                stores.add(node.id)
        elif isinstance(node, ast.FunctionDef) and binds:
            stores.add(node.name)
        elif isinstance(node, ast.alias) and binds:
            stores.add(node.asname or node.name.partition(".")[0])
        inner = isinstance(node, (ast.FunctionDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp))
        stack += [(child, binds and not inner) for child in ast.iter_child_nodes(node)]
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            loads.add(node.target.id)
    return frozenset(stores), frozenset(loads)


def _frame_of(names: Any) -> FrameType:
    """A frame whose variables are these: where the core binds what a body has bound."""
    found: list[FrameType] = []
    space = names if type(names) is dict else dict(names)
    space["__nbsight_here__"] = lambda: found.append(sys._getframe(1))
    exec(_HERE, space)
    del space["__nbsight_here__"], space["__builtins__"]  # no program is to come by them
    return found[0]


_HERE = compile("__nbsight_here__()", "<here>", "exec")


def _bound(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name."""
    given = function.parameters
    plain = [arg.arg for arg in (*given.posonlyargs, *given.args)]
    found: dict[str, Any] = dict(zip(plain, args, strict=False))
    rest = dict(kwargs)
    if len(args) > len(plain):
        if given.vararg is None:
            raise TypeError(f"{function.name}() takes {len(plain)} arguments and was given {len(args)}")
        found[given.vararg.arg] = tuple(args[len(plain) :])
    elif given.vararg is not None:
        found[given.vararg.arg] = ()
    for name in (*plain[len(given.posonlyargs) :], *(arg.arg for arg in given.kwonlyargs)):
        if name in rest:
            if name in found:
                raise TypeError(f"{function.name}() was given {name!r} twice")
            found[name] = rest.pop(name)
    defaults = dict(zip(plain[len(plain) - len(function.defaults) :], function.defaults, strict=True))
    found = {**defaults, **function.keyword_defaults, **found}
    if given.kwarg is not None:
        found[given.kwarg.arg] = rest
    elif rest:
        raise TypeError(f"{function.name}() has no argument {next(iter(rest))!r}")
    missing = [name for name in (*plain, *(arg.arg for arg in given.kwonlyargs)) if name not in found]
    if missing:
        raise TypeError(f"{function.name}() is missing {', '.join(missing)}")
    return found


_STATEMENTS: dict[type, Callable[[Interpreter, Any, Scope], None]] = {
    ast.Expr: Interpreter._expression,
    ast.Assign: Interpreter._assign,
    ast.AnnAssign: Interpreter._annotated,
    ast.AugAssign: Interpreter._augment,
    ast.Delete: Interpreter._delete,
    ast.Assert: Interpreter._assert,
    ast.Import: Interpreter._import,
    ast.ImportFrom: Interpreter._import_from,
    ast.If: Interpreter._if,
    ast.While: Interpreter._while,
    ast.For: Interpreter._for,
    ast.Break: Interpreter._break,
    ast.Continue: Interpreter._continue,
    ast.Return: Interpreter._return,
    ast.FunctionDef: Interpreter._define,
    ast.With: Interpreter._with,
    ast.Pass: lambda self, node, scope: None,
}
