"""The guarantee of the names inside attention and MLP: what each claims is measured on random tokens.

One forward with the doors of `attending.py` open and nobody's edits in it. The claims tie the names to each
other and to what the rest of the model does with them, so none of them can be another tensor of that shape:

- scores: the difference between two prompts is a multiple of the difference of queries times keys. Masks and
  position biases are the same in both prompts, so they drop out.
- pattern: its rows sum to 1, and pattern times values is `z` as the loaded attention gives it.
- rot_q, rot_k: as scores; a rotation leaves the product of two prompts' queries at one position alone.
- result: its sum over heads and the bias is what the attention gives.
- post: what the model's own activation makes of gate and pre.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from nbsight.core.run import Run
from nbsight.errors import PathError
from nbsight.models.attending import CHECK, TOLERANCE
from nbsight.models.contributions import bias_of, contributions
from nbsight.models.distance import distance
from nbsight.models.fetching import parameter_of
from nbsight.models.inside import INSIDE_NAMES, InsideLayer
from nbsight.models.layout import Layout
from nbsight.models.places import Place, first_tensor, tensor_at
from nbsight.models.routing import choices
from nbsight.models.weights import layer_weight

__all__ = ["CHECKED", "Findings", "check_inside"]

_WEIGHTS = {
    "W_Q": "q",
    "W_K": "k",
    "W_V": "v",
    "W_O": "mixed",
    "W_in": "pre",
    "W_gate": "gate",
    "W_out": "down",
}

CHECKED = (*INSIDE_NAMES, *_WEIGHTS)
"""The names that are checked here."""

_NORMS = {"q": ("q_norm", "q_layernorm"), "k": ("k_norm", "k_layernorm")}
_ACTIVATIONS = ("act_fn", "act", "activation_fn", "gelu_impl", "activation")


class Findings:
    """What was measured.

    Args:
        n_layers: The number of layers.
    """

    def __init__(self, n_layers: int) -> None:
        self.error = {name: np.full(n_layers, np.nan) for name in CHECKED}
        self.remark = dict.fromkeys(CHECKED, "")
        self.refused: dict[str, str] = {}

    def note(self, names: Sequence[str], layer: int, error: float, claim: str, dtype: torch.dtype) -> None:
        """Remember how far a claim about some names is off in a layer."""
        for name in names:
            self.remark[name] = self.remark[name] or claim
            known = self.error[name][layer]
            self.error[name][layer] = error if np.isnan(known) else max(error, known)
            if not error <= TOLERANCE.get(dtype, 1e-5):
                self.refused.setdefault(name, f"`{claim}` is off by {error:.1e} at layer {layer}")


def check_inside(
    root: Any, layout: Layout, layers: list[InsideLayer], forward: Callable[[], Any], rows: int
) -> Findings:
    """Measure what the names inside the layers claim.

    Args:
        root: The model's root envoy, its weights loaded.
        layout: Where the other names are.
        layers: Where the names inside are.
        forward: Runs the model on random tokens, at least two prompts of one length.
        rows: How many prompts.
    """
    found = Findings(layout.n_layers)
    run = Run(forward, root._module, grad=False, name=root._path_of)
    run.marks = (CHECK,)
    seen: dict[tuple[int, str], torch.Tensor] = {}
    try:
        run.open([root._module])
        for layer, inside in enumerate(layers):
            for name, place in _watched(root, layout, inside).items():
                envoy = place.envoy(root)
                run.open(envoy._gates())
                kind = "output" if place.kind == "output" else "input"
                run.watch((envoy._module, kind), _keeper(seen, (layer, name), place, rows))
        with torch.no_grad():
            run.finish()
    except Exception as error:
        # Whatever a model raises on plain ids: then nothing can be said about it.
        why = f"the check could not run: {type(error).__name__}: {error}"
        found.refused = {name: why for inside in layers for name in inside.places}
        return found
    finally:
        run.close()
    for layer, inside in enumerate(layers):
        values = {name: value for (number, name), value in seen.items() if number == layer}
        for name in inside.places:
            if name not in ("result", "expert_out") and name not in values:
                found.refused.setdefault(name, f"the forward of layer {layer} does not come by it")
        with torch.no_grad():
            _Layer(root, layout, inside, layer, values, found).check()
    for name in ("q", "k", "v", "scores", "pattern"):
        if any(name in inside.places for inside in layers) and not found.remark[name]:
            why = next(
                (one.absent["pattern"] for one in layers if "pattern" in one.absent), "no pattern was seen"
            )
            found.refused.setdefault(name, f"it could not be compared with a pattern: {why}")
    return found


def _watched(root: Any, layout: Layout, inside: InsideLayer) -> dict[str, Place]:
    places = {name: place for name, place in inside.places.items() if place.kind != "result"}
    z = layout.of_layer[inside._layer]["z"]
    places["z"] = z
    places["mixed"] = Place("", z.path, "output")
    attn_out = layout.of_layer[inside._layer].get("attn_out")
    if attn_out is not None:
        places["attn_out"] = attn_out
    if "post" in places:
        places["down"] = replace(places["post"], kind="output")
    for value in _WEIGHTS.values():
        if value in places and places[value].find is None:
            places[f"{value} in"] = replace(places[value], kind="input", part=None)
    if "expert_out" in inside.places:
        path = inside.places["expert_out"].path
        places["experts in"], places["experts"] = Place("", path, "input"), Place("", path, "output")
    if "router" in places:
        places["router in"] = Place("", re.sub(r"\.source\..*", "", places["router"].path), "input")
    module = root._module.get_submodule(inside.core)
    for name, norms in _NORMS.items():
        for norm in norms:
            if norm in module._modules and module._modules[norm] is not None:
                places[f"{name} norm in"] = Place("", f"{inside.core}.{norm}", "input")
                places[f"{name} norm"] = Place("", f"{inside.core}.{norm}", "output")
    return places


def _keeper(
    seen: dict[tuple[int, str], torch.Tensor], key: tuple[int, str], place: Place, rows: int
) -> Callable[[Any], None]:
    def keep(site: Any) -> None:
        value = site.value
        if place.kind == "input":
            value = value[0][0] if place.find else (*value[0], *value[1].values())
        tensor = (tensor_at(place, value) if place.argument else first_tensor(value)).detach()
        if place.is_flat:
            tensor = tensor.reshape(rows, -1, tensor.shape[-1])
        if place.part is not None:
            tensor = place.part.take(tensor, None)
        seen[key] = tensor.clone() * place.factor if place.factor != 1.0 else tensor.clone()

    return keep


class _Layer:
    """The claims about one layer."""

    def __init__(
        self,
        root: Any,
        layout: Layout,
        inside: InsideLayer,
        layer: int,
        values: dict[str, torch.Tensor],
        found: Findings,
    ) -> None:
        self.root = root
        self.module = root._module
        self.layout = layout
        self.inside = inside
        self.layer = layer
        #: Float64 on the processor, whatever the model computes in.
        self.got = {name: value.double().cpu() for name, value in values.items()}
        clip = getattr(getattr(layout.config, "attn_config", layout.config), "clip_qkv", None)
        if clip:  # some models clip them before anything else reads them
            for name in {"q", "k", "v"} & set(self.got):
                self.got[name] = self.got[name].clamp(-clip, clip)
        self.raw = values
        self.found = found
        self.dtype = next(iter(values.values())).dtype if values else torch.float32

    def check(self) -> None:
        self._check_scores()
        self._check_pattern()
        for name in ("q", "k"):
            self._check_turned(name)
        self._check_result()
        self._check_mlp()
        self._check_experts()
        for name, value in _WEIGHTS.items():
            self._check_weight(name, value)

    def _note(self, names: Sequence[str], error: float, claim: str) -> None:
        names = [name for name in names if name in self.inside.places or name in _WEIGHTS]
        self.found.note(names, self.layer, error, claim, self.dtype)

    def _has(self, *names: str) -> bool:
        return all(name in self.got for name in names)

    def _check_scores(self) -> None:
        turned = "rot_" if self._has("rot_q", "rot_k") else ""
        names = (f"{turned}q", f"{turned}k")
        if not self._has("scores", *names):
            return
        if self.got["scores"].ndim != 4:
            self._note(("scores",), float("inf"), "scores are (batch, head, query position, key position)")
            return
        q, k = (self._scored(name).transpose(1, 2) for name in names)
        product = q @ _repeated(k, q.shape[1]).transpose(-1, -2)
        scores = self.got["scores"]
        is_turned = not turned and self.layout.architecture.is_rotary(self.layout.config)
        if is_turned:  # a query and a key of one position are turned alike, which their product does not show
            scores, product = (each.diagonal(dim1=-2, dim2=-1) for each in (scores, product))
        lowest = torch.finfo(torch.float16).min / 2  # no score is that low, any mask is
        cap = getattr(self.layout.config, "attn_logit_softcapping", None)
        if cap:
            scores = torch.where(scores > lowest, (scores / cap).clamp(-1, 1).atanh() * cap, scores)
        is_seen = ((scores[0] > lowest) & (scores[1] > lowest)).flatten()
        scale, error = _fit(
            (scores[0] - scores[1]).flatten()[is_seen], (product[0] - product[1]).flatten()[is_seen]
        )
        capped = f", capped at {cap:g}" if cap else ""
        at = " at its own position" if is_turned else ""
        claim = f"scores = {scale:.3g} {names[0]} · {names[1]} + mask{capped}{at}"
        self._note(("scores", *names), error, claim)

    def _scored(self, name: str) -> torch.Tensor:
        """Queries or keys as the scores see them: after a norm of theirs, where nothing later is known."""
        found = self._as_heads(f"{name} norm", self.got[name]) if self._has(f"{name} norm") else None
        return self.got[name] if found is None else found

    def _check_pattern(self) -> None:
        if not self._has("pattern", "v", "z"):
            return
        pattern, v = self.got["pattern"], self.got["v"].transpose(1, 2)
        if pattern.ndim != 4:
            self._note(("pattern",), float("inf"), "a pattern is (batch, head, query position, key position)")
            return
        sums = pattern.sum(-1)
        has_sink = bool((sums < 1 - 1e-2).any())
        mixed = (pattern @ _repeated(v, pattern.shape[1])).transpose(1, 2)
        rest = ", the rest goes to a sink" if has_sink else ""
        if not has_sink:
            self._note(("pattern",), float((sums - 1).abs().max()), "rows sum to 1, z = pattern · v")
        self._note(("pattern", "v"), distance(self.got["z"], mixed), f"z = pattern · v{rest}")

    def _check_turned(self, name: str) -> None:
        if not self._has(name, f"rot_{name}"):
            return
        plain, turned = self.got[name], self.got[f"rot_{name}"]
        normed = ""
        if self._has(f"{name} norm"):
            taken, given = (self._as_heads(each, plain) for each in (f"{name} norm in", f"{name} norm"))
            if taken is None or given is None:
                self._note((name,), float("inf"), f"{name} is what its norm reads")
                return
            plain, normed = given, " after its norm"
        if turned.shape[2] != plain.shape[2]:  # some models repeat keys for their queries beforehand
            plain = plain.repeat_interleave(turned.shape[2] // plain.shape[2], dim=2)
        one = (turned[0] * turned[1]).sum(-1).flatten()
        _, error = _fit(one, (plain[0] * plain[1]).sum(-1).flatten())
        self._note((name,), error, f"rot_{name} turns it{normed} by its position")

    def _as_heads(self, what: str, like: torch.Tensor) -> torch.Tensor | None:
        """What a norm takes or gives in the form of the queries, heads before positions or not."""

        def shaped(value: torch.Tensor) -> list[torch.Tensor]:
            if value.ndim == 3:
                value = value.unflatten(-1, (like.shape[2], -1))
            return [one for one in (value, value.transpose(1, 2)) if one.shape == like.shape]

        name = what.removesuffix(" in")
        plain = shaped(self.got[f"{name} in"])
        same = [number for number, one in enumerate(plain) if torch.equal(one, like)]
        return shaped(self.got[what])[same[0]] if same else None

    def _check_result(self) -> None:
        if "result" not in self.inside.places or not self._has("z", "mixed"):
            return
        mix = self.module.get_submodule(self.inside.places["result"].path)
        try:
            result = contributions(mix, self.raw["z"], is_recorded=False, root=self.module)
        except Exception as problem:  # a map that is none of ours
            self.found.refused["result"] = f"it cannot be computed: {problem}"
            return
        factor = self.inside.places["result"].factor
        whole = (result.sum(2) + bias_of(mix, result, self.module)).double().cpu() * factor
        claim, error = "sum over heads + b_O = attn_out", float("inf")
        if self._has("attn_out"):
            error = distance(self.got["attn_out"], whole)
        inner = distance(self.got["mixed"] * factor, whole)
        if inner < error:  # a norm makes attn_out of it
            claim, error = "sum over heads + b_O = what the norm before attn_out reads", inner
        self._note(("result",), error, claim)

    def _check_mlp(self) -> None:
        if not self._has("pre", "post"):
            return
        activation = self._activation()
        if activation is None:
            self._note(("pre", "gate", "post"), float("nan"), "the activation was not found")
            return
        claim = "post = act(gate) · pre" if self._has("gate") else "post = act(pre)"
        if self._has("gate"):
            made = activation(self.raw["gate"]) * self.raw["pre"]
        else:
            made = activation(self.raw["pre"])
        self._note(("pre", "gate", "post"), distance(self.got["post"], made.double().cpu()), claim)

    def _check_experts(self) -> None:
        if self._has("router", "router in"):
            path = re.sub(r"\.source\..*", "", self.inside.places["router"].path)
            module = self.module.get_submodule(path)
            weight, bias = (parameter_of(module, name, self.module) for name in ("weight", "bias"))
            made = self.got["router in"].flatten(0, -2) @ weight.detach().double().cpu().T
            made = made if bias is None else made + bias.detach().double().cpu()
            self._note(
                ("router",), distance(self.got["router"].flatten(0, 1), made), "router = x · W of the router"
            )
        names = ("expert_ids", "expert_weights", "expert_out")
        if not self._has("experts in", "experts", *names[:2]):
            return
        module = self.module.get_submodule(self.inside.places["expert_out"].path)
        given = (self.raw[name].flatten(0, 1) for name in names[:2])
        try:
            made = choices(module, self.raw["experts in"], *given).sum(1)
        except Exception as problem:  # experts that are called in another way
            self.found.refused.update(
                dict.fromkeys(names, f"the experts cannot be asked one by one: {problem}")
            )
            return
        claim = "each choice by itself, summed = what the experts give"
        self._note(names, distance(self.got["experts"], made.double().cpu()), claim)

    def _check_weight(self, name: str, value: str) -> None:
        if not self._has(value, f"{value} in"):
            return
        try:
            weight, bias = (
                layer_weight(self.root, self.layout, self.inside, self.layer, f"{kind}_{name[2:]}")
                .double()
                .cpu()
                for kind in "Wb"
            )
        except PathError:  # said when it is asked for
            return
        taken = self.got[f"{value} in"]
        if name == "W_O":
            made = taken @ weight.flatten(0, 1) + bias
            claim = "attention = z · W_O + b_O"
        elif weight.ndim == 3:
            made = torch.einsum("bpm,hmd->bphd", taken, weight) + bias
            claim = f"{value} = x · {name} + b_{name[2:]}"
        else:
            made = taken @ weight + bias
            claim = f"{'MLP' if value == 'down' else value} = x · {name} + b_{name[2:]}"
        self._note((name,), distance(self.raw[value].double().cpu(), made), claim)

    def _activation(self) -> Any:
        path = self.inside.places["post"].path.rpartition(".")[0]
        module = self.module.get_submodule(path)
        found = (getattr(module, name, None) for name in _ACTIVATIONS)
        return next((one for one in found if callable(one)), None)


def _repeated(heads: torch.Tensor, count: int) -> torch.Tensor:
    """Keys or values (batch, head, …) for as many heads as queries have."""
    return heads.repeat_interleave(count // heads.shape[1], dim=1)


def _fit(wanted: torch.Tensor, got: torch.Tensor) -> tuple[float, float]:
    """The factor between two tensors, and how far they are apart with it, relative to the wanted one."""
    if not wanted.numel() or wanted.shape != got.shape:
        return float("nan"), float("inf")
    scale = float((wanted @ got) / (got @ got).clamp_min(1e-300))
    error = float((wanted - scale * got).norm() / wanted.norm().clamp_min(1e-300))
    return scale, error
