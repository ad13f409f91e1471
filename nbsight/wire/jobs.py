"""A `core.backend.Job` to bytes and back."""

from __future__ import annotations

import builtins
import hashlib
import linecache
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn

from nbsight.core.backend import Job
from nbsight.core.capture import Block
from nbsight.core.edits import Edit
from nbsight.core.envoy import Envoy
from nbsight.errors import RemoteError
from nbsight.wire import messages
from nbsight.wire.decode import Decoder
from nbsight.wire.encode import Encoder, Unsendable
from nbsight.wire.reads import needed_names
from nbsight.wire.source import block_text, compile_text, parse_text, show
from nbsight.wire.tensors import TensorReader
from nbsight.wire.versions import version_of

__all__ = [
    "Parcel",
    "Program",
    "check_tree",
    "decode_job",
    "encode_job",
    "fingerprint",
    "pack_job",
    "tree_lines",
]


class Parcel(NamedTuple):
    """A job that leaves the process.

    Args:
        header: The message.
        blob: Its tensors.
        objects: The objects that were sent, by number: the result speaks of them.
        files: The user's files by the names that stand for them in the message.
    """

    header: bytes
    blob: bytes
    objects: dict[int, Any]
    files: dict[str, str]


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
        edits: Kept edits of the sender's model, and whether each edits the model itself.
        aliases: The sender's other names for modules.
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
    edits: list[tuple[Edit, bool]]
    aliases: dict[str, str]


def encode_job(job: Job) -> tuple[bytes, bytes, dict[int, Any]]:
    """A job as header and blob.

    Returns:
        The header, the blob, and the objects that were sent, by number: the result speaks of them.

    Raises:
        RemoteError: something that the block reads, or an argument, does not travel; it says which,
            on what line, and what to write.
    """
    __tracebackhide__ = True  # IPython leaves this frame out
    return _encode(job, Encoder(job.model, job.globals), leaves=False)


def pack_job(job: Job) -> Parcel:
    """A job that leaves the process, so that what the model has been given here goes along.

    Paths of the user's files stay here: a short name stands for each.

    Raises:
        RemoteError: as for `encode_job`.
    """
    __tracebackhide__ = True
    encoder = Encoder(job.model, job.globals)
    files: dict[str, str] = {}

    def label(filename: str) -> str:
        name = os.path.basename(filename) or filename
        while files.setdefault(name, filename) != filename:
            name = f"_{name}"
        return name

    encoder.label = label
    return Parcel(*_encode(job, encoder, leaves=True), files)


def _encode(job: Job, encoder: Encoder, *, leaves: bool) -> tuple[bytes, bytes, dict[int, Any]]:
    source, line, needed = _text(job.block, job.lines)
    captures: dict[str, Any] = {}
    withheld: dict[str, str] = {}
    for name, at in needed.items():
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
    edits = [_edit(edit, encoder, job.model) for edit in job.model._edits if edit.enabled] if leaves else []
    tensors, blob = encoder.tensors.finish()
    header = messages.JobHeader(
        protocol=messages.PROTOCOL,
        client=_client(),
        model=_model_ref(job.model, leaves),
        kind="session" if job.kind == "session" else "trace",
        method=job.method,
        program=_block(job.block, source, line, encoder, job.target),
        args=args,
        kwargs=kwargs,
        captures=captures,
        tensors=tensors,
        spaces=encoder.spaces,
        withheld=withheld,
        options=messages.Options(job.grad, job.finish, torch.is_grad_enabled()),
        edits=edits,
    )
    return messages.pack(header), blob, encoder.objects


#: What is known of blocks that were sent: a loop sends one many times, and looking takes milliseconds.
_texts: WeakKeyDictionary[Block, tuple[str, int, dict[str, int]]] = WeakKeyDictionary()


def _text(block: Block, lines: list[str] | None) -> tuple[str, int, dict[str, int]]:
    """A block's text, the number of its first line, and the names that it needs, with their lines."""
    known = _texts.get(block)
    if known is None:
        source, line = block_text(block, lines)
        known = _texts[block] = (source, line, needed_names(parse_text(source, line)))
    return known


def _block(
    block: Block, source: str, line: int, encoder: Encoder, target: str | None = None
) -> messages.BlockText:
    return messages.BlockText(source, encoder.label(block.filename), line, sorted(block.stores), target)


