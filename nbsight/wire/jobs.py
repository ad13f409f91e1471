"""A `core.backend.Job` to bytes and back."""

from __future__ import annotations

import functools
import hashlib
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from types import CodeType
from typing import Any

import torch
from torch import nn

from nbsight.core.backend import Job
from nbsight.core.envoy import Envoy
from nbsight.errors import RemoteError
from nbsight.wire import messages
from nbsight.wire.decode import Decoder
from nbsight.wire.encode import Encoder, Unsendable
from nbsight.wire.reads import needed_names
from nbsight.wire.source import block_text, compile_text, parse_text, show
from nbsight.wire.tensors import TensorReader

__all__ = ["Program", "decode_job", "encode_job", "fingerprint"]


@dataclass(frozen=True)
class Program:
    """A job as it stands where it runs.

    Args:
        kind: "trace" or "session".
        method: The traced method.
        args: The arguments of the trace.
        kwargs: Its keyword arguments.
        code: The block, compiled under the user's line numbers.
        names: The namespace it runs in, with its captures.
        stores: The names it binds.
        target: The name after `as`.
        options: What holds for the whole job.
        withheld: Names that could not travel, and why.
        objects: The captured objects by number; what changes of them goes back.
    """

    kind: str
    method: str
    args: list[Any]
    kwargs: dict[str, Any]
    code: CodeType
    names: dict[str, Any]
    stores: list[str]
    target: str | None
    options: messages.Options
    withheld: dict[str, str]
    objects: dict[int, Any]


def encode_job(job: Job) -> tuple[bytes, bytes, dict[int, Any]]:
    """A job as header and blob.

    Returns:
        The header, the blob, and the objects that were sent, by number: the result speaks of them.

    Raises:
        RemoteError: something that the block reads, or an argument, does not travel; it says which,
            on what line, and what to write.
    """
    __tracebackhide__ = True  # IPython leaves this frame out
    source, line = block_text(job.block, job.lines)
    tree = parse_text(source, line)
    encoder = Encoder(job.model, job.globals)
    captures: dict[str, Any] = {}
    withheld: dict[str, str] = {}
    for name, at in needed_names(tree).items():
        if name not in job.values or name == job.target:
            continue
        try:
            captures[name] = encoder.attempt(job.values[name], name)
        except Unsendable as problem:
            if name not in job.block.stores:
                raise RemoteError(_refusal(problem, show(source, line, at))) from None
            # Perhaps only what an earlier run left behind; it is missed if it is read.
            withheld[name] = _refusal(problem, show(source, line, at))
    args, kwargs = _arguments(job, encoder)
    tensors, blob = encoder.tensors.finish()
    header = messages.JobHeader(
        protocol=messages.PROTOCOL,
        client=_client(),
        model=_model_ref(job.model),
        kind="session" if job.kind == "session" else "trace",
        method=job.method,
        program=messages.BlockText(source, job.block.filename, line, sorted(job.block.stores), job.target),
        args=args,
        kwargs=kwargs,
        captures=captures,
        tensors=tensors,
        spaces=encoder.spaces,
        withheld=withheld,
        options=messages.Options(job.grad, job.finish, torch.is_grad_enabled()),
    )
    return messages.pack(header), blob, encoder.objects


def _arguments(job: Job, encoder: Encoder) -> tuple[list[Any], dict[str, Any]]:
    try:
        args = [
            encoder.encode(value, f"argument {place + 1} of the {job.kind}")
            for place, value in enumerate(job.args)
        ]
        kwargs = {
            name: encoder.encode(value, f"argument `{name}` of the {job.kind}")
            for name, value in job.kwargs.items()
        }
    except Unsendable as problem:
        raise RemoteError(_refusal(problem, f"line {job.block.line}")) from None
    return args, kwargs


def _refusal(problem: Unsendable, line: str) -> str:
    place = problem.place if {" ", "`"} & set(problem.place) else f"`{problem.place}`"
    kind = type(problem.value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    why = problem.why[0].upper() + problem.why[1:]
    return f"{place} ({name}) cannot travel to where the block runs.\n  {line}\n{why}."


def decode_job(
    header: bytes,
    blob: bytes,
    root: Envoy,
    place: Callable[[str], torch.device] = torch.device,
) -> Program:
    """A job as it stands where it runs; functions of the user's are made from their source.

    Args:
        header: The message.
        blob: Its tensors.
        root: The model here.
        place: The device for a tensor that was on the device of that name.

    Raises:
        RemoteError: the message is not well formed, or is about another model.
    """
    job = messages.unpack(header, messages.JobHeader)
    here = fingerprint(root._module)
    if job.model.tree != here:
        raise RemoteError(
            f"the block was written for {job.model.id} ({job.model.tree[:12]}) and the model here is "
            f"{_model_ref(root).id} ({here[:12]}): their modules differ. Load the same model, with the "
            f"same transformers, on both sides (the block's side has {job.client.transformers or 'none'}, "
            f"this one {_version('transformers') or 'none'})."
        )
    decoder = Decoder(
        root,
        TensorReader(job.tensors, blob, place),
        job.spaces,
        codes=[job.captures, job.args, job.kwargs],
    )
    captures = {name: decoder.decode(code) for name, code in job.captures.items()}
    names = decoder.shared_space()
    if names is None:
        names = {"__name__": "nbsight_block"}
    names.update(captures)
    text = job.program
    return Program(
        kind=job.kind,
        method=job.method,
        args=[decoder.decode(code) for code in job.args],
        kwargs={name: decoder.decode(code) for name, code in job.kwargs.items()},
        code=compile_text(text.source, text.line, text.filename),
        names=names,
        stores=text.stores,
        target=text.target,
        options=job.options,
        withheld=job.withheld,
        objects=decoder.objects,
    )


@functools.lru_cache(maxsize=8)
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _client() -> messages.Client:
    return messages.Client(
        _version("nbsight"), platform.python_version(), str(torch.__version__), _version("transformers")
    )


def _model_ref(root: Envoy) -> messages.ModelRef:
    name = root.__dict__.get("_name") or type(root._module).__name__
    kind = f"{type(root).__module__}:{type(root).__qualname__}"
    return messages.ModelRef(str(name), fingerprint(root._module), kind)


def fingerprint(module: nn.Module) -> str:
    """A digest of a module tree: paths, classes, names and shapes of parameters; no values."""
    lines = [f"{path} {type(part).__name__}" for path, part in module.named_modules()]
    lines += [f"{name} {tuple(tensor.shape)}" for name, tensor in module.named_parameters()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
