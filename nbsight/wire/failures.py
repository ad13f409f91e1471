"""An exception as a record and back: the error of a block that ran elsewhere, on the user's own line.

The receiver makes nothing of a record but an exception of a class on its own list, with text and
numbers for arguments. The lines of the traceback are made from file names and line numbers alone.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Mapping
from types import CodeType, TracebackType

from nbsight import errors
from nbsight.core.tracebacks import entries_of
from nbsight.wire.api import ErrorRecord, FrameRecord
from nbsight.wire.source import home_of

__all__ = ["exception_of", "record_of"]

#: Lines of a traceback that travel; a runaway recursion has thousands.
_FRAMES = 40
_TEXT = 20_000

#: Those of Python's own that say no more than their arguments.
_BUILTIN = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type)
    and issubclass(kind, Exception)
    and not issubclass(kind, (UnicodeError, Warning, StopIteration, StopAsyncIteration))
    and not name.endswith("Group")
}
_OURS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.NbsightError)
}


def record_of(error: BaseException, code: str = "block_failed", hint: str = "") -> ErrorRecord:
    """What travels of an exception; its lines are those of code that came with a block."""
    kind = next(
        (part.__name__ for part in type(error).__mro__ if _known(part.__name__) is part), "RemoteError"
    )
    message = str(error)[:_TEXT]
    if kind == "RemoteError" and not isinstance(error, errors.RemoteError):
        message = f"{type(error).__name__}: {message}" if message else type(error).__name__
    plain = all(type(arg) in (str, int, float, bool, type(None)) for arg in error.args)
    args = list(error.args) if plain and kind != "RemoteError" and len(message) < _TEXT else None
    if any(type(arg) is int and abs(arg) >= 2**63 for arg in args or ()):
        args = None
    return ErrorRecord(code, message, kind, args, _frames(error.__traceback__), hint)


def _known(name: str) -> type[Exception] | None:
    return _OURS.get(name) or _BUILTIN.get(name)


def _frames(trace: TracebackType | None) -> list[FrameRecord]:
    found = []
    for entry in entries_of(trace):
        code = entry.tb_frame.f_code
        home = home_of(code.co_filename)
        if home is not None:
            found.append(FrameRecord(home, entry.tb_lineno or 0, code.co_name))
    if len(found) > _FRAMES:
        found = [*found[: _FRAMES // 2], *found[-_FRAMES // 2 :]]
    return found


def exception_of(record: ErrorRecord, files: Mapping[str, str]) -> Exception:
    """The exception that a record tells of, with a traceback through the user's lines.

    Args:
        record: What arrived.
        files: The files of this side by the names that were sent for them.
    """
    kind = _known(record.kind) or errors.RemoteError
    message = "\n".join(filter(None, (record.message, record.hint)))
    try:
        error = kind(*record.args) if record.args is not None and not record.hint else kind(message)
    except Exception:  # arguments that this class does not take: whatever was sent, it is only shown
        error = errors.RemoteError(message)
    trace: TracebackType | None = None
    for frame in reversed(record.frames):
        if frame.filename in files and 0 < frame.line < 10**7:
            trace = _line(files[frame.filename], frame.line, frame.name, trace)
    return error.with_traceback(trace)


def _line(filename: str, line: int, name: str, inner: TracebackType | None) -> TracebackType:
    """A traceback's entry for a line of which only the number is known."""
    try:
        exec(_raiser(filename, line, name), {"__name__": "nbsight_block"})
    except ZeroDivisionError as stop:
        made = stop.__traceback__ and stop.__traceback__.tb_next
    if not made:
        raise AssertionError("0 / 0 left no traceback")
    return TracebackType(inner, made.tb_frame, made.tb_lasti, line)


def _raiser(filename: str, line: int, name: str) -> CodeType:
    tree = ast.parse("0 / 0")
    for node in ast.walk(tree):
        if isinstance(node, (ast.expr, ast.stmt)):
            node.lineno = node.end_lineno = line
            node.col_offset = node.end_col_offset = 0
    return compile(tree, filename, "exec", dont_inherit=True).replace(co_name=name)
