"""A job of the `program` tier: decoded without making any code of it, interpreted, encoded."""

from __future__ import annotations

import ast
import math
from typing import Any

import torch

from nbsight.core.backend import running_job
from nbsight.core.edits import Edit
from nbsight.core.session import Session
from nbsight.core.tracer import Tracer
from nbsight.errors import RemoteError
from nbsight.server.programs import surface
from nbsight.server.programs.expressions import Scope
from nbsight.server.programs.limits import BITS, ITEMS, SOURCE, check_numel, check_parts, check_place, places
from nbsight.server.programs.statements import BODY, Interpreter, body_block
from nbsight.server.programs.texts import repr_of, without_paths
from nbsight.server.programs.values import Function
from nbsight.wire import messages
from nbsight.wire.decode import Decoder
from nbsight.wire.execute import with_edits
from nbsight.wire.jobs import check_tree
from nbsight.wire.programs import why_no_program
from nbsight.wire.results import Watch, encode_result
from nbsight.wire.source import parse_text, register
from nbsight.wire.tensors import TensorReader

__all__ = ["answer_program"]


def answer_program(head: messages.JobHeader, blob: bytes, root: Any) -> tuple[bytes, bytes]:
    """Interpret a job on the model here and return the encoded result.

    Raises:
        RemoteError: the job is not well formed, does not fit the model, or is no program.
        Exception: whatever the block raises, with its traceback.
    """
    try:
        return _answer(head, blob, root)
    except Exception as error:
        raise _told(error, root) from None


def _answer(head: messages.JobHeader, blob: bytes, root: Any) -> tuple[bytes, bytes]:
    check_tree(head, root)
    _check_names(head)
    decoder = _ProgramDecoder(head, blob, root)
    names = decoder.shared_space()
    names = {} if names is None else names
    names.update({name: decoder.decode(code) for name, code in head.captures.items()})
    args = tuple(decoder.decode(code) for code in head.args)
    kwargs = {name: decoder.decode(code) for name, code in head.kwargs.items()}
    _check_options(head, args, kwargs)
    surface.check_aliases(head.model.aliases)
    places.update(root.devices)
    tree, filename = _program(head.program)
    edits = [(_edit(edit, decoder), edit.inplace) for edit in head.edits]
    watch = Watch(decoder.objects, names)
    with with_edits(root, edits, head.model.aliases):
        bound, saved = _run(head, tree, filename, decoder.interpreter, names, args, kwargs, root)
        for value in (*bound.values(), *watch.objects.values()):
            check_parts((value,), compared=False)
        return encode_result(root, bound, watch, saved)


def _told(error: Exception, root: Any) -> Exception:
    """An error as a stranger may read it: no folder of this machine, no value in its own words."""
    plain = (str, int, float, bool, type(None))
    if any(not isinstance(arg, plain) for arg in error.args) and isinstance(error, KeyError):
        error.args = tuple(repr_of(arg) for arg in error.args)
    text = str(error)
    clean = without_paths(text, root)
    if clean == text:
        return error
    error.args = tuple(without_paths(arg, root) if isinstance(arg, str) else arg for arg in error.args)
    if str(error) == clean:
        return error
    return RemoteError(f"{type(error).__name__}: {clean}").with_traceback(error.__traceback__)


