"""A block is run here on shapes before it is sent: its mistakes need not wait in a queue.

The model's forward is a scan: no weights, no numbers. Only mistakes that no number can change are
raised: a place that the model has passed or does not have, shapes and dtypes that do not fit, a
name that is nowhere. Whatever else happens ends the rehearsal silently, and the block is sent.

The block works on copies of what it takes along, prints nothing, and leaves torch's random numbers
as they were. A block that could do more than compute is not rehearsed (`wire.programs`), and neither
are generations, whose steps depend on numbers. A block is rehearsed once for its arguments' sizes.

It costs 10 to 16 ms for each block of layers, so where a server would begin at once the block is just
sent: its first mistake comes back sooner, and from the numbers themselves.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import logging
import re
import time
import warnings
from collections.abc import Iterator
from types import CodeType, TracebackType
from typing import Any
from weakref import WeakKeyDictionary

import torch

from nbsight.core.backend import Job, rehearsing
from nbsight.core.capture import Block
from nbsight.core.tracebacks import users_part
from nbsight.errors import EditError, NbsightError, OutOfOrderError, PathError
from nbsight.wire.api import ServerInfo
from nbsight.wire.execute import run_program, with_edits
from nbsight.wire.jobs import Parcel, Program, decode_job
from nbsight.wire.programs import why_no_program
from nbsight.wire.source import block_text, parse_text

__all__ = ["rehearse", "would_wait"]

#: Seconds that a rehearsal takes at most; it looks at the clock in each turn of a loop.
LIMIT = 1.0

#: Bytes of tensors that a block takes along, above which the copies are not worth it.
_MOST = 2**24

#: What torch says of shapes and dtypes that do not fit.
_WORDS = re.compile(
    r"\b(shapes?|sizes?|dimensions?|dims?|must match|broadcast\w*|mat1|mat2|out of (range|bounds)|dtypes?|"
    r"same type|scalar type|indices|expand\w*)\b",
    re.IGNORECASE,
)

#: What says that the mistake is ours: fake tensors and meta devices.
_OURS = re.compile(
    r"\b(fake|faketensor\w*|meta|device|unbacked|symint|data.dependent|subclass\w*)\b", re.IGNORECASE
)

_FINAL = (OutOfOrderError, PathError, EditError)

_SIMPLE = (NameError, AttributeError, IndexError, TypeError, KeyError)


class _Late(BaseException):
    """The rehearsal takes too long."""


def rehearse(job: Job, parcel: Parcel) -> None:
    """Run a block on shapes.

    Args:
        job: It.
        parcel: What is to be sent of it.

    Raises:
        Exception: a mistake that it would make wherever it runs, on the user's line.
    """
    __tracebackhide__ = True
    if job.method not in ("", "forward") or len(parcel.blob) > _MOST:
        return
    done = _done.setdefault(job.block, set())
    sizes = _sizes(job)
    if sizes in done or not _can_be(job):
        return
    done.add(sizes)
    try:
        program = decode_job(parcel.header, parcel.blob, job.model)
    except NbsightError:  # it is written for where it will run
        return
    _run(job, program)


def would_wait(info: ServerInfo, model: str) -> bool:
    """Whether a job would not be begun at once: its model is not ready, or others wait for it."""
    return not any(there.id == model and there.state == "ready" and not there.queued for there in info.models)


#: For which sizes of its arguments a block has been rehearsed.
_done: WeakKeyDictionary[Block, set[Any]] = WeakKeyDictionary()

#: Whether blocks do no more than compute.
_plain: WeakKeyDictionary[Block, bool] = WeakKeyDictionary()


def _sizes(job: Job) -> tuple[Any, ...]:
    values = (*job.args, *job.kwargs.values(), *job.values.values())
    return tuple(tuple(value.shape) if isinstance(value, torch.Tensor) else type(value) for value in values)


def _can_be(job: Job) -> bool:
    known = _plain.get(job.block)
    if known is None:
        source, line = block_text(job.block, job.lines)
        tree = parse_text(source, line)
        known = _plain[job.block] = why_no_program(tree, source, line) is None
    # What functions of the user's do is not looked at.
    return known and not any(_is_own_function(value) for value in job.values.values())


def _is_own_function(value: Any) -> bool:
    where = str(getattr(value, "__module__", "")).split(".")[0]
    own = hasattr(value, "__code__") or isinstance(value, type)
    return own and where not in ("torch", "math", "nbsight")


def _run(job: Job, program: Program) -> None:
    """Run it, and raise what is a mistake for sure."""
    __tracebackhide__ = True
    until = time.monotonic() + LIMIT

    def tick() -> None:
        if time.monotonic() > until:
            raise _Late

    names = program.names
    names["print"] = lambda *_, **__: None
    names["_nb_tick"] = tick
    watched = _watched(program.code, job)
    if watched is not None:
        program = dataclasses.replace(program, code=watched)
    failure: Exception | None = None
    try:
        with rehearsing(), _unnoticed(), with_edits(job.model, program.edits, program.aliases):
            run_program(program, job.model)
    except _Late:
        return
    except Exception as error:  # whatever is no sure mistake is left to where the block will run
        strict = job.model.strict_order or bool(job.kwargs.get("strict_order"))
        # Without it, a server may give what the model has passed in one more forward; a scan has none.
        late = isinstance(error, OutOfOrderError) and not strict
        failure = error if not late and _is_sure(error, program.code.co_filename) else None
    if isinstance(failure, AttributeError) and type(failure.obj).__name__ == "FakeTensor":
        failure = AttributeError(
            f"'Tensor' object has no attribute {failure.name!r}", name=failure.name
        ).with_traceback(failure.__traceback__)
    if failure is not None:
        raise failure.with_traceback(users_part(failure.__traceback__))


def _watched(code: CodeType, job: Job) -> CodeType | None:
    """The block's code, which looks at the clock in each turn of its loops."""
    source, line = block_text(job.block, job.lines)
    tree = parse_text(source, line)
    loops = [node for node in ast.walk(tree) if isinstance(node, (ast.For, ast.While))]
    if not loops:
        return None
    for loop in loops:
        call = ast.Expr(ast.Call(ast.Name("_nb_tick", ast.Load()), [], []))
        for node in ast.walk(call):
            if isinstance(node, (ast.expr, ast.stmt)):
                ast.copy_location(node, loop.body[0])
        loop.body.insert(0, call)
    return compile(tree, code.co_filename, "exec", dont_inherit=True)


