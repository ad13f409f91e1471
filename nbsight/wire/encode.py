"""Values to JSON.

    None, True, 3, 0.5, "text"            themselves
    [1, 2]                                {"$list": [1, 2], "id": 0}
    {"a": 1, (0, 1): 2}                   {"$dict": [["a", 1], [{"$tuple": [0, 1]}, 2]], "id": 1}
    a tensor or array                     {"$tensor": 0, "id": 2}       (its numbers are in the blob)
    the same object once more             {"$ref": 2}
    model.transformer.h[3]                {"$envoy": "transformer.h.3"}
    model.layers[3]                       {"$layer": 3}
    torch, torch.softmax                  {"$module": "torch"}, {"$name": "torch:softmax"}
    a function of the user's              {"$fn": {source and the values that it reads}, "id": 3}

Every object that can change has an id, so what was one object is one object again, and cycles work.
What is neither in the table of `plain` nor handled here does not travel.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from nbsight.core.envoy import Envoy
from nbsight.models.outputs import BlockOutput, LogitsOutput
from nbsight.models.views import Attention, Layer, Layers, Mlp
from nbsight.wire import functions, names
from nbsight.wire.far import FarTensor
from nbsight.wire.messages import FunctionSpace
from nbsight.wire.missing import NotHere
from nbsight.wire.plain import RULES
from nbsight.wire.tensors import TensorWriter, UnfitTensor

__all__ = ["DEPTH", "Encoder", "Unsendable"]

#: How deep containers may be nested, at both ends.
DEPTH = 100

_SAFE = 2**53  # beyond it, other readers of JSON lose digits


class Unsendable(Exception):
    """A value that does not travel.

    Args:
        place: Where it was: "cfg['lr']".
        value: The value.
        why: What it is and what to write instead.
    """

    def __init__(self, place: str, value: Any, why: str) -> None:
        super().__init__(place, why)
        self.place = place
        self.value = value
        self.why = why


class Encoder:
    """Encodes the values of one message.

    Args:
        root: The model, whose envoys, modules, parameters and tokenizer travel by name.
        shared: The globals in which the block itself stands, if it does.
        functions_travel: Whether functions may travel as source.
    """

    def __init__(
        self, root: Envoy, shared: dict[str, Any] | None = None, *, functions_travel: bool = True
    ) -> None:
        self.root = root
        self.tensors = TensorWriter()
        self.spaces: list[FunctionSpace] = []
        self._shared = shared
        self._functions_travel = functions_travel
        self._space_of: dict[int, int] = {}
        self._ids: dict[int, int] = {}
        #: What was numbered, by number. It also keeps the objects alive: ids are only valid then.
        self.objects: dict[int, Any] = {}
        self._owned: dict[int, str] | None = None
        self._depth = 0
        #: What stands for a file of the user's; the file's own name unless a sender hides it.
        self.label: Callable[[str], str] = str

    # -- what subclasses change ----------------------------------------------------------------

    def known(self, value: Any) -> Any:
        """The code of a value that the other side has already; None for others."""
        return None

    def refuse(self, value: Any, place: str, why: str) -> Any:
        """The code of a value that does not travel; here there is none.

        Raises:
            Unsendable: always.
        """
        raise Unsendable(place, value, why)

    def allow(self, tensor: torch.Tensor, place: str) -> str | None:
        """Why a tensor is not sent, if it is not."""
        return None

    # -- the walk ------------------------------------------------------------------------------

    def encode(self, value: Any, place: str) -> Any:
        """The code of a value.

        Args:
            value: Any value.
            place: How the user would write it, for messages.

        Raises:
            Unsendable: it does not travel.
        """
        kind = type(value)
        if value is None or kind is bool or kind is str:
            return value
        if kind is int:
            return value if -_SAFE < value < _SAFE else {"$int": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"$float": repr(value)}
        if id(value) in self._ids:
            return {"$ref": self._ids[id(value)]}
        code = self.known(value)
        if code is not None:
            return code
        self._depth += 1
        try:
            if self._depth > DEPTH:
                raise Unsendable(place, value, f"it is nested more than {DEPTH} deep")
            return self._composed(value, kind, place)
        finally:
            self._depth -= 1

    def attempt(self, value: Any, place: str) -> Any:
        """As `encode`; where it fails, the message is as if the value had never been tried."""
        numbers, tensors = len(self._ids), len(self.tensors)
        spaces = [dict(space.names) for space in self.spaces]
        try:
            return self.encode(value, place)
        except Unsendable:
            while len(self._ids) > numbers:
                self._ids.popitem()
                self.objects.popitem()
            self.tensors.forget(tensors)
            self.spaces = [
                FunctionSpace(names, old.shared) for names, old in zip(spaces, self.spaces, strict=False)
            ]
            self._space_of = {key: n for key, n in self._space_of.items() if n < len(spaces)}
            raise

    def _composed(self, value: Any, kind: type, place: str) -> Any:
        rule = RULES.get(kind)
        if rule is not None:
            return rule(self, value, place)
        if isinstance(value, torch.Tensor):
            return self._tensor(value, place)
        if isinstance(value, np.generic):
            return {"$scalar": self.numbers(np.asarray(value), place)}
        if isinstance(value, NotHere):
            return self.refuse(value, place, value._why.rstrip("."))
        if isinstance(value, Envoy):
            return self._envoy(value, place)
        if isinstance(value, (Layer, Layers, Attention, Mlp)):
            return self._layer(value, place)
        if isinstance(value, nn.Module):
            return self._module(value, place)
        if kind.__module__ == "torch.return_types":
            items = [self.encode(item, f"{place}[{i}]") for i, item in enumerate(value)]
            return {"$struct": kind.__name__, "items": items}
        code = self._part_of_model(value)
        if code is None and callable(value):
            return self._callable(value, place)
        if code is None and _is_output(kind):
            return self._output(value, kind, place)
        if code is None:
            return self.refuse(value, place, _ADVICE.get(kind.__module__.split(".")[0], _GENERAL))
        return code

    def new(self, value: Any) -> int:
        """The number of an object that is being encoded for the first time."""
        number = self._ids.setdefault(id(value), len(self._ids))
        self.objects[number] = value
        return number

    def items(self, values: Any, place: str) -> list[Any]:
        """The codes of several values."""
        return [self.encode(item, f"{place}[{i}]") for i, item in enumerate(values)]

    def sequence(self, value: Any, place: str, tag: str, **more: Any) -> Any:
        """The code of a list-like object."""
        number = self.new(value)
        return {tag: self.items(value, place), **more, "id": number}

    def mapping(self, value: Any, place: str, tag: str, **more: Any) -> Any:
        """The code of a dict-like object."""
        number = self.new(value)
        pairs = [
            [self.encode(key, f"a key of {place}"), self.encode(item, f"{place}[{key!r}]")]
            for key, item in value.items()
        ]
        return {tag: pairs, **more, "id": number}

    # -- tensors -------------------------------------------------------------------------------

    def _tensor(self, value: torch.Tensor, place: str) -> Any:
        if isinstance(value, FarTensor):
            return self.encode(value.fetch(), place)
        owned = self._name_in_model(value)
        if owned is not None:
            return {"$parameter": owned}
        why = self.allow(value, place)
        if why is not None:
            return self.refuse(value, place, why)
        number = self.new(value)
        if isinstance(value, (BlockOutput, LogitsOutput)):
            return self._reading(value, number, place)
        code = {"$tensor": self.numbers(value, place), "id": number}
        if (value.is_leaf or value.retains_grad) and value.grad is not None:
            code["grad"] = self._plain(value.grad, f"{place}.grad")
        return code

    def numbers(self, value: Any, place: str) -> int:
        """The number of a tensor or array in the blob."""
        try:
            return self.tensors.add(value)
        except UnfitTensor as problem:
            raise Unsendable(place, value, f"it is {problem}") from None

    def _reading(self, value: BlockOutput | LogitsOutput, number: int, place: str) -> Any:
        """A block's or a model's output: its tensor, and the shape of what that came in."""
        code: dict[str, Any] = {
            "$reading": "block" if isinstance(value, BlockOutput) else "logits",
            "plain": self._plain(value._plain, place),
            "id": number,
        }
        whole = value._whole
        if whole is None:
            return code
        if isinstance(value, BlockOutput):
            items = whole if isinstance(whole, (tuple, list)) else ()
            code["size"] = len(items)
        elif hasattr(whole, "items"):
            fields = {}
            for name, item in whole.items():
                fields[name] = (
                    {"$plain": True} if item is value._plain else self._field(item, f"{place}.{name}")
                )
            code["output"], code["fields"] = type(whole).__name__, fields
        return code

    def _plain(self, value: torch.Tensor, place: str) -> Any:
        """A tensor that goes along with one that is allowed to go."""
        if id(value) in self._ids:
            return {"$ref": self._ids[id(value)]}
        return {"$tensor": self.numbers(value, place), "id": self.new(value)}

    def _field(self, value: Any, place: str) -> Any:
        """A field of a Hugging Face output that somebody asked for: tensors, or tuples of them."""
        if value is None:
            return None
        if type(value) in (tuple, list):
            return {"$tuple": [self._field(item, f"{place}[{i}]") for i, item in enumerate(value)]}
        if isinstance(value, torch.Tensor):
            return self._plain(value, place)
        what = type(value).__name__
        return {"$missing": [place, f"a {what} does not travel; save what you need of it in the block."]}

    # -- the model and what belongs to it ------------------------------------------------------

    def _envoy(self, value: Envoy, place: str) -> Any:
        if _family(value._root) is not _family(self.root):
            return self.refuse(value, place, "it belongs to another model; a block travels to one model")
        return {"$envoy": value._path}

    def _layer(self, value: Layer | Layers | Attention | Mlp, place: str) -> Any:
        if _family(value._std._root) is not _family(self.root):
            return self.refuse(value, place, "it belongs to another model; a block travels to one model")
        if isinstance(value, Layers):
            return {"$layer": None}
        part = {Attention: "attn", Mlp: "mlp"}.get(type(value))
        return {"$layer": value.index} | ({} if part is None else {"part": part})

    def _module(self, value: nn.Module, place: str) -> Any:
        path = self._name_in_model(value)
        if path is not None:
            return {"$submodule": path}
        return self.refuse(
            value,
            place,
            "a module that is no part of the model does not travel; send its tensors and compute "
            "with them (`W = sae.W_enc.detach()`), or a function that does",
        )

    def _name_in_model(self, value: Any) -> str | None:
        if self._owned is None:
            module = self.root._module
            self._owned = {id(part): name for name, part in module.named_modules()}
            for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                self._owned[id(tensor)] = name
        return self._owned.get(id(value))

    def _part_of_model(self, value: Any) -> Any:
        for name in ("tokenizer", "config"):
            part = getattr(type(self.root), name, None) and getattr(self.root, name, None)
            if part is not None and part is value:
                return {f"${name}": True}
        return {"$config": True} if value is getattr(self.root._module, "config", self) else None

    def _output(self, value: Any, kind: type, place: str) -> Any:
        number = self.new(value)
        if kind.__name__ == "BatchEncoding":
            return {"$batch": self.encode(dict(value), place), "id": number}
        fields = {name: self.encode(item, f"{place}.{name}") for name, item in value.items()}
        return {"$output": kind.__name__, "fields": fields, "id": number}

    # -- what can be called --------------------------------------------------------------------

    def _callable(self, value: Any, place: str) -> Any:
        name = names.object_name(value)
        if name is not None:
            return {"$name": name}
        owner = getattr(value, "__self__", None)
        method = getattr(value, "__name__", "_")
        if owner is not None and not isinstance(owner, (type, ModuleType)) and not method.startswith("_"):
            return {"$method": method, "of": self.encode(owner, f"{place}.__self__")}
        if isinstance(value, type):
            return self.refuse(value, place, "a class of yours does not travel; define it in the block")
        if functions.innermost(value) is None or not self._functions_travel:
            return self.refuse(value, place, _GENERAL)
        return self._function(value, place)

    def _function(self, value: Any, place: str) -> Any:
        try:
            text = functions.describe(value)
            decorators = functions.decorator_names(text)
        except functions.NoSource as problem:
            return self.refuse(value, place, f"the function {problem}")
        number = self.new(value)
        plain = functions.innermost(value)
        assert plain is not None
        inside = f"{text.name}()"
        code: dict[str, Any] = {
            "source": text.source,
            "filename": self.label(text.filename),
            "line": text.line,
            "name": text.name,
            "decorated": text.decorated,
            "free": list(text.free),
            "decorators": sorted(decorators),
            "space": self._space(plain.__globals__, functions.global_names(value) | decorators, inside),
        }
        code["values"] = {
            name: self.encode(item, f"`{name}` in {inside}")
            for name, item in functions.free_values(value).items()
        }
        code["defaults"] = self.encode(plain.__defaults__, f"a default of {inside}")
        code["kwdefaults"] = self.encode(plain.__kwdefaults__, f"a default of {inside}")
        return {"$fn": code, "id": number}

    def _space(self, outer: dict[str, Any], reads: set[str], inside: str) -> int:
        """The globals of a function, with what it reads of them."""
        number = self._space_of.get(id(outer))
        if number is None:
            number = self._space_of[id(outer)] = len(self.spaces)
            self.spaces.append(FunctionSpace({}, outer is self._shared))
        known = self.spaces[number].names
        for name in sorted(reads - known.keys()):
            if name in outer and not name.startswith("__"):
                known[name] = None  # a function may read itself
                known[name] = self.encode(outer[name], f"`{name}` in {inside}")
        return number


def _family(root: Any) -> Any:
    """What a model and its edited copies have in common: they have the same modules."""
    return root.__dict__.get("_family", root)


_GENERAL = (
    "numbers, text, bytes, lists, tuples, dicts, sets, tensors, arrays, parts of the model, torch, numpy and "
    "functions with source travel. Make it inside the block, or take what you need of it into such a value "
    "before the block"
)

_ADVICE = {
    "pandas": "send its values: `frame.to_numpy()` or `frame.to_dict('list')`",
    "PIL": "send its pixels: `numpy.asarray(image)`",
    "_io": "files stay where they are; read it first and send its content",
    "pathlib": "a path means something on one machine only; send `str(path)`",
}


def _is_output(kind: type) -> bool:
    """Whether a class is one of transformers' records of named tensors, or a tokenizer's answer."""
    if kind.__name__ == "BatchEncoding":
        return kind.__module__.startswith("transformers.") and issubclass(kind, collections.UserDict)
    return kind.__module__ == "transformers.modeling_outputs" and issubclass(kind, collections.OrderedDict)
