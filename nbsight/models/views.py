"""Layers and attention under their standard names; what else they are asked for is the native module's."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from nbsight.errors import PathError
from nbsight.models.inside import ATTN_NAMES, MLP_NAMES
from nbsight.models.layout import LAYER_NAMES
from nbsight.models.weights import ATTN_WEIGHTS, MLP_WEIGHTS

if TYPE_CHECKING:
    from nbsight.models.standard import Standard

__all__ = ["Across", "Attention", "Layer", "Layers", "Mlp"]

_VALUES = ("output", "input", "inputs")


class Layers(Sequence["Layer"]):
    """The layers of a model, in order."""

    __slots__ = ("_count", "_std")

    def __init__(self, std: Standard, count: int) -> None:
        self._std = std
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [Layer(self._std, layer) for layer in range(len(self))[index]]
        if isinstance(index, str) or not hasattr(index, "__index__"):
            raise PathError(
                f"`model.layers` is indexed by numbers and slices, not by {index!r}: "
                "`model.layers[3].resid_post`."
            )
        return Layer(self._std, self._std._index(index.__index__()))

    def __iter__(self) -> Iterator[Layer]:
        return (Layer(self._std, layer) for layer in range(len(self)))

    def __repr__(self) -> str:
        return (
            f"{len(self)} layers, each with {', '.join(LAYER_NAMES)}; native: model.{self._std.layout.layers}"
        )


class _Value:
    """A value of a part of the model, as an attribute: found without `__getattr__`, which is the slow way."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, view: Any, owner: type) -> Any:
        if view is None:
            return self
        return view._std._read(self._name, view._layer, sys._getframe(1))


class _Inside(_Value):
    """The same for a value inside attention or MLP."""

    __slots__ = ()

    def __get__(self, view: Any, owner: type) -> Any:
        if view is None:
            return self
        return view._std._read_inside(self._name, view._layer, sys._getframe(1))


