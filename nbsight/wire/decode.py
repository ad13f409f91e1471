"""JSON to values; the other half of `encode`, tag by tag.

Everything that arrives is taken for what a stranger wrote: tags, numbers and names are checked, and
a mistake is a `RemoteError`. Functions are made from source only where `functions_travel` says so.
"""

from __future__ import annotations

import base64
import binascii
import builtins
import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Hashable
from typing import Any, ClassVar

import msgspec
import numpy as np
import torch

from nbsight.core.envoy import Envoy
from nbsight.core.steps import StepRecord, step_of, steps_of
from nbsight.errors import RemoteError
from nbsight.models.outputs import show_block, show_logits
from nbsight.wire import names
from nbsight.wire.encode import DEPTH
from nbsight.wire.far import FarTensor
from nbsight.wire.functions import FunctionText, build, innermost
from nbsight.wire.messages import FunctionSpace
from nbsight.wire.missing import NotHere
from nbsight.wire.tensors import TensorReader

__all__ = ["Decoder"]


class Decoder:
    """Decodes the values of one message.

    Args:
        root: The model at this end; None where there is none, and nothing of it can be named.
        tensors: The tensors of the message.
        spaces: The globals of its functions.
        functions_travel: Whether functions may be made from source.
        known: The objects of this end that the message may name by number.
        codes: Everything that will be decoded, so that a reference may come before its object.
    """

    #: What each tag means; a place that takes less has fewer.
    rules: ClassVar[dict[str, Rule]]

    def __init__(
        self,
        root: Envoy | None,
        tensors: TensorReader,
        spaces: list[FunctionSpace] | tuple[()] = (),
        *,
        functions_travel: bool = True,
        known: dict[int, Any] | None = None,
        codes: Any = (),
    ) -> None:
        self.root: Any = root
        self.tensors = tensors
        self.objects: dict[int, Any] = {}
        self.known = known or {}
        self._spaces = spaces
        self._globals: list[dict[str, Any]] = [
            {"__builtins__": builtins, "__name__": "nbsight_block"} for _ in spaces
        ]
        self._filled: set[int] = set()
        self._nodes = _numbered([codes, [space.names for space in spaces]])
        self._functions_travel = functions_travel
        self._depth = 0

    def decode(self, code: Any) -> Any:
        """The value of a code.

        Raises:
            RemoteError: it is not well formed, or names what is not here.
        """
        if code is None or type(code) in (bool, int, float, str):
            return code
        if type(code) is not dict:
            raise RemoteError(f"the message holds a bare {type(code).__name__}.")
        tag = next((key for key in code if key[:1] == "$"), None)
        rule = self.rules.get(tag or "")
        if rule is None:
            raise RemoteError(
                f"the message holds {tag or 'an untagged object'}, which this nbsight does not know."
            )
        if "id" in code and code["id"] in self.objects:
            return self.objects[code["id"]]
        self._depth += 1
        try:
            if self._depth > DEPTH:
                raise RemoteError(f"the message is nested more than {DEPTH} deep.")
            return rule(self, code[tag], code)
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
            if isinstance(error, RemoteError):
                raise
            raise RemoteError(f"the message holds a {tag} that is not well formed: {error!r}") from None
        finally:
            self._depth -= 1

    def space(self, number: Any, only: Any = None) -> dict[str, Any]:
        """The globals of functions, filled as far as these names go, or wholly."""
        if type(number) is not int or not 0 <= number < len(self._spaces):
            raise RemoteError(f"the message names globals {number!r} and has {len(self._spaces)}.")
        space, codes = self._globals[number], self._spaces[number].names
        if only is None:
            if number in self._filled:
                return space
            self._filled.add(number)  # before, because a function may read itself
        for name in codes if only is None else only:
            if name in codes and name not in space:
                space[name] = self.decode(codes[name])
        return space

    def shared_space(self) -> dict[str, Any] | None:
        """The globals in which the block itself stands, if functions share them."""
        for number, space in enumerate(self._spaces):
            if space.shared:
                return self.space(number)
        return None

    def _new(self, code: dict[str, Any], value: Any) -> Any:
        number = code["id"]
        if type(number) is not int:
            raise RemoteError(f"the message numbers an object {number!r}.")
        self.objects[number] = value
        return value

    def _items(self, codes: list[Any]) -> list[Any]:
        if type(codes) is not list:
            raise RemoteError("the message holds no list where there must be one.")
        return [self.decode(code) for code in codes]

    def _pairs(self, codes: Any, into: Any) -> Any:
        for pair in codes:
            key, value = self._items(pair)
            if not isinstance(key, Hashable):
                raise RemoteError("the message holds a key that cannot be one.")
            into[key] = value
        return into


