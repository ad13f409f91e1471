"""MAGIC: find a `with` body, leave it without running it, and run it later.

What: `block_at(frame)` returns the body of the `with` statement that `frame` is entering as
compiled code; `skip_body(frame)` makes that frame jump over the body.

Why: a body has to wait where it cannot run yet: `tracer.invoke(...)` blocks wait until the whole
batch is known, edits are replayed in later runs, remote blocks are sent elsewhere. A plain trace
does none of this.

How: the text comes from `linecache` (or a finder that the notebook registers), sliced to the block
before it is parsed: parsing a whole file can take a tenth of a second. It is compiled with the
user's file name and line numbers, so tracebacks and breakpoints point at the user's lines. The
body is left by an exception that a trace function raises at the first instruction of the body and
that `__exit__` swallows; the trace function that was there before is put back at once.

What breaks it: no text (stdin, exec: the caller gets None and must do without), a file changed
since it was imported, a body with `return`, `yield` or `await` (a CaptureError says so).

Tested in `tests/core/test_capture.py`, on every Python we support.
"""

from __future__ import annotations

import ast
import dis
import linecache
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from types import CodeType, FrameType
from typing import Any

from nbsight.core.by_identity import ByIdentity
from nbsight.errors import CaptureError

__all__ = ["Block", "BodySkipped", "block_at", "finders", "lines_of", "parse", "skip_body"]

#: Functions (frame) -> lines | None, asked in turn when `linecache` has no text for a frame.
finders: list[Callable[[FrameType], list[str] | None]] = []

_FUTURE_FLAGS = 0
for _name in __import__("__future__").all_feature_names:
    _FUTURE_FLAGS |= getattr(__import__("__future__"), _name).compiler_flag


@dataclass(frozen=True, eq=False)
class Block:
    """A body that was captured.

    Args:
        code: Compiled with the user's file name and line numbers.
        body: Its statements.
        line: First line of the `with` statement.
        target: The name after `as`, if it is a plain name.
        targets: The names after `as`, also when they are several.
        stores: Names that the body binds.
        loads: Names that the body reads, also inside nested functions.
    """

    code: CodeType
    body: tuple[ast.stmt, ...]
    filename: str
    line: int
    target: str | None
    stores: frozenset[str]
    loads: frozenset[str]
    targets: tuple[str, ...] = ()

    @cached_property
    def source(self) -> str:
        """The body's text, dedented."""
        return "\n".join(map(ast.unparse, self.body))


class BodySkipped(BaseException):
    """Raised inside a captured body in the body's stead; never seen outside this package."""


# The blocks of each code object, by the place where they are entered.
_known: ByIdentity[dict[int, Block]] = ByIdentity()


def block_at(frame: FrameType, openers: frozenset[str] = frozenset()) -> Block | None:
    """The body of the `with` statement that `frame` is entering now; None when there is no text.

    Args:
        frame: The user's frame.
        openers: Names of the methods that may open the block.

    Raises:
        CaptureError: the body holds something that cannot wait.
    """
    code, place = frame.f_code, frame.f_lasti
    blocks = _known.get(code)
    if blocks is not None and place in blocks:
        return blocks[place]
    block = _find(frame, openers)
    if block is None:
        return None
    if blocks is None:
        blocks = _known.put(code, {})
    blocks[place] = block
    return block


def _find(frame: FrameType, openers: frozenset[str]) -> Block | None:
    lines = lines_of(frame)
    if not lines or frame.f_lineno > len(lines):
        return None
    node = _with_node(lines, frame)
    if node is None:
        return None
    return _compile(node, frame, openers)


def lines_of(frame: FrameType) -> list[str] | None:
    """The lines of the file or cell that a frame runs, if anybody has them."""
    lines: list[str] | None = linecache.getlines(frame.f_code.co_filename, frame.f_globals)
    for finder in finders if not lines else ():
        lines = finder(frame)
        if lines:
            break
    return lines or None


def _with_node(lines: list[str], frame: FrameType) -> ast.With | None:
    line, position = frame.f_lineno, _position(frame)
    for text in (_slice(lines, line), "".join(lines)):
        tree = None if text is None else parse(text)
        if tree is None:
            continue
        found = [node for node in _withs(tree.body) if _enters_at(node, line, position)]
        if found:
            # The innermost: a one-line outer block may begin on the same line.
            return max(found, key=lambda node: (node.lineno, node.col_offset))
    return None


def _withs(statements: list[Any]) -> Iterator[ast.With]:
    """All `with` statements among these statements and in them (not a walk over expressions)."""
    for node in statements:
        if isinstance(node, ast.With):
            yield node
        for name in _BODIES:
            inner = getattr(node, name, None)
            if inner:
                yield from _withs(inner)


