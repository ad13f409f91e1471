"""Names inside attention and MLP: where each is in one layer, or why it is not there.

    layers[i].attn.q  .k  .v      what the projections give, (batch, position, head, d_head)
    layers[i].attn.rot_q  .rot_k  what is scored, turned by its position
    layers[i].attn.scores         what the softmax gets, (batch, head, query position, key position)
    layers[i].attn.pattern        what is multiplied with the values
    layers[i].attn.result         what each head adds, (batch, position, head, d_model)
    layers[i].mlp.pre  .gate      what the MLP's matrices give, (batch, position, d_mlp)
    layers[i].mlp.post            what its last matrix gets
    layers[i].mlp.router  …       of mixtures of experts: `nbsight.models.routing`

They are found when they are first asked for, so that a model whose inside nobody looks at has no cost.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from nbsight.core.holding import HeldTracer
from nbsight.errors import PathError, SourceNotAvailable
from nbsight.models.architectures.base import Paths
from nbsight.models.attending import Attending, Log
from nbsight.models.layout import Layout, has_module
from nbsight.models.parts import Columns, Groups, Heads, Keys, Part, Swapped
from nbsight.models.places import Place
from nbsight.models.routing import EXPERT_NAMES, find_place

__all__ = ["ATTN_NAMES", "INSIDE_NAMES", "MLP_NAMES", "InsideLayer"]

ATTN_NAMES = ("q", "k", "v", "rot_q", "rot_k", "scores", "pattern", "result")
MLP_NAMES = ("pre", "gate", "post", *EXPERT_NAMES)

INSIDE_NAMES = (*ATTN_NAMES, *MLP_NAMES)
"""The names, in the order in which a block computes them."""


class InsideLayer:
    """The places inside one layer.

    Args:
        root: The model's root envoy.
        layout: Where the other names are.
        layer: The number of the layer.
        log: Where calls with more than the loaded attention are noted.
    """

    def __init__(self, root: Any, layout: Layout, layer: int, log: Log) -> None:
        self._root = root
        self._layout = layout
        self._layer = layer
        self._log = log
        self._below = f"{layout.layers}.{layer}"
        self._attending: Attending | None = None
        #: Why a name is not there, for each that is not.
        self.absent: dict[str, str] = {}
        self.places: dict[str, Place] = {}
        for name in INSIDE_NAMES:
            try:
                self.places[name] = self._make(name)
            except _Missing as why:
                self.absent[name] = str(why)
            except SourceNotAvailable as why:
                self.absent[name] = f"it is inside the attention's forward, and that cannot be read: {why}"

    @property
    def core(self) -> str:
        """The path of the module in whose forward the heads attend."""
        return self._layout.of_layer[self._layer]["z"].path.rpartition(".")[0]

    @property
    def attending(self) -> Attending:
        """Where the attention is computed.

        Raises:
            SourceNotAvailable: nobody knows.
        """
        module = self._root._at(self.core)._module
        if self._attending is None or self._attending.envoy._module is not module:
            envoy = self._root._at(self.core)
            self._attending = Attending(envoy, self._layout.architecture, self._layer, self._log)
        return self._attending

    def prepare(self, tracer: Any, name: str) -> None:
        """Let a run that is about to read `name` be able to stop at what comes after it in the same forward.

        Queries, keys and values are read inside the attention's forward: when that has begun, it is too late.
        """
        if name not in ("q", "k", "v") or tracer.run is None or self._attending is None:
            return
        if not isinstance(tracer, HeldTracer):
            tracer.run.open(self._attending.sources)
        elif tracer.state == "open":
            for source in self._attending.sources:
                tracer.trail.watch_operations(tracer.run, source)
            tracer._park()

    # -- making --------------------------------------------------------------------------------

    def _make(self, name: str) -> Place:
        if name in ("q", "k", "v"):
            return self._projection(name)
        if name in ("rot_q", "rot_k"):
            return self._rotated(name)
        if name in ("scores", "pattern"):
            return self._weights(name)
        if name == "result":
            place = self._layout.of_layer[self._layer]["z"]
            return Place(self._label(name), place.path, "result", factor=self._factor())
        if name in EXPERT_NAMES:
            found = find_place(self._root, self._layout.mlp(self._layer), self._label(name), name)
            if isinstance(found, str):
                raise _Missing(found)
            return found
        return self._mlp(name)

    def _label(self, name: str) -> str:
        return f"layers[{self._layer}].{'mlp' if name in MLP_NAMES else 'attn'}.{name}"

    def _factor(self) -> float:
        place = self._layout.of_layer[self._layer].get("attn_out")
        return 1.0 if place is None else place.factor

    def _path(self, paths: Paths | None) -> str | None:
        """The first of several paths that this layer has."""
        for path in (paths,) if isinstance(paths, str) else paths or ():
            full = f"{self._below}.{path}"
            if has_module(self._root._module, full):
                return full
        return None

    def _projection(self, name: str) -> Place:
        known, layout = self._layout.architecture, self._layout
        heads = layout.size("n_heads" if name == "q" else "n_kv_heads")
        assert heads is not None
        fused = self._path(known.qkv)
        clips = bool(getattr(layout.config, "clip_qkv", None))  # in place, where each has its own matrix
        if fused is not None:
            return Place(self._label(name), fused, "output", part=self._fused(name))
        path = self._path(getattr(known, name))
        if path is not None:
            return Place(self._label(name), path, "output", part=Heads(heads), is_overwritten=clips)
        if name == "v":
            return self._given("v", "value")
        raise _Missing(
            f"the {'queries' if name == 'q' else 'keys'} of this layer are put together from several parts. "
            f"What is scored is `model.layers[{self._layer}].attn.rot_{name}`"
        )

    def _fused(self, name: str) -> Part:
        layout = self._layout
        heads, kv, d_head = (layout.size(size) for size in ("n_heads", "n_kv_heads", "d_head"))
        assert heads is not None
        assert kv is not None
        assert d_head is not None
        if layout.architecture.is_grouped(layout.config):
            per = heads // kv
            first, count = {"q": (0, per), "k": (per, 1), "v": (per + 1, 1)}[name]
            return Groups(kv, per + 2, first, count)
        start = {"q": 0, "k": heads, "v": heads + kv}[name] * d_head
        count = heads if name == "q" else kv
        return Columns(start, count * d_head, count)

    def _given(self, name: str, argument: str) -> Place:
        """The place of what the attention function is given."""
        attending = self.attending
        if attending.call is None:
            raise _Missing("no single call gets queries, keys and values in this model")
        return Place(
            self._label(name),
            attending.call._path,
            "inputs",
            part=Swapped(has_past=name != "rot_q"),
            argument=attending.argument(argument),
            find=partial(self._find, "call"),
            is_overwritten=True,  # a cache may hold the very tensor
        )

    def _rotated(self, name: str) -> Place:
        if not self._layout.architecture.is_rotary(self._layout.config):
            plain = name.removeprefix("rot_")
            raise _Missing(
                "positions turn no queries and keys in this model. What is scored is "
                f"`model.layers[{self._layer}].attn.{plain}`"
            )
        return self._given(name, "query" if name == "rot_q" else "key")

    def _weights(self, name: str) -> Place:
        operation, kind = getattr(self.attending, name)
        return Place(self._label(name), operation._path, kind, part=Keys(), find=partial(self._find, name))

    def _find(self, what: str, root: Any) -> Any:
        """The operation that is a place, as it is now."""
        found = getattr(self.attending, what)
        return found[0] if isinstance(found, tuple) else found

    # -- the MLP -------------------------------------------------------------------------------

    def _mlp(self, name: str) -> Place:
        known = self._layout.architecture
        down = self._path(known.down)
        if down is None:
            raise _Missing(
                f"the MLP of layer {self._layer} is a mixture of experts, each with values of its own"
            )
        is_flat = "mlp_out" in known.flat
        if name == "post":
            return Place(self._label(name), down, "input", is_flat=is_flat)
        fused = self._path(known.gate_up)
        gate = self._path(known.gate)
        if name == "gate" and fused is None and gate is None:
            raise _Missing(
                "the MLP of this model has no gate. What its activation is applied to is "
                f"`model.layers[{self._layer}].mlp.pre`"
            )
        if fused is not None:
            width = self._layout.size("d_mlp")
            assert width is not None
            part = Columns(0 if name == "gate" else width, width)
            return Place(self._label(name), fused, "output", part=part)
        path = gate if name == "gate" else self._path(known.up)
        if path is None:
            raise _Missing("the MLP of this layer has no module that gives it")
        return Place(self._label(name), path, "output", is_flat=is_flat)

    @property
    def is_gated(self) -> bool:
        """Whether the MLP has a gate."""
        return "gate" in self.places

    def place(self, name: str) -> Place:
        """The place of a name.

        Raises:
            PathError: this layer has none; the message says why.
        """
        if name in self.places:
            return self.places[name]
        raise PathError(f"`model.{self._label(name)}` does not exist: {self.absent[name]}.")


class _Missing(Exception):
    """Why there is no such name."""
