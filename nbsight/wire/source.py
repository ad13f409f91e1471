"""The text of a block, cut out of its file and compiled again under the user's line numbers.

Where the user's file is at hand with the very same text, the code carries its name. Elsewhere the
text is registered with `linecache` under a name of its own, at the lines it had at home. Either way
tracebacks show the user's line, `tracer.invoke` blocks inside it can be captured, and functions
defined in it can travel on.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import linecache
import os
from collections import OrderedDict
from types import CodeType

from nbsight.core.capture import Block
from nbsight.errors import RemoteError

__all__ = [
    "block_text",
    "compile_text",
    "home_of",
    "parse_file",
    "parse_text",
    "register",
    "show",
    "stay_away",
]

#: Registered texts and the names they had at home, oldest first; a loop that sends one block many times
#: registers it once.
_registered: OrderedDict[str, str] = OrderedDict()
_KEPT = 512

#: Lines of a file, at most: those above a text are made up for `linecache`.
_LONGEST = 1_000_000

_looks_home = True


def stay_away() -> None:
    """Never look for a text in a file of its name: the names that strangers send are not ours to open."""
    global _looks_home
    _looks_home = False


def block_text(block: Block, lines: list[str] | None) -> tuple[str, int]:
    """A block's own lines and the number of the first.

    Args:
        block: The captured block.
        lines: The lines of the file that it stands in.
    """
    tree = parse_file("".join(lines)) if lines else None
    for node in ast.walk(tree) if tree is not None else ():
        if not isinstance(node, ast.With) or node.lineno != block.line:
            continue
        if "\n".join(ast.unparse(statement) for statement in node.body) == block.source:
            assert lines is not None
            return _cut(node, lines)
    # The file has changed since, or is no plain Python: the text without comments has to do.
    return block.source, block.line


def _cut(node: ast.With, lines: list[str]) -> tuple[str, int]:
    first = node.body[0]
    start = first.lineno
    for decorator in getattr(first, "decorator_list", ()):
        start = min(start, decorator.lineno)
    head = lines[start - 1].encode()[: first.col_offset].decode()
    wanted = lines[start - 1 : node.end_lineno]
    if start == first.lineno and head.strip():  # `with …: x = …` on one line
        wanted = [" " * first.col_offset + wanted[0][len(head) :], *wanted[1:]]
    return "".join(wanted), start


@functools.lru_cache(maxsize=32)
def parse_file(text: str) -> ast.Module | None:
    """A whole file; None where it is no plain Python."""
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):
        return None


def parse_text(source: str, line: int) -> ast.Module:
    """A block's text as a tree with the line numbers it had at home.

    Raises:
        RemoteError: it is not Python that this interpreter can read.
    """
    indented = source[:1] in " \t"
    try:
        tree = ast.parse("if 1:\n" + source if indented else source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise RemoteError(f"the block's text cannot be read as Python: {error}") from None
    if indented:
        outer = tree.body[0]
        assert isinstance(outer, ast.If)
        tree = ast.Module(outer.body, [])
    _check_line(line)
    ast.increment_lineno(tree, line - 1 - indented)
    return tree


def _check_line(line: int) -> None:
    if not 0 <= line <= _LONGEST:
        raise RemoteError(f"a text begins at line {line!r}; a file has at most {_LONGEST:,} lines.")


def register(source: str, line: int, filename: str) -> str:
    """Make a text known to `linecache` at its lines; returns the name it has there."""
    _check_line(line)
    if _looks_home and _is_at_home(source, line, filename):
        _keep(filename, filename)
        return filename
    digest = hashlib.sha256(f"{line}\0{filename}\0{source}".encode("utf-8", "surrogatepass")).hexdigest()
    name = f"<block {digest[:10]} of {os.path.basename(filename) or 'code'}>"
    _keep(name, filename)
    lines = ["\n"] * max(line - 1, 0) + source.splitlines(keepends=True)
    if source[:1] in " \t" and line > 1:
        lines[line - 2] = "if 1:\n"  # so that the whole can be parsed
    if not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    # Without a time stamp, `linecache.checkcache` leaves the entry alone.
    linecache.cache[name] = (sum(map(len, lines)), None, lines, name)
    return name


def _keep(name: str, home: str) -> None:
    _registered[name] = home
    _registered.move_to_end(name)
    while len(_registered) > _KEPT:
        linecache.cache.pop(_registered.popitem(last=False)[0], None)


def home_of(name: str) -> str | None:
    """The name that a text had where it came from; None for code that came with no block."""
    return _registered.get(name)


def _is_at_home(source: str, line: int, filename: str) -> bool:
    """Whether the user's own file is here and holds this text in its place."""
    wanted = source.splitlines()
    there = [text.rstrip("\n") for text in linecache.getlines(filename)[line - 1 : line - 1 + len(wanted)]]
    if wanted and there and wanted[0][:1] == " ":  # of a one-line block the head was blanked
        there[0] = there[0][-len(wanted[0].lstrip()) :].rjust(len(wanted[0]))
    return there == wanted


def compile_text(source: str, line: int, filename: str) -> CodeType:
    """Compile a block's text; it is registered under the name that its code carries."""
    return _compile(source, line, register(source, line, filename))


@functools.lru_cache(maxsize=256)
def _compile(source: str, line: int, filename: str) -> CodeType:
    tree = parse_text(source, line)
    try:
        return compile(tree, filename, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise RemoteError(f"the block's text cannot be compiled: {error}") from None


def show(source: str, line: int, at: int) -> str:
    """One line of a text, for a message: `line 7: x = y`."""
    lines = source.splitlines()
    place = at - line
    return f"line {at}: {lines[place].strip()}" if 0 <= place < len(lines) else f"line {at}"