#: torch's own report of what does not fit, at length and on stderr; the error says it too.
_torch_log = logging.getLogger("torch._subclasses.fake_tensor")


@contextlib.contextmanager
def _unnoticed() -> Iterator[None]:
    """Without warnings and reports, and with torch's random numbers as they were."""
    state, level = torch.get_rng_state(), _torch_log.level
    _torch_log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_rng_state(state)
        _torch_log.setLevel(level)


def _is_sure(error: Exception, filename: str) -> bool:
    """Whether an error will be made wherever the block runs."""
    if isinstance(error, AttributeError) and type(error.obj).__name__ == "FakeTensor":
        return not hasattr(torch.Tensor, str(error.name))
    seen: BaseException | None = error
    while seen is not None:
        module = type(seen).__module__
        if module.startswith(("torch._subclasses", "torch.fx")) or isinstance(seen, NotImplementedError):
            return False
        if not isinstance(seen, NbsightError) and _OURS.search(str(seen)):
            return False
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    if isinstance(error, _FINAL):
        return True
    if isinstance(error, NbsightError):
        return False
    if isinstance(error, _SIMPLE) and _last(error.__traceback__) == filename:
        return True
    return isinstance(error, (RuntimeError, IndexError)) and _WORDS.search(str(error)) is not None


def _last(trace: TracebackType | None) -> str:
    """The file of the innermost line of a traceback."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else trace.tb_frame.f_code.co_filename