def _numbered(codes: Any) -> dict[int, Any]:
    """The numbered objects of a message, by number."""
    nodes: dict[int, Any] = {}
    stack = [codes]
    while stack:
        code = stack.pop()
        if isinstance(code, dict):
            if "id" in code and any(key[:1] == "$" for key in code):
                number = code["id"]
                if type(number) is not int or number in nodes:
                    raise RemoteError(f"the message numbers an object {number!r} twice or wrongly.")
                nodes[number] = code
            stack.extend(code.values())
        elif isinstance(code, (list, tuple)):
            stack.extend(code)
    return nodes


def _ref(self: Decoder, number: Any, code: dict[str, Any]) -> Any:
    if number not in self._nodes:
        raise RemoteError(f"the message refers to object {number!r}, which it does not hold.")
    return self.decode(self._nodes[number])


def _known(self: Decoder, number: Any, code: dict[str, Any]) -> Any:
    if number not in self.known:
        raise RemoteError(f"the message refers to capture {number!r}, which was not sent.")
    return self.known[number]


def _float(self: Decoder, text: Any, code: dict[str, Any]) -> float:
    value = float(text)
    if math.isfinite(value):
        raise ValueError(text)
    return value


def _bytes(self: Decoder, text: Any, code: dict[str, Any]) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


def _list(self: Decoder, codes: Any, code: dict[str, Any]) -> Any:
    made = self._new(code, [])
    made.extend(self._items(codes))
    return made


def _deque(self: Decoder, codes: Any, code: dict[str, Any]) -> Any:
    made = self._new(code, collections.deque(maxlen=code["maxlen"]))
    made.extend(self._items(codes))
    return made


def _set(self: Decoder, codes: Any, code: dict[str, Any]) -> Any:
    made = self._new(code, set())
    made.update(self._items(codes))
    return made


def _dict(kind: Callable[[], Any]) -> Rule:
    return lambda self, codes, code: self._pairs(codes, self._new(code, kind()))


def _defaultdict(self: Decoder, codes: Any, code: dict[str, Any]) -> Any:
    factories: dict[Any, Any] = {factory.__name__: factory for factory in names.FACTORIES}
    factories[None] = None
    return self._pairs(codes, self._new(code, collections.defaultdict(factories[code["factory"]])))


def _tensor(self: Decoder, number: Any, code: dict[str, Any]) -> Any:
    value = self._new(code, self.tensors.get(number, now="grad" in code))
    if "grad" in code:
        value.grad = self.decode(code["grad"])
    return value


def _scalar(self: Decoder, number: Any, code: dict[str, Any]) -> Any:
    value = self.tensors.get(number)
    if not isinstance(value, np.ndarray) or value.ndim:
        raise ValueError("no scalar")
    return value[()]


def _parameter(self: Decoder, name: Any, code: dict[str, Any]) -> Any:
    module, _, last = name.rpartition(".")
    owner = self.root._module.get_submodule(module)
    value = owner._parameters.get(last)
    value = owner._buffers.get(last) if value is None else value
    if value is None:
        raise RemoteError(f"the model here has no parameter `{name}`.")
    return value


def _reading(self: Decoder, kind: Any, code: dict[str, Any]) -> Any:
    plain: Any = self.decode(code["plain"])
    if not isinstance(plain, torch.Tensor):
        raise ValueError("no tensor")
    show = _showing(self, kind, code)
    return self._new(code, plain.shown(show) if isinstance(plain, FarTensor) else show(plain))


def _showing(self: Decoder, kind: Any, code: dict[str, Any]) -> Callable[[torch.Tensor], Any]:
    """What makes a block's or a model's output of its tensor."""
    if kind == "block":
        stayed = "only the hidden state travels; in the block save `module.output.raw[...]` itself."
        rest = [NotHere(f"raw[{i}]", stayed) for i in range(1, code.get("size", 0))]
        return lambda plain: show_block((plain, *rest) if code.get("size") else plain)
    if "output" not in code:
        return show_logits
    others = {name: self.decode(field) for name, field in code["fields"].items() if field != {"$plain": True}}
    names = list(code["fields"])
    _record(code["output"], {})  # a wrong name is said now
    return lambda plain: show_logits(
        _record(code["output"], {name: others.get(name, plain) for name in names})
    )


def _record(name: Any, fields: dict[str, Any]) -> Any:
    from transformers import modeling_outputs
    from transformers.utils import ModelOutput

    kind = getattr(modeling_outputs, name, None)
    if not isinstance(kind, type) or not issubclass(kind, ModelOutput):
        raise RemoteError(f"the transformers package here has no {name!r}.")
    return kind(**fields)


def _output(self: Decoder, name: Any, code: dict[str, Any]) -> Any:
    fields = {field: self.decode(item) for field, item in code["fields"].items()}
    return self._new(code, _record(name, fields))


def _batch(self: Decoder, inner: Any, code: dict[str, Any]) -> Any:
    from transformers import BatchEncoding

    return self._new(code, BatchEncoding(self.decode(inner)))


def _struct(self: Decoder, name: Any, code: dict[str, Any]) -> Any:
    kind = getattr(torch.return_types, name)
    if name.startswith("_") or not issubclass(kind, tuple):
        raise ValueError(name)
    return kind(self._items(code["items"]))