#: Where statements, `except` clauses and `case` clauses keep what stands in them.
_BODIES = ("body", "orelse", "handlers", "finalbody", "cases")


def parse(text: str) -> ast.Module | None:
    """The syntax tree of a text; None when it is not Python."""
    for _ in range(20):
        try:
            return ast.parse(text)
        except SyntaxError:
            return None
        except SystemError:  # CPython's parser counts recursion for all threads together (gh-106905)
            continue
    return None


def _slice(lines: list[str], line: int) -> str | None:
    """The text of the block around `line`, moved down by empty lines to where it stands."""
    start = line - 1
    while start >= 0 and not lines[start].lstrip().startswith("with"):
        start -= 1
        if line - start > 40:
            return None
    if start < 0:
        return None
    indent = len(lines[start]) - len(lines[start].lstrip())
    end = line
    while end < len(lines):
        stripped = lines[end].strip()
        deeper = len(lines[end]) - len(lines[end].lstrip()) > indent
        if stripped and not deeper and not stripped.startswith(("#", ")", "]", "}")):
            break
        end += 1
    above = "\n" * start
    if indent:
        if not start:
            return None
        above = above[1:] + "if 1:\n"
    return above + "".join(lines[start:end])


def _enters_at(node: ast.With, line: int, position: tuple[int, int] | None) -> bool:
    end = max(item.context_expr.end_lineno or 0 for item in node.items)
    if not node.lineno <= line <= end:
        return False
    if position is None:
        return True
    # Up to 3.12 the instruction carries the place of the statement, later that of the expression.
    places: list[ast.stmt | ast.expr] = [node, *(item.context_expr for item in node.items)]
    return any((place.lineno, place.col_offset) == position for place in places)


