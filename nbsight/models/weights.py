"""A model's matrices under the names of the field, in the shapes in which its formulas are written.

    model.W_E (d_vocab, d_model)   model.W_pos (position, d_model)   model.W_U (d_model, d_vocab)   b_U
    layers[i].attn.W_Q  .W_K  .W_V (head, d_model, d_head)   .W_O (head, d_head, d_model)   b_Q b_K b_V b_O
    layers[i].mlp.W_in  .W_gate (d_model, d_mlp)   .W_out (d_mlp, d_model)   b_in b_gate b_out

They are the checkpoint's own numbers: no norm is folded in and nothing is centred. Each shares the memory of
the parameter (except queries that lie in groups with their keys, and weights that are offloaded), without its
gradient. `model.W_Q` is all layers': `model.W_Q[3]` is one of them, and whatever else is done with it stacks
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from nbsight.errors import PathError
from nbsight.models.fetching import parameter_of
from nbsight.models.inside import InsideLayer
from nbsight.models.layout import Layout

__all__ = [
    "ATTN_WEIGHTS",
    "LAYER_WEIGHTS",
    "MLP_WEIGHTS",
    "MODEL_WEIGHTS",
    "Stacked",
    "layer_weight",
    "model_weight",
]

_PLACES = {"Q": "q", "K": "k", "V": "v", "O": "z", "in": "pre", "gate": "gate", "out": "post"}

ATTN_WEIGHTS = ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O")
MLP_WEIGHTS = ("W_in", "W_gate", "W_out", "b_in", "b_gate", "b_out")
LAYER_WEIGHTS = (*ATTN_WEIGHTS, *MLP_WEIGHTS)
MODEL_WEIGHTS = ("W_E", "W_pos", "W_U", "b_U")


def layer_weight(root: Any, layout: Layout, inside: InsideLayer, layer: int, name: str) -> torch.Tensor:
    """A matrix or a bias of one layer.

    Args:
        root: The model's root envoy, its weights loaded.
        layout: Where the names of a layer are.
        inside: Where those inside it are.
        layer: The number of the layer.
        name: One of `LAYER_WEIGHTS`.

    Returns:
        The shape of this module's docstring. A bias that the model has not is zero.

    Raises:
        PathError: the layer has none, or its module keeps no plain matrix.
    """
    kind, _, which = name.partition("_")
    part = "mlp" if name in MLP_WEIGHTS else "attn"
    label = f"layers[{layer}].{part}.{name}"
    value = _PLACES[which]
    if value != "z" and value not in inside.places:
        raise PathError(f"`model.{label}` does not exist: {inside.absent[value]}.")
    place = layout.of_layer[layer]["z"] if value == "z" else inside.places[value]
    if place.find is not None:
        raise PathError(f"`model.{label}` does not exist: no one module of this model gives `{value}`.")
    matrix, bias = matrix_of(root, place.path, label)
    if which in ("O", "out"):
        if kind == "b":
            return bias
        heads = layout.size("n_heads")
        assert heads is not None
        return matrix.unflatten(0, (heads, -1)) if which == "O" else matrix
    own = bias if kind == "b" else matrix
    shown = own if place.part is None else place.part.take(own, None)
    return shown.transpose(0, 1) if kind == "W" and value in ("q", "k", "v") else shown


def model_weight(root: Any, layout: Layout, name: str) -> torch.Tensor:
    """A matrix of the whole model: one of `MODEL_WEIGHTS`.

    Raises:
        PathError: the model has none, or its module keeps no plain matrix.
    """
    if name == "W_E":
        return _plain(parameter_of(root._module.get_input_embeddings(), "weight", root._module), name)
    if name == "W_pos":
        if "pos_embed" in layout.absent:
            raise PathError(f"`model.W_pos` does not exist: {layout.absent['pos_embed']}.")
        table = root._module.get_submodule(layout.places["pos_embed"].path)
        weight = _plain(parameter_of(table, "weight", root._module), name)
        return weight[layout.architecture.first_position :]
    if layout.unembed is None:
        raise PathError(
            f"`model.{name}` does not exist: {type(root._module).__name__} has no output embedding. Load the "
            "model with its language-modelling head (AutoModelForCausalLM)."
        )
    matrix, bias = matrix_of(root, layout.unembed, name)
    return bias if name == "b_U" else matrix


def matrix_of(root: Any, path: str, label: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrix (from, to) and the bias (to) of a linear map.

    Raises:
        PathError: the module is no linear map with a plain matrix.
    """
    module: nn.Module = root._module.get_submodule(path)
    weight = parameter_of(module, "weight", root._module)
    is_turned = type(module).__name__ == "Conv1D"
    if not isinstance(weight, torch.Tensor) or not (is_turned or isinstance(module, nn.Linear)):
        raise PathError(
            f"`model.{label}` is not to be had: `model.{path}` is a {type(module).__name__}, which keeps no "
            "plain matrix (an adapter is merged into one by `merge_and_unload()`)."
        )
    matrix = _plain(weight, label)
    matrix = matrix if is_turned else matrix.T
    bias = parameter_of(module, "bias", root._module)
    if bias is None:
        return matrix, torch.zeros(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    return matrix, bias.detach()


def _plain(weight: torch.Tensor, label: str) -> torch.Tensor:
    if weight.ndim != 2 or not weight.is_floating_point():
        raise PathError(
            f"`model.{label}` is not to be had: the parameter is quantised ({weight.dtype}, shape "
            f"{tuple(weight.shape)}). Load the model without quantisation."
        )
    if weight.device.type == "meta":
        raise PathError(
            f"`model.{label}` is not to be had: the parameter is offloaded, and nobody knows where its "
            "numbers are until its module runs."
        )
    return weight.detach()


class Stacked:
    """One matrix of all layers; a stack of copies is made only for what needs it.

    Args:
        name: The name.
        of_layer: Gives the matrix of a layer.
        count: The number of layers.
    """

    def __init__(self, name: str, of_layer: Callable[[int], torch.Tensor], count: int) -> None:
        self._name = name
        self._of_layer = of_layer
        self._count = count

    def stack(self) -> torch.Tensor:
        """All layers as one tensor, (layer, …): a copy.

        Raises:
            PathError: a layer has no such matrix.
        """
        return torch.stack(list(self))

    @property
    def shape(self) -> torch.Size:
        """The shape of the stack; none is made for it."""
        return torch.Size((self._count, *self[0].shape))

    @property
    def ndim(self) -> int:
        """The number of its axes."""
        return len(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the matrices."""
        return self[0].dtype

    @property
    def device(self) -> torch.device:
        """Where the first layer's is."""
        return self[0].device

    def __getitem__(self, index: Any) -> torch.Tensor:
        first, rest = (index[0], index[1:]) if isinstance(index, tuple) and index else (index, ())
        if isinstance(first, int):
            if not -self._count <= first < self._count:
                raise PathError(f"`model.{self._name}` has {self._count} layers; there is no {first}.")
            matrix = self._of_layer(first % self._count)
            return matrix[rest] if rest else matrix
        if isinstance(first, slice):
            layers = torch.stack([self._of_layer(layer) for layer in range(self._count)[first]])
            within = (slice(None), *rest)
            return layers[within]
        return self.stack()[index]

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self._of_layer(layer) for layer in range(self._count))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(torch.Tensor, name):
            raise AttributeError(name)
        return getattr(self.stack(), name)

    def __matmul__(self, other: Any) -> torch.Tensor:
        return self.stack() @ _stacked(other)

    def __rmatmul__(self, other: Any) -> torch.Tensor:
        return _stacked(other) @ self.stack()

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {name: _stacked(value) for name, value in (kwargs or {}).items()}
        return function(*(_stacked(value) for value in args), **kwargs)

    def __repr__(self) -> str:
        shape = tuple(self.shape)
        return f"{self._name} of {self._count} layers, {shape}: index it by a layer, or `.stack()` it"


def _stacked(value: Any) -> Any:
    if isinstance(value, Stacked):
        return value.stack()
    if isinstance(value, (tuple, list)):
        return type(value)(_stacked(item) for item in value)
    return value