class _View:
    """A part of the model that has standard names; whatever else is asked of it is the native module's."""

    __slots__ = ("_layer", "_std")

    def __init__(self, std: Standard, layer: int) -> None:
        object.__setattr__(self, "_std", std)
        object.__setattr__(self, "_layer", layer)

    _names: tuple[str, ...] = ()
    _weights: tuple[str, ...] = ()

    @property
    def _native(self) -> Any:
        raise NotImplementedError

    @property
    def index(self) -> int:
        """The number of the layer, counted from 0."""
        return self._layer

    def __getattr__(self, name: str) -> Any:
        if name == "_native":  # there is none: Python asks here for the error
            return type(self)._native.fget(self)  # type: ignore[attr-defined]
        if name.startswith("_"):
            raise AttributeError(name)
        frame = sys._getframe(1)
        if name in self._names:  # it has failed, and Python asks here before it says so
            return self._std._value(name, self._layer, frame)
        if name in self._weights:
            return self._std.weight(name, self._layer)
        native = self._native
        if name in _VALUES:
            return native._tracer(name, frame).read(native, name, frame)
        return getattr(native, name)

    def __setattr__(self, name: str, value: Any) -> None:
        frame = sys._getframe(1)
        native = self._native
        if name in self._names:
            self._std._write(name, self._layer, value, frame)
        elif name in _VALUES:
            native._tracer(name, frame).write(native, name, value, frame)
        else:
            setattr(native, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._native(*args, **kwargs)

    def __dir__(self) -> list[str]:
        return [*self._names, *self._weights, *dir(self._native)]

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._native is other._native

    def __hash__(self) -> int:
        return hash((type(self), self._layer))


class Layer(_View):
    """One block: `resid_pre`, `attn_out`, `resid_mid`, `mlp_out`, `resid_post`, (batch, position, d_model).

    `resid_post == resid_pre + attn_out + mlp_out`, whatever the block is made of. `attn.z` is what the heads
    found, (batch, position, head, d_head). What else it is asked for is the native block's.
    """

    __slots__ = ()
    _names = tuple(name for name in LAYER_NAMES if name != "z")

    resid_pre = _Value("resid_pre")
    attn_out = _Value("attn_out")
    resid_mid = _Value("resid_mid")
    mlp_out = _Value("mlp_out")
    resid_post = _Value("resid_post")

    @property
    def _native(self) -> Any:
        return self._std._root._at(f"{self._std.layout.layers}.{self._layer}")

    @property
    def attn(self) -> Attention:
        """The attention of this layer."""
        return Attention(self._std, self._layer)

    @property
    def mlp(self) -> Mlp:
        """The MLP of this layer."""
        return Mlp(self._std, self._layer)

    def __repr__(self) -> str:
        return f"layer {self._layer}: {', '.join(self._names)}, attn.z; native: {self._native.path}"


class Attention(_View):
    """The attention of one block, by head.

    `q`, `k`, `v`, `rot_q`, `rot_k`, `z` are (batch, position, head, d_head), as many heads as the model has
    of each; `scores` and `pattern` are (batch, head, query position, key position); `result` is what each
    head adds to the stream, (batch, position, head, d_model).
    """

    __slots__ = ()
    _names = (*ATTN_NAMES[:-1], "z", "result")
    _weights = ATTN_WEIGHTS

    q = _Inside("q")
    k = _Inside("k")
    v = _Inside("v")
    rot_q = _Inside("rot_q")
    rot_k = _Inside("rot_k")
    scores = _Inside("scores")
    pattern = _Inside("pattern")
    z = _Value("z")
    result = _Inside("result")

    @property
    def _native(self) -> Any:
        return self._std._root._at(self._std.layout.attention(self._layer))

    def __repr__(self) -> str:
        return f"attention of layer {self._layer}: {', '.join(self._names)}; native: {self._native.path}"


class Mlp(_View):
    """The MLP of one block, (batch, position, d_mlp).

    `pre` is the input times `W_in`, `post` what its last matrix gets. Where there is a `gate`, it is the
    input times `W_gate`, and `post = act(gate) * pre`; otherwise `post = act(pre)`. A mixture of experts has
    `router`, (batch, position, expert), `expert_ids` and `expert_weights`, (batch, position, choice), and
    `expert_out`, what each choice adds, (batch, position, choice, d_model).
    """

    __slots__ = ()
    _names = MLP_NAMES
    _weights = MLP_WEIGHTS

    pre = _Inside("pre")
    gate = _Inside("gate")
    post = _Inside("post")
    router = _Inside("router")
    expert_ids = _Inside("expert_ids")
    expert_weights = _Inside("expert_weights")
    expert_out = _Inside("expert_out")

    @property
    def _native(self) -> Any:
        path = self._std.layout.mlp(self._layer)
        if path is None:
            block = f"model.{self._std.layout.layers}[{self._layer}]"
            raise PathError(
                f"the MLP of layer {self._layer} is no module of its own in this model: `{block}` holds its "
                f"parts. It has {', '.join(MLP_NAMES)}; it adds `model.layers[{self._layer}].mlp_out`."
            )
        return self._std._root._at(path)

    def __repr__(self) -> str:
        native = self._std.layout.mlp(self._layer)
        return f"MLP of layer {self._layer}: {', '.join(MLP_NAMES)}" + (
            f"; native: model.{native}" if native else ""
        )


class Across:
    """One name over all layers: `model.resid_post[3]`; `[2:5]` stacks to (layer, batch, position, …)."""

    __slots__ = ("_name", "_std")

    def __init__(self, std: Standard, name: str) -> None:
        self._std = std
        self._name = name

    def __getitem__(self, index: Any) -> torch.Tensor:
        frame = sys._getframe(1)
        if isinstance(index, slice):
            layers = range(len(self))[index]
            if layers.step < 0:
                raise PathError(
                    "layers are read in the order in which the model computes them; flip the result."
                )
            return torch.stack([self._std._read(self._name, layer, frame) for layer in layers])
        return self._std._read(self._name, index, frame)

    def __setitem__(self, index: int, value: Any) -> None:
        self._std._write(self._name, index, value, sys._getframe(1))

    def __len__(self) -> int:
        return self._std.layout.n_layers

    def __iter__(self) -> Iterator[torch.Tensor]:
        frame = sys._getframe(1)
        return (self._std._read(self._name, layer, frame) for layer in range(len(self)))

    def __repr__(self) -> str:
        return f"{self._name} of {len(self)} layers: index it by a layer or a slice"
