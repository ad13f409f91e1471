"""The standard names: `model.layers[3].resid_post` on every architecture, beside its own paths.

The view hangs at `model.std`. A short form, such as `model.layers`, works as long as nothing in the model has
that name itself. Reading and writing is in `places.py`, where things are in `layout.py`, and what is promised
about them is checked in `verifying.py`.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import torch

from nbsight.errors import PathError, UnknownArchitectureError
from nbsight.models.attending import Log, Switch
from nbsight.models.contributions import read_result, write_result
from nbsight.models.dialects import ROOT_VECTORS, SIZE_NAMES, VALUE_NAMES, meaning_of
from nbsight.models.inside import INSIDE_NAMES, InsideLayer
from nbsight.models.layout import LAYER_NAMES, MODEL_NAMES, SIZES, Layout
from nbsight.models.limits import text_config
from nbsight.models.places import Place, read, read_inside, tracer_at, write
from nbsight.models.routing import read_expert_out, write_expert_out
from nbsight.models.verifying import NAMES, Known, known_of
from nbsight.models.views import Across, Layers
from nbsight.models.weights import LAYER_WEIGHTS, MODEL_WEIGHTS, Stacked, layer_weight, model_weight
from nbsight.results.verification import Verification

__all__ = ["MODULE_NAMES", "WEIGHTS", "Standard", "verify"]

_INSIDE = frozenset(INSIDE_NAMES)

WEIGHTS = (*MODEL_WEIGHTS, *LAYER_WEIGHTS)
"""The names of matrices and biases."""

MODULE_NAMES = ("ln_final", "unembed")
"""The parts of the whole model that are modules, to be read in a trace and to be called."""


def verify(model: Any) -> Verification:
    """Check the standard names of a model on random tokens and return the table.

    Args:
        model: A `LanguageModel`; its weights are loaded.

    Returns:
        For every name where it is and how far it is off; printed, it is a table.
    """
    return model.std.verify()


class Standard:
    """The standard names of one model: `model.std`.

    Args:
        root: The model's root envoy.
    """

    __slots__ = ("_insides", "_known", "_log", "_of", "_ready", "_root")

    def __init__(self, root: Any) -> None:
        put = object.__setattr__
        put(self, "_root", root)
        put(self, "_of", None)
        put(self, "_known", None)
        #: Places of this very tree that have been checked, with their envoys.
        put(self, "_ready", {})
        put(self, "_insides", {})
        put(self, "_log", Log())

    # -- what is known of the model ------------------------------------------------------------

    @property
    def layout(self) -> Layout:
        """Where the names are.

        Raises:
            UnknownArchitectureError: nothing that is known looks like this model.
        """
        known = self._look()
        if not known.layouts:
            root = self._root
            kind = getattr(text_config(getattr(root._module, "config", None)), "model_type", None)
            raise UnknownArchitectureError(
                f"the standard names are not known for {type(root._module).__name__}"
                + (f" (model type {kind!r})" if kind else "")
                + ". Its own paths work: print the model to see them, and read `model.<path>.output`."
            )
        return known.layouts[0]

    def _look(self) -> Known:
        module = self._root._module
        if self._of is not module:  # loaded or exchanged since
            object.__setattr__(self, "_known", known_of(self._root))
            object.__setattr__(self, "_of", module)
            self._ready.clear()
            self._insides.clear()
        return self._known

    @property
    def checked(self) -> Verification | None:
        """The result of the check, if it has been made."""
        return self._look().result

    def verify(self) -> Verification:
        """Check the names on random tokens now, and return the table."""
        self._root._load()
        self._ready.clear()
        self._insides.clear()
        known = self._look()
        known.verify(self._root, again=True)
        return known.verify_inside(self._root, again=True)

    def place(self, name: str, layer: int | None = None, *, is_checked: bool = True) -> Place:
        """The native place of a standard name.

        Args:
            name: One of `resid_pre`, `z`, `attn_out`, `resid_mid`, `mlp_out`, `resid_post`, `embed`,
                `pos_embed`, `logits`, or of the names inside attention and MLP.
            layer: The layer, for those that belong to one; negative ones count from the end.
            is_checked: Whether the check must have passed; without weights there are only shapes.

        Raises:
            PathError: the name does not exist in this model; the message says why.
            UnknownArchitectureError: the architecture is not known, or the check failed.
        """
        if is_checked:
            self._require(name)
        if name in _INSIDE and layer is not None:
            return self.inside(layer).place(name)
        layout = self.layout
        try:
            return layout.places[name] if layer is None else layout.of_layer[layer][name]
        except (KeyError, IndexError):
            pass
        label = name if layer is None else f"layers[{layer}].{'attn.z' if name == 'z' else name}"
        if name in layout.absent:
            raise PathError(f"`model.{label}` does not exist: {layout.absent[name]}.")
        if layer is None:
            raise PathError(f"`{name}` belongs to a layer: write `model.layers[i].{name}`.")
        if name in layout.places:
            raise PathError(f"`{name}` belongs to no layer: write `model.{name}`.")
        return layout.of_layer[self._index(layer)][name]

    def _require(self, name: str) -> None:
        self._root._load()
        known = self._look()
        if name in _INSIDE or name in LAYER_WEIGHTS:
            known.verify_inside(self._root)
        elif known.result is None or known.refused:
            known.verify(self._root)
        if name in known.refused:
            row = known.refused[name]
            tried = f"The native place that was tried is `{row.place}`; it works as ever. "
            dropout = " The model is in training mode, and dropout changes sums: `model.eval()`."
            raise UnknownArchitectureError(
                f"`{name}` is refused on {type(self._root._module).__name__}: on random tokens {row.remark}. "
                f"{tried if row.place else ''}`nbsight.verify(model)` shows the whole table."
                f"{dropout if self._root._is_training() else ''}"
            )

    def _index(self, layer: int) -> int:
        count = self.layout.n_layers
        if not -count <= layer < count:
            raise PathError(
                f"`model.layers` has {count} entries, 0 to {count - 1}; there is no {layer}. For the last "
                "one write `model.layers[-1]`."
            )
        return int(layer) % count

    # -- values by name ------------------------------------------------------------------------

    def get(self, name: str, layer: int | None = None) -> torch.Tensor:
        """The value of a name inside a trace, as `getattr` on a layer, for code that has the name as text.

        Args:
            name: As for `place`.
            layer: The layer.
        """
        return self._value(name, layer, sys._getframe(1))

    def set(self, name: str, layer: int | None, value: Any) -> None:
        """Let the model go on with `value` there; the counterpart of `get`."""
        self._write(name, layer, value, sys._getframe(1))

    def _read(self, name: str, layer: int | None, frame: FrameType) -> Any:
        envoy, place, tracer = self._at(name, layer, frame)
        return read(envoy, place, tracer, frame)

    def _read_inside(self, name: str, layer: int, frame: FrameType) -> Any:
        envoy, place, tracer = self._at(name, layer, frame)
        self.inside(layer).prepare(tracer, name)
        if name == "result":
            return read_result(envoy, place, self.place("z", layer, is_checked=False), tracer, frame)
        if name == "expert_out":
            return read_expert_out(envoy, place, tracer, frame)
        return read_inside(envoy, place, tracer, frame)

    def _value(self, name: str, layer: int | None, frame: FrameType) -> Any:
        """As `_read`, for a name of either kind."""
        if name in _INSIDE and layer is not None:
            return self._read_inside(name, layer, frame)
        return self._read(name, layer, frame)

    def _write(self, name: str, layer: int | None, value: Any, frame: FrameType) -> None:
        envoy, place, tracer = self._at(name, layer, frame)
        if name in _INSIDE and layer is not None:
            self.inside(layer).prepare(tracer, name)
        if name == "result":
            z = self.place("z", layer, is_checked=False)
            write_result(envoy, place, z, tracer, value, frame)
            return
        if name == "expert_out":
            write_expert_out(envoy, place, tracer, value, frame)
            return
        write(envoy, place, tracer, value, frame)

    def _at(self, name: str, layer: int | None, frame: FrameType) -> tuple[Any, Place, Any]:
        ready = self._ready.get((name, layer)) if self._of is self._root._module else None
        if ready is not None:
            envoy, place = ready
            return envoy, place, tracer_at(envoy, place, frame)
        place = self.place(name, layer, is_checked=False)
        tracer = tracer_at(place.envoy(self._root), place, frame)
        if not tracer.scan:  # a scan has no numbers, and may have no weights either
            place = self.place(name, layer)
            self._ready[name, layer] = place.envoy(self._root), place
        return place.envoy(self._root), place, tracer

    def inside(self, layer: int) -> InsideLayer:
        """What is inside the attention and the MLP of a layer."""
        layer = self._index(layer)
        self._look()
        found = self._insides.get(layer)
        if found is None:
            found = self._insides[layer] = InsideLayer(self._root, self.layout, layer, self._log)
        return found

    def weight(self, name: str, layer: int | None = None) -> Any:
        """A matrix or a bias under the name of the field.

        Args:
            name: `W_E`, `W_pos`, `W_U`, `b_U`, or one that each layer has, such as `W_Q`.
            layer: The layer; without one, a name that each layer has gives all of them, to be indexed.

        Raises:
            PathError: there is none; the message says why.
            UnknownArchitectureError: the architecture is not known, or the check failed.
        """
        self._root._load()
        if name in MODEL_WEIGHTS:
            return model_weight(self._root, self.layout, name)
        if layer is None:
            return Stacked(name, lambda layer: self.weight(name, layer), self.layout.n_layers)
        self._require(f"W_{name[2:]}")
        return layer_weight(self._root, self.layout, self.inside(layer), self._index(layer), name)

    @property
    def switches(self) -> tuple[Switch, ...]:
        """Where eager attention ran beside the loaded one in the last run, and how far it was off."""
        return self._log.lines

    def forget_switches(self) -> None:
        """Empty `switches`."""
        self._log.clear()

    # -- the tree ------------------------------------------------------------------------------

    @property
    def layers(self) -> Layers:
        """The layers: `model.layers[3].resid_post`.

        Raises:
            UnknownArchitectureError: as for `layout`.
        """
        return Layers(self, self.layout.n_layers)

    def __getattr__(self, name: str) -> Any:
        return self._get(name, sys._getframe(1))

    def _get(self, name: str, frame: FrameType) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        name = VALUE_NAMES.get(name, name)
        if name in MODEL_NAMES:
            return self._read(name, None, frame)
        if name in MODULE_NAMES:
            return self._module_of(name)
        size = SIZE_NAMES.get(name, name)
        if size in SIZES:
            return self.layout.size(size)
        if name in ROOT_VECTORS:
            return Across(self, ROOT_VECTORS[name])
        if name in WEIGHTS:
            return self.weight(name)
        raise PathError(
            f"the standard names are layers, {', '.join(MODEL_NAMES)}, {', '.join(MODULE_NAMES)}, "
            f"{', '.join(ROOT_VECTORS)}, {', '.join(WEIGHTS)} and {', '.join(SIZES)}; there is no {name!r}."
        )

    def __setattr__(self, name: str, value: Any) -> None:
        self._set(name, value, sys._getframe(1))

    def _set(self, name: str, value: Any, frame: FrameType) -> None:
        name = VALUE_NAMES.get(name, name)
        if name not in MODEL_NAMES:
            raise PathError(
                f"`{name}` cannot be assigned; the values of the whole model are {', '.join(MODEL_NAMES)}, "
                f"those of a layer {', '.join(LAYER_NAMES)}: `model.layers[3].resid_post = value`."
            )
        self._write(name, None, value, frame)

    def _module_of(self, name: str) -> Any:
        layout = self.layout
        if name in layout.absent:
            raise PathError(f"`model.{name}` does not exist: {layout.absent[name]}.")
        path = layout.ln_final if name == "ln_final" else layout.unembed
        if path is None:
            raise PathError(
                f"`model.{name}` does not exist: {type(self._root._module).__name__} has no output "
                "embedding. Load the model with its language-modelling head (AutoModelForCausalLM)."
            )
        return self._root._at(path)

    def _by_string(self, text: str, frame: FrameType) -> Any:
        name, layer = self._meaning_of(text)
        if name in MODULE_NAMES:
            return self._module_of(name)._tracer("output", frame).read(self._module_of(name), "output", frame)
        return self._value(name, layer, frame)

    def _meaning_of(self, text: str) -> tuple[str, int | None]:
        name, layer = meaning_of(text)
        if name == "pre_of_gate":  # TransformerLens's hook_pre is what is activated
            assert layer is not None
            name = "gate" if self.inside(layer).is_gated else "pre"
        return name, layer

    def _set_by_string(self, text: str, value: Any, frame: FrameType) -> None:
        name, layer = self._meaning_of(text)
        if name in MODULE_NAMES:
            module = self._module_of(name)
            module._tracer("output", frame).write(module, "output", value, frame)
        else:
            self._write(name, layer, value, frame)

    def __dir__(self) -> list[str]:
        return [
            *("checked", "get", "inside", "layers", "layout", "place", "set", "switches", "verify"),
            *(*MODEL_NAMES, *MODULE_NAMES, *SIZES, *ROOT_VECTORS, *WEIGHTS, "weight"),
        ]

    def __repr__(self) -> str:
        """The model's card: its sizes, where the names are, and what the check measured."""
        try:
            layout = self.layout
        except UnknownArchitectureError as error:
            return f"Standard names: {error}"
        sizes = " · ".join(f"{name} {layout.size(name)}" for name in SIZES)
        known = self.checked
        if known is not None:
            return f"{known!r}\n  {sizes}"
        lines = [f"Standard names of {self._root._name} ({layout.architecture.name}): not checked yet"]
        for name in NAMES:
            if name in layout.absent:
                lines.append(f"  {name:<10}  -  absent: {layout.absent[name]}")
            elif name in (*MODEL_NAMES, *LAYER_NAMES):
                lines.append(f"  {name:<10}  {layout.pattern(name)}")
            elif getattr(layout, name) is not None:
                lines.append(f"  {name:<10}  model.{getattr(layout, name)}")
        return "\n".join([*lines, f"  {sizes}"])