def _run(
    head: messages.JobHeader,
    tree: ast.Module,
    filename: str,
    interpreter: Interpreter,
    names: dict[str, Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    root: Any,
) -> tuple[dict[str, Any], list[Any]]:
    options, target = head.options, head.program.target
    if head.kind == "session":
        scope: Any = Session(root)
    else:
        scope = Tracer(root, head.method, args, {**kwargs, "grad": options.grad, "finish": options.finish})
    try:
        with running_job(), torch.set_grad_enabled(options.grad_enabled), scope as handle:
            if target is not None:
                names[target] = handle
            interpreter.run(tree.body, Scope(names, None, filename))
    except NameError as error:
        why = head.withheld.get(getattr(error, "name", None) or "")
        if why is None:
            raise
        raise RemoteError(why) from error
    bound = {name: names[name] for name in head.program.stores if name in names and name != target}
    return bound, [value for value, record in scope.saved if record is None]


def _program(text: messages.BlockText) -> tuple[ast.Module, str]:
    if len(text.source) > SOURCE:
        raise RemoteError(f"a program has at most {SOURCE:,} characters; this one has {len(text.source):,}.")
    tree = parse_text(text.source, text.line)
    why = why_no_program(tree, text.source, text.line)
    if why is not None:
        raise RemoteError(f"this server interprets blocks, and this one is not a program: {why}")
    return tree, register(text.source, text.line, text.filename)


def _check_names(head: messages.JobHeader) -> None:
    """Refuse names that Python or the interpreter use for themselves."""
    texts = [head.program, *(edit.program for edit in head.edits)]
    names = [*head.captures, *(text.target or "" for text in texts)]
    names += [name for space in head.spaces for name in space.names]
    names += [name for edit in head.edits for name in (*edit.captures, *edit.targets)]
    for name in names:
        if name.startswith("__"):
            raise RemoteError(f"`{name}` begins with two underscores; such names are not used in a program.")


def _check_options(head: messages.JobHeader, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if head.method not in ("forward", "generate", ""):
        raise RemoteError(f"a program traces `forward` and `generate`, not {head.method!r}.")
    surface.check_options(args, kwargs)


def _edit(edit: messages.EditText, decoder: _ProgramDecoder) -> Edit:
    tree, filename = _program(edit.program)
    values = {name: decoder.decode(code) for name, code in edit.captures.items()}
    targets = tuple(edit.targets)
    scope = Scope({}, None, filename)
    block, run = body_block(decoder.interpreter, tree.body, edit.program.line, None, scope, targets)
    return Edit(block, {**values, BODY: run}, {"__name__": "nbsight_block"})


def _refuse(what: str) -> Any:
    def refuse(self: Decoder, value: Any, code: dict[str, Any]) -> Any:
        raise RemoteError(f"{what} does not come into a program on this server.")

    return refuse


def _module(self: Decoder, name: Any, code: dict[str, Any]) -> Any:
    if name not in surface.MODULES:
        raise RemoteError(
            f"the module {name!r} does not come into a program on this server; "
            f"{', '.join(surface.MODULES)} do."
        )
    return surface.MODULES[name]


def _named(self: Decoder, name: Any, code: dict[str, Any]) -> Any:
    found = surface.function_at(name)
    if found is None:
        raise RemoteError(f"{name!r} does not come into a program on this server.")
    return found


def _integer(self: Decoder, text: Any, code: dict[str, Any]) -> int:
    if not isinstance(text, str) or len(text) > BITS // 4:
        raise RemoteError(f"a number of more than {BITS:,} bits does not come into a program on this server.")
    return int(text, 16)


def _range(self: Decoder, codes: Any, code: dict[str, Any]) -> range:
    made = range(*self._items(codes))
    if made and abs(made[-1] - made[0]) // abs(made.step) > ITEMS:
        raise RemoteError(
            f"a range of more than {ITEMS:,} numbers does not come into a program on this server."
        )
    return made


def _place(name: str) -> torch.device:
    check_place(name)
    return torch.device(name)


def _tensor(self: Decoder, number: Any, code: dict[str, Any]) -> Any:
    """A tensor, unless its strides make a much larger one of the bytes that came."""
    size = self.tensors.shape(number)
    check_numel(math.prod(map(float, size)))
    return Decoder.rules["$tensor"](self, number, code)


def _function(self: Any, spec: Any, code: dict[str, Any]) -> Any:
    if spec["decorated"]:
        raise RemoteError("a function with decorators does not come into a program on this server.")
    text = messages.BlockText(str(spec["source"]), str(spec["filename"]), int(spec["line"]), [])
    if spec["name"] == "<lambda>":
        text = messages.BlockText(f"({text.source}\n)", text.filename, text.line, [])
    tree, filename = _program(text)
    node: Any = tree.body[0].value if isinstance(tree.body[0], ast.Expr) else tree.body[0]
    if not isinstance(node, (ast.Lambda, ast.FunctionDef)) or len(tree.body) != 1:
        raise RemoteError("the message holds a function that is none.")
    around: dict[str, Any] = {}
    scope = Scope(around, Scope(self.space(spec["space"], ()), None, filename), filename)
    name = node.name if isinstance(node, ast.FunctionDef) else "<lambda>"
    made = self._new(code, Function(self.interpreter, name, node.args, node.body, scope))
    self.space(spec["space"])
    around.update({name: self.decode(item) for name, item in spec["values"].items()})
    made.defaults = tuple(self.decode(spec["defaults"]) or ())
    made.keyword_defaults = dict(self.decode(spec["kwdefaults"]) or {})
    if len(made.defaults) != len(node.args.defaults):
        raise RemoteError("the message holds a function whose defaults do not fit it.")
    return made


class _ProgramDecoder(Decoder):
    """Decodes without making code, and gives nothing that a program may not hold."""

    def __init__(self, head: messages.JobHeader, blob: bytes, root: Any) -> None:
        edits = [edit.captures for edit in head.edits]
        super().__init__(
            root,
            TensorReader(head.tensors, blob, _place),
            head.spaces,
            codes=[head.captures, head.args, head.kwargs, edits],
        )
        self.interpreter = Interpreter()
        for space in self._globals:
            space.pop("__builtins__", None)


_ProgramDecoder.rules = {
    **Decoder.rules,
    "$int": _integer,
    "$range": _range,
    "$tensor": _tensor,
    "$module": _module,
    "$name": _named,
    "$fn": _function,
    "$method": _refuse("a method of an object"),
    "$partial": _refuse("a `functools.partial`"),
    "$parameter": _refuse("a weight of the model"),
    "$submodule": _refuse("a module of torch's"),
}