def _edit(edit: Edit, encoder: Encoder, model: Envoy) -> messages.EditText:
    block, captures = edit.block, {}
    lines = linecache.getlines(block.filename, edit.outer)
    source, line, needed = _text(block, lines or None)
    for name, at in needed.items():
        if name in block.targets:
            continue
        found = edit.values.get(name, edit.outer.get(name, encoder))
        if found is not encoder:  # else a name of Python's own, or one that is nowhere
            try:
                captures[name] = encoder.encode(found, name)
            except Unsendable as problem:
                raise RemoteError(_refusal(problem, f"in a kept edit, {show(source, line, at)}")) from None
    program = _block(block, source, line, encoder)
    return messages.EditText(program, captures, list(block.targets), edit.owner is model._family)


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
    check_tree(job, root)
    decoder = Decoder(
        root,
        TensorReader(job.tensors, blob, place),
        job.spaces,
        codes=[job.captures, job.args, job.kwargs, [edit.captures for edit in job.edits]],
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
        edits=[(_edit_here(edit, decoder), edit.inplace) for edit in job.edits],
        aliases=job.model.aliases,
    )


def check_tree(job: messages.JobHeader, root: Envoy) -> None:
    """Raise if a job was written for another model.

    Raises:
        RemoteError: their modules differ.
    """
    here = fingerprint(root._module)
    if job.model.tree != here:
        raise RemoteError(
            f"the block was written for {job.model.id} ({job.model.tree[:12]}) and the model here is "
            f"{_model_ref(root).id} ({here[:12]}): their modules differ. Load the same model, with the "
            f"same transformers, on both sides (the block's side has {job.client.transformers or 'none'}, "
            f"this one {version_of('transformers') or 'none'})."
        )


def _edit_here(edit: messages.EditText, decoder: Decoder) -> Edit:
    text = edit.program
    code = compile_text(text.source, text.line, text.filename)
    values = {name: decoder.decode(item) for name, item in edit.captures.items()}
    body = tuple(parse_text(text.source, text.line).body)
    stores, targets = frozenset(text.stores), tuple(edit.targets)
    block = Block(code, body, code.co_filename, text.line, None, stores, frozenset(values), targets)
    return Edit(block, values, {"__name__": "nbsight_block", "__builtins__": builtins})


def _client() -> messages.Client:
    return messages.Client(
        version_of("nbsight"), platform.python_version(), str(torch.__version__), version_of("transformers")
    )


def _model_ref(root: Envoy, leaves: bool = False) -> messages.ModelRef:
    name = root.__dict__.get("_name") or type(root._module).__name__
    kind = f"{type(root).__module__}:{type(root).__qualname__}"
    tree = fingerprint(root._module)
    if not leaves:
        return messages.ModelRef(str(name), tree, kind)
    loader = root.__dict__.get("_loader")
    dtype = str(getattr(loader, "dtype", None) or "").removeprefix("torch.").replace("auto", "")
    revision = str(getattr(loader, "common", {}).get("revision") or "")
    attention = str(getattr(loader, "attention", {}).get("attn_implementation") or "")
    aliases = dict(root.__dict__.get("_aliases") or {})
    return messages.ModelRef(str(name), tree, kind, revision, dtype, attention, aliases)


def tree_lines(module: nn.Module) -> list[str]:
    """A module tree as text: paths, classes, names and shapes of parameters; no values."""
    lines = [f"{path} {type(part).__name__}" for path, part in module.named_modules()]
    return lines + [f"{name} {tuple(tensor.shape)}" for name, tensor in module.named_parameters()]


def fingerprint(module: nn.Module) -> str:
    """A digest of a module tree (`tree_lines`), 128 bits in hex."""
    stamp = _stamp(module)
    known = _digests.get(module)
    if known is None or known[0] != stamp:
        digest = hashlib.sha256("\n".join(tree_lines(module)).encode()).hexdigest()[:32]
        known = _digests[module] = (stamp, digest)
    return known[1]


#: Fingerprints that were worked out, which takes milliseconds, and the trees that they are of.
_digests: WeakKeyDictionary[nn.Module, tuple[int, str]] = WeakKeyDictionary()


def _stamp(module: nn.Module) -> int:
    """A number that changes when a module or a parameter is exchanged, found in a tenth of a millisecond."""
    parts: list[Any] = []
    stack = [module]
    while stack:
        part = stack.pop()
        children = part._modules
        parts += (id(part), type(part), *children, *part._parameters, *map(id, part._parameters.values()))
        stack += [child for child in children.values() if child is not None]
    return hash(tuple(parts))
