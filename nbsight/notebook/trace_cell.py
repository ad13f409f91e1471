"""The cell of `%%trace model "prompt"`, as the `with` statement that it stands for.

The statement is compiled under the name of a cell of its own, whose text is exactly the program that
runs. So tracebacks show the user's lines, and blocks whose text has to be captured (invokes) find it.
"""

from __future__ import annotations

import ast
import io
import tokenize
from types import CodeType
from typing import Any

__all__ = ["LAST", "indented", "trace_cell"]

#: Where the value of the cell's last expression is left.
LAST = "_nbsight_last"

STARTS = {"FSTRING_START", "TSTRING_START"}
ENDS = {"FSTRING_END", "TSTRING_END"}


def indented(text: str, by: str = "    ") -> str:
    """A program moved to the right, without a change to strings that go over several lines."""
    inside: set[int] = set()
    starts: list[int] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = tokenize.tok_name[token.type]
        if kind == "STRING":
            inside.update(range(token.start[0] + 1, token.end[0] + 1))
        elif kind in STARTS:
            starts.append(token.start[0])
        elif kind in ENDS:
            inside.update(range(starts.pop() + 1, token.end[0] + 1))
    lines = text.splitlines(keepends=True)
    return "".join(
        line if number in inside or not line.strip() else by + line for number, line in enumerate(lines, 1)
    )


def trace_cell(ip: Any, opening: str, body: str) -> tuple[CodeType, bool]:
    """Compile a body under an opening line such as `with model.trace("x") as tracer:`.

    Args:
        ip: The shell, which compiles and remembers the text.
        opening: The line of the `with` statement.
        body: The cell's text, in which `!` and `%` mean what they mean in any cell.

    Returns:
        The code, and whether the cell ends in an expression, whose value is then left in `LAST`.

    Raises:
        SyntaxError: the body is no program.
    """
    body = ip.transform_cell(body)
    compile(body, "<cell>", "exec", 0)  # an error here names the line of the cell
    text = f"{opening}\n{indented(body)}"
    filename = ip.compile.cache(text, getattr(ip, "execution_count", 0))
    tree = ast.parse(text, filename)
    block = tree.body[0]
    assert isinstance(block, ast.With)
    last = block.body[-1]
    is_expression = isinstance(last, ast.Expr) and not text.rstrip().endswith(";")
    if is_expression and isinstance(last, ast.Expr):
        assign = ast.Assign([ast.Name(LAST, ast.Store())], last.value)
        block.body[-1] = ast.copy_location(ast.fix_missing_locations(ast.copy_location(assign, last)), last)
        ast.fix_missing_locations(tree)
    return compile(tree, filename, "exec"), is_expression