def _position(frame: FrameType) -> tuple[int, int] | None:
    """Line and column of the expression the frame is entering (from Python 3.11)."""
    if sys.version_info < (3, 11):
        return None
    line, _, column, _ = next(islice(frame.f_code.co_positions(), frame.f_lasti // 2, None))
    return None if line is None or column is None else (line, column)


def _compile(node: ast.With, frame: FrameType, openers: frozenset[str]) -> Block:
    filename, caller = frame.f_code.co_filename, frame.f_code
    place = _own_item(node, frame, openers)
    body, rest = node.body, node.items[place + 1 :]
    if rest:  # what is entered after us belongs to the body
        body = [ast.copy_location(ast.With(items=rest, body=body), node)]
    code = _as_code(body, frame)
    if _must_adapt(code, caller):
        body = [_Adapt(caller).visit(statement) for statement in body]
        code = _as_code(body, frame)
    target = node.items[place].optional_vars
    stores, loads = _names(code)
    return Block(
        code=code,
        body=tuple(body),
        filename=filename,
        line=node.lineno,
        target=target.id if isinstance(target, ast.Name) else None,
        stores=frozenset(stores),
        loads=frozenset(loads),
        targets=tuple(name.id for name in getattr(target, "elts", [target]) if isinstance(name, ast.Name)),
    )


def _line(frame: FrameType, number: int | None) -> str:
    """A line of the code that `frame` runs, with its number."""
    lines = lines_of(frame)
    text = lines[number - 1].strip() if lines and number and number <= len(lines) else ""
    return f"line {number}: {text}" if text else f"line {number}"


def _as_code(body: list[ast.stmt], frame: FrameType) -> CodeType:
    module, caller = ast.Module(body=body, type_ignores=[]), frame.f_code
    flags = caller.co_flags & _FUTURE_FLAGS
    try:
        return compile(module, caller.co_filename, "exec", flags=flags, dont_inherit=True)
    except SyntaxError as error:
        raise CaptureError(
            f"{error.msg}:\n  {_line(frame, error.lineno)}\nThis block is kept and run later, so it cannot "
            "hold `return`, `yield`, `await`, or `break` and `continue` of a loop around it; "
            "move that statement out of the block."
        ) from None


def _own_item(node: ast.With, frame: FrameType, openers: frozenset[str]) -> int:
    """Which item of `with a, b, c:` is being entered: the one that captures."""
    position = _position(frame)
    for place, item in enumerate(node.items):
        call = item.context_expr
        if position == (call.lineno, call.col_offset):
            return place
    for place, item in enumerate(node.items):
        call = item.context_expr
        opener = (
            call.func.attr if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) else None
        )
        if opener in openers:
            return place
    return len(node.items) - 1


def _all_names(code: CodeType) -> set[str]:
    names = {*code.co_names, *code.co_varnames, *code.co_cellvars, *code.co_freevars}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _all_names(constant)
    return names


_ANNOTATES = dis.opmap["SETUP_ANNOTATIONS"]


def _must_adapt(code: CodeType, caller: CodeType) -> bool:
    """Whether a body would mean something else inside the function or class that it stands in."""
    if caller.co_flags & 0x2 and _ANNOTATES in code.co_code[::2]:
        return True
    return any(name.startswith("__") and not name.endswith("__") for name in _all_names(code))


class _Adapt(ast.NodeTransformer):
    """Make a body mean outside its function and class what it means inside."""

    def __init__(self, code: CodeType) -> None:
        self.known = _all_names(code)
        self.in_function = bool(code.co_flags & 0x2)

    def _mangle(self, name: str) -> str:
        if not name.startswith("__") or name.endswith("__"):
            return name
        # The frame's own code holds the body too, compiled inside its class: it knows the name.
        mangled = [known for known in self.known if known.startswith("_") and known.endswith(name)]
        return next((known for known in mangled if known != name), name)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        node.attr = self._mangle(node.attr)
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self._mangle(node.id)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        # Annotations of a function's variables are never evaluated.
        self.generic_visit(node)
        if not self.in_function:
            return node
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(ast.Assign(targets=[node.target], value=node.value), node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return node  # its own names are mangled by its own name


#: The instructions that read a name, and how many bits of their argument say something else.
_LOADS = {
    dis.opmap[name]: int(name == "LOAD_GLOBAL" and sys.version_info >= (3, 11))
    for name in ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS")
    if name in dis.opmap
}
_STORE_GLOBAL, _DELETE_NAME = dis.opmap["STORE_GLOBAL"], dis.opmap["DELETE_NAME"]
#: Those that bind one (or unbind it).
_STORES = frozenset({_STORE_GLOBAL, dis.opmap["STORE_NAME"], _DELETE_NAME})


def _names(code: CodeType, nested: bool = False) -> tuple[set[str], set[str]]:
    stores: set[str] = set()
    loads: set[str] = set()
    steps, names, above = code.co_code, code.co_names, 0
    for place in range(0, len(steps), 2):
        step = steps[place]
        if step == dis.EXTENDED_ARG:
            above = above | steps[place + 1] << 8
            continue
        number, above = above | steps[place + 1], 0
        if step in _LOADS:
            loads.add(names[number >> _LOADS[step]])
        elif step in _STORES and (not nested or step == _STORE_GLOBAL):
            stores.add(names[number])
            if step == _DELETE_NAME:  # it may be one from around the body
                loads.add(names[number])
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            more_stores, more_loads = _names(constant, nested=True)
            stores |= more_stores
            loads |= more_loads
    return stores, loads


#: The instructions with which a `with` statement enters what its expression gave.
_ENTRIES = frozenset(dis.opmap[name] for name in ("BEFORE_WITH", "SETUP_WITH") if name in dis.opmap)
_SKIPPED = frozenset({dis.EXTENDED_ARG, dis.opmap.get("CACHE", dis.EXTENDED_ARG)})


def enters_a_block(frame: FrameType) -> bool:
    """Whether the call that `frame` is making is the expression of a `with` statement."""
    steps = frame.f_code.co_code
    place = frame.f_lasti + 2
    while place < len(steps) and steps[place] in _SKIPPED:
        place += 2
    return place < len(steps) and steps[place] in _ENTRIES


def _look_away(frame: FrameType, event: str, argument: Any) -> None:
    """Traces nothing, but without a trace function of the thread a frame's is not called."""


class _Leaving:
    """A frame's trace function that leaves the body at its first instruction."""

    __slots__ = ("frame", "local", "opcodes", "outer")

    def __init__(self, frame: FrameType) -> None:
        self.frame = frame
        self.outer, self.local, self.opcodes = sys.gettrace(), frame.f_trace, frame.f_trace_opcodes

    def __call__(self, current: FrameType, event: str, argument: Any) -> Any:
        self.undo()
        raise BodySkipped

    def undo(self) -> None:
        """Put back what traced the frame before (needed twice: Python stops tracing after an error)."""
        self.frame.f_trace, self.frame.f_trace_opcodes = self.local, self.opcodes
        sys.settrace(self.outer)


def skip_body(frame: FrameType) -> Callable[[], None]:
    """Make `frame` leave the `with` body it is entering; returns what undoes the preparation.

    Call the undo in `__exit__`, which must swallow `BodySkipped`.
    """
    leaving = _Leaving(frame)
    sys.settrace(_look_away)
    frame.f_trace, frame.f_trace_opcodes = leaving, True
    return leaving.undo