def _envoy(self: Decoder, path: Any, code: dict[str, Any]) -> Any:
    envoy: Any = self.root
    for part in path.split(".") if path else ():
        if envoy._module._modules.get(part) is None:
            raise RemoteError(f"the block uses `{path}`, which the model here does not have.")
        envoy = envoy._child(part)
    return envoy


def _layer(self: Decoder, index: Any, code: dict[str, Any]) -> Any:
    layers = self.root.std.layers
    if index is None:
        return layers
    part = code.get("part")
    return layers[index] if part not in ("attn", "mlp") else getattr(layers[index], part)


def _dtype(self: Decoder, name: Any, code: dict[str, Any]) -> torch.dtype:
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(name)
    return dtype


def _own(name: str) -> Rule:
    def part(self: Decoder, _: Any, code: dict[str, Any]) -> Any:
        found = getattr(self.root, name, None)
        if found is None:
            raise RemoteError(f"the block uses the model's {name}, and the model here has none.")
        return found

    return part


def _method(self: Decoder, name: Any, code: dict[str, Any]) -> Any:
    if not self._functions_travel or not isinstance(name, str) or name.startswith("_"):
        raise RemoteError("a method came where only data may come.")
    return getattr(self.decode(code["of"]), name)


def _partial(self: Decoder, parts: Any, code: dict[str, Any]) -> Any:
    function, args, kwargs = self._items(parts)
    return functools.partial(function, *args, **kwargs)


def _function(self: Decoder, spec: Any, code: dict[str, Any]) -> Any:
    if not self._functions_travel:
        raise RemoteError("source came where only data may come.")
    text = FunctionText(
        str(spec["source"]),
        str(spec["filename"]),
        int(spec["line"]),
        str(spec["name"]),
        bool(spec["decorated"]),
        tuple(spec["free"]),
    )
    made: Any = self._new(code, build(text, self.space(spec["space"], spec["decorators"])))
    self.space(spec["space"])
    inner = innermost(made)
    assert inner is not None
    inner.__qualname__ = text.name
    values = {name: self.decode(item) for name, item in spec["values"].items()}
    for name, cell in zip(inner.__code__.co_freevars, inner.__closure__ or (), strict=False):
        if name in values:
            cell.cell_contents = values[name]
    inner.__defaults__ = self.decode(spec["defaults"])
    inner.__kwdefaults__ = self.decode(spec["kwdefaults"])
    return made


def _records(codes: Any) -> list[StepRecord]:
    """Records of steps, after a look at what they hold."""
    try:
        return [msgspec.convert(dict(zip(_RECORD, code, strict=True)), StepRecord) for code in codes]
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


_RECORD = [field.name for field in dataclasses.fields(StepRecord)]

Rule = Callable[[Decoder, Any, dict[str, Any]], Any]

_RULES: dict[str, Rule] = {
    "$ref": _ref,
    "$known": _known,
    "$int": lambda self, text, code: int(text, 16),
    "$float": _float,
    "$complex": lambda self, parts, code: complex(*self._items(parts)),
    "$bytes": _bytes,
    "$bytearray": lambda self, text, code: self._new(code, bytearray(_bytes(self, text, code))),
    "$list": _list,
    "$deque": _deque,
    "$tuple": lambda self, codes, code: tuple(self._items(codes)),
    "$set": _set,
    "$frozenset": lambda self, codes, code: self._new(code, frozenset(self._items(codes))),
    "$dict": _dict(dict),
    "$ordereddict": _dict(collections.OrderedDict),
    "$counter": _dict(collections.Counter),
    "$defaultdict": _defaultdict,
    "$slice": lambda self, parts, code: slice(*self._items(parts)),
    "$range": lambda self, parts, code: range(*self._items(parts)),
    "$ellipsis": lambda self, _, code: ...,
    "$step": lambda self, record, code: step_of(_records([record])[0]),
    "$steps": lambda self, records, code: steps_of(_records(records)),
    "$dtype": _dtype,
    "$device": lambda self, text, code: torch.device(text),
    "$size": lambda self, sizes, code: torch.Size(self._items(sizes)),
    "$tensor": _tensor,
    "$scalar": _scalar,
    "$parameter": _parameter,
    "$reading": _reading,
    "$output": _output,
    "$batch": _batch,
    "$struct": _struct,
    "$envoy": _envoy,
    "$layer": _layer,
    "$submodule": lambda self, path, code: self.root._module.get_submodule(path),
    "$tokenizer": _own("tokenizer"),
    "$config": _own("config"),
    "$module": lambda self, name, code: names.module_at(name),
    "$name": lambda self, name, code: names.object_at(name),
    "$method": _method,
    "$partial": _partial,
    "$fn": _function,
    "$missing": lambda self, parts, code: NotHere(*map(str, parts)),
}

Decoder.rules = _RULES
