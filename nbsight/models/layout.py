"""Where the standard names are in one model: an architecture's record put on its modules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from nbsight.models.architectures import Architecture, architecture_of, architectures
from nbsight.models.architectures.base import Paths
from nbsight.models.limits import text_config
from nbsight.models.parts import Heads
from nbsight.models.places import Place

__all__ = ["LAYER_NAMES", "MODEL_NAMES", "SIZES", "Layout", "has_module", "layouts_of"]

LAYER_NAMES = ("resid_pre", "z", "attn_out", "resid_mid", "mlp_out", "resid_post")
"""The values of a layer, in the order in which a block computes them."""

MODEL_NAMES = ("embed", "pos_embed", "logits")
"""The values of the whole model."""

SIZES = ("n_layers", "n_heads", "n_kv_heads", "d_model", "d_head", "d_mlp", "d_vocab")


class Layout:
    """The places of one model.

    Args:
        root: The model's root envoy.
        architecture: What the model is taken to be.
        is_guess: Whether its configuration names another kind that is not known.

    Raises:
        LookupError: the model has not the modules that the architecture names.
    """

    def __init__(self, root: Any, architecture: Architecture, *, is_guess: bool = False) -> None:
        self.architecture = architecture
        self.is_guess = is_guess
        self.config = text_config(root._module.config)
        #: Why a name is not there, for each that is not.
        self.absent: dict[str, str] = {}
        self._sizes: dict[str, int | None] = {}
        module: nn.Module = root._module
        self._modules = frozenset(root._paths.values())
        ends = f".{architecture.layers}"
        lists = [path for path in root._blocks if f".{path}".endswith(ends)]
        if not lists:
            raise LookupError(architecture.layers)
        self.layers = lists[-1]
        self.trunk = self.layers[: -len(architecture.layers)].rstrip(".")
        self.n_layers = len(module.get_submodule(self.layers))
        self._find_absent(type(module).__name__)
        self.ln_final = self._find_ln_final(module)
        self.unembed = self._find_unembed(root)
        self.places = {
            name: self._place(module, name, None) for name in MODEL_NAMES if name not in self.absent
        }
        self.of_layer = [
            {name: self._place(module, name, layer) for name in LAYER_NAMES if name not in self.absent}
            for layer in range(self.n_layers)
        ]
        for name in SIZES:
            self._sizes[name] = self._measure(module, name)

    def _find_absent(self, kind: str) -> None:
        known, config = self.architecture, self.config
        if known.is_post_norm(config):
            for name in ("attn_out", "resid_mid", "mlp_out"):
                self.absent[name] = (
                    f"the blocks of this checkpoint ({kind}) normalise the stream itself after each "
                    "addition, so nothing is added to what comes out of them. `resid_pre` and "
                    "`resid_post` exist"
                )
        elif known.is_parallel(config):
            self.absent["resid_mid"] = (
                f"in this checkpoint ({kind}) attention and MLP of a block read the same stream and "
                "are added together, so there is none between them. Use `resid_pre` (what both "
                "read) or `resid_post`"
            )
        if known.pos_embed is None:
            self.absent["pos_embed"] = f"{known.why_no_positions}. `embed` is all that enters the first block"

    def _find_ln_final(self, module: nn.Module) -> str | None:
        try:
            return self._path(module, self.architecture.ln_final)
        except LookupError:
            if not self.architecture.is_post_norm(self.config):
                raise
            self.absent["ln_final"] = "the last block of this checkpoint ends with a norm of its own"
            return None

    def _find_unembed(self, root: Any) -> str | None:
        try:
            head = root._module.get_output_embeddings()
        except (AttributeError, NotImplementedError):
            head = None
        return None if head is None else root._paths.get(id(head))

    # -- paths ---------------------------------------------------------------------------------

    def _path(self, module: nn.Module, paths: Paths, below: str | None = None) -> str:
        """The first of several paths that exists, from the root."""
        base = self.trunk if below is None else below
        for path in (paths,) if isinstance(paths, str) else paths:
            full = f"{base}.{path}".strip(".")
            if has_module(module, full):
                return full
        raise LookupError(paths)

    def _place(self, module: nn.Module, name: str, layer: int | None) -> Place:
        known = self.architecture
        if name == "logits":
            return Place("logits", "", "output")
        below = None if layer is None else f"{self.layers}.{layer}"
        if name in ("resid_pre", "resid_post"):
            assert below is not None
            return Place(f"layers[{layer}].{name}", below, "input" if name == "resid_pre" else "output")
        if name == "z":
            assert below is not None
            path = self._path(module, known.mix, below)
            return Place(
                f"layers[{layer}].attn.z", path, "input", part=Heads(self.config.num_attention_heads)
            )
        paths = getattr(known, name)
        for place in (paths,) if isinstance(paths, str) else paths:
            path, _, kind = place.rpartition(".")
            full = f"{self.trunk if below is None else below}.{path}".strip(".")
            if has_module(module, full):
                return Place(
                    name if layer is None else f"layers[{layer}].{name}",
                    full,
                    kind,
                    factor=float(known.scale(self.config)) if name in ("attn_out", "mlp_out") else 1.0,
                    is_shared=name == "resid_mid",
                    is_overwritten=name in known.overwritten,
                    is_flat=name in known.flat,
                    is_for_all=name == "pos_embed",
                )
        raise LookupError(paths)

    def attention(self, layer: int) -> str:
        """The path of a layer's attention module."""
        return f"{self.layers}.{layer}.{self.architecture.attn}"

    def mlp(self, layer: int) -> str | None:
        """The path of a layer's MLP; None where it is no module of its own."""
        paths = self.architecture.mlp
        for path in (paths,) if isinstance(paths, str) else paths or ():
            full = f"{self.layers}.{layer}.{path}"
            if full in self._modules:
                return full
        return None

    def pattern(self, name: str) -> str:
        """The place of a name with `i` for the layer, for tables."""
        if name in self.places:
            return self.places[name].native.replace("..", ".")
        place = self.of_layer[0][name]
        times = "" if place.factor == 1.0 else f" * {place.factor:g}"
        return place.native.replace(f"{self.layers}.0", f"{self.layers}[i]", 1) + times

    # -- sizes ---------------------------------------------------------------------------------

    def size(self, name: str) -> int | None:
        """One of `SIZES`; None where the model has no one such number."""
        return self._sizes[name]

    def _measure(self, module: nn.Module, name: str) -> int | None:
        config = self.config
        if name == "n_layers":
            return self.n_layers
        if name == "n_heads":
            return int(config.num_attention_heads)
        if name == "n_kv_heads":
            return _kv_heads(config)
        if name == "d_model":
            return int(config.hidden_size)
        if name == "d_head":
            mix = module.get_submodule(self._path(module, self.architecture.mix, f"{self.layers}.0"))
            return _width_in(mix) // int(config.num_attention_heads)
        if name == "d_vocab":
            if self.unembed is None:
                return int(config.vocab_size)
            return int(module.get_submodule(self.unembed).weight.shape[0])
        try:
            down = self._path(module, self.architecture.down, f"{self.layers}.0")
        except LookupError:  # experts: each has a width of its own
            found = getattr(config, "moe_intermediate_size", None) or getattr(
                config, "intermediate_size", None
            )
            return found if isinstance(found, int) else None
        return _width_in(module.get_submodule(down))


