"""A decoded job, run on the core. Every place that runs blocks comes through here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from nbsight.core.backend import running_job
from nbsight.core.edits import Edit
from nbsight.core.envoy import Envoy
from nbsight.core.session import Session
from nbsight.core.tracer import Tracer
from nbsight.errors import RemoteError
from nbsight.wire.jobs import Program, decode_job
from nbsight.wire.results import Watch, encode_result

__all__ = ["answer", "run_program", "with_edits"]


def answer(header: bytes, blob: bytes, root: Any) -> tuple[bytes, bytes]:
    """Run an encoded job on the model here and return the encoded result.

    Args:
        header: The job.
        blob: Its tensors.
        root: The model's root envoy.

    Raises:
        RemoteError: the job is not well formed, or does not fit the model.
        Exception: whatever the block raises, with its traceback.
    """
    root._load()
    program = decode_job(header, blob, root)
    watch = Watch(program.objects, program.names)
    with with_edits(root, program.edits, program.aliases):
        bound, saved = run_program(program, root)
        return encode_result(root, bound, watch, saved)


@contextmanager
def with_edits(root: Any, edits: list[tuple[Edit, bool]], aliases: dict[str, str]) -> Iterator[None]:
    """Let the model have the kept edits and the other names that came along, and its own again afterwards.

    Args:
        edits: Edits, and whether each edits the model itself.
        aliases: Other names of modules, by path.
    """
    own = root.__dict__  # envoys write to the model, not to themselves
    if not edits and not aliases:
        yield
        return
    before = {name: own[name] for name in ("_edits", "_aliases") if name in own}
    copy = root._light_copy()
    try:
        for edit, inplace in edits:
            edit.owner = root if inplace else copy
        own["_edits"] = [edit for edit, _ in edits]
        if "_aliases" in before:
            own["_aliases"] = dict(aliases)
        yield
    finally:
        own.update(before)


def run_program(program: Program, root: Envoy) -> tuple[dict[str, Any], list[Any]]:
    """Run a block.

    Returns:
        The names it bound, and what it saved besides tensors.
    """
    __tracebackhide__ = True
    names, options = program.names, program.options
    scope: Any = Session(root) if program.kind == "session" else _tracer(program, root)  # type: ignore[arg-type]
    try:
        with running_job(), torch.set_grad_enabled(options.grad_enabled), scope as handle:
            if program.target is not None:
                names[program.target] = handle
            exec(program.code, names)
    except NameError as error:
        why = program.withheld.get(getattr(error, "name", None) or "")
        if why is None:
            raise
        raise RemoteError(why) from error
    # A name that was captured and not bound anew is what it was; sending it back changes nothing.
    bound = {name: names[name] for name in program.stores if name in names and name != program.target}
    saved = [value for value, record in scope.saved if record is None]
    return bound, saved


def _tracer(program: Program, root: Any) -> Tracer:
    kwargs = {**program.kwargs, "grad": program.options.grad, "finish": program.options.finish}
    return Tracer(root, program.method, tuple(program.args), kwargs)