def layouts_of(root: Any) -> list[Layout]:
    """What the model may look like: what its configuration says, or else all that fits its modules.

    A guess is worth nothing before it has been checked (`nbsight.models.verifying`).
    """
    config = getattr(root._module, "config", None)
    if config is None or not root._blocks:
        return []
    named = architecture_of(config)
    if named is not None:
        return list(_fitting(root, [named], is_guess=False))
    found = list(_fitting(root, architectures(), is_guess=True))
    # A sum says nothing about its order, so the one that claims more is tried first.
    return sorted(found, key=lambda layout: len(layout.absent))


def _fitting(root: Any, candidates: Any, *, is_guess: bool) -> Iterator[Layout]:
    for candidate in candidates:
        try:
            yield Layout(root, candidate, is_guess=is_guess)
        except (LookupError, AttributeError):  # a module or a switch is not there
            continue


def has_module(module: nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True


def _kv_heads(config: Any) -> int:
    if getattr(config, "multi_query", False) and not getattr(config, "new_decoder_architecture", False):
        return 1
    for name in ("num_key_value_heads", "num_kv_heads"):
        found = getattr(config, name, None)
        if isinstance(found, int):
            return found
    return int(config.num_attention_heads)


def _width_in(module: nn.Module) -> int:
    """The size of what a linear map takes."""
    found = getattr(module, "in_features", None)
    if isinstance(found, int):
        return found
    found = getattr(module, "nx", None)  # transformers' Conv1D keeps its matrix the other way round
    return int(found if isinstance(found, int) else module.weight.shape[0])
