"""The guarantee of the standard names: what each claims is measured on random tokens.

One plain forward of a few tokens, with torch's own hooks at the native places and nothing of nbsight between,
so that kept edits and open traces do not show in it. A name whose claim does not hold is refused.
"""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from nbsight.models.attending import Log
from nbsight.models.distance import distance
from nbsight.models.inside import InsideLayer
from nbsight.models.layout import LAYER_NAMES, Layout, layouts_of
from nbsight.models.places import Place, first_tensor
from nbsight.models.provenance import provenance
from nbsight.models.routing import EXPERT_NAMES
from nbsight.models.verifying_inside import CHECKED, Findings, check_inside
from nbsight.results.verification import NameRow, Verification

__all__ = ["NAMES", "Known", "check", "known_of"]

NAMES = ("embed", "pos_embed", *LAYER_NAMES, "ln_final", "unembed", "logits")
"""The names of the table, in the order in which a model computes them."""

SHAPE = (2, 5)
"""Rows and positions of the tokens: with two rows, rows and positions cannot be taken for each other."""

SEED = 0
"""Of the random tokens."""

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""The accepted length of a difference over the length of the sum, by the stream's dtype.

Where the model adds in the order that is tried, the difference is 0; some round on the way."""

SUM = "resid_post = resid_pre + attn_out + mlp_out"


class Known:
    """What is known of one module tree: what it may look like, and what the check found.

    Args:
        root: The model's root envoy.
    """

    def __init__(self, root: Any) -> None:
        #: What the model may look like; after the check only what it does look like.
        self.layouts = layouts_of(root)
        self.result: Verification | None = None
        self.refused: dict[str, NameRow] = {}
        #: Whether names may have failed because dropout was on; then they get another chance without.
        self._had_dropout = False
        #: What the check of the names inside attention and MLP found; made when the first of them is used.
        self._inside: Findings | None = None
        self._had_dropout_inside = False
        self._lock = threading.RLock()

    def verify(self, root: Any, *, again: bool = False) -> Verification:
        """Check the names, once unless `again` is said.

        Args:
            root: The model's root envoy, its weights loaded.
            again: Whether to check although there is a result.
        """
        with self._lock:
            if self.result is None or again or (self._had_dropout and not root._is_training()):
                self.result = self._check(root)
                self.refused = {row.name: row for row in self.result.rows if row.status == "refused"}
                self._had_dropout = bool(self.refused) and root._is_training()
            return self.result

    def verify_inside(self, root: Any, *, again: bool = False) -> Verification:
        """Check the names inside attention and MLP as well, and add them to the table.

        Args:
            root: The model's root envoy, its weights loaded.
            again: Whether to check although there is a result.
        """
        with self._lock:
            result = self.verify(root)
            is_known = self._inside is not None and "q" in result.names
            may_hold = self._had_dropout_inside and not root._is_training()
            if not self.layouts or (is_known and not again and not may_hold):
                return result
            layout, log = self.layouts[0], Log()
            layers = [InsideLayer(root, layout, layer, log) for layer in range(layout.n_layers)]
            module: nn.Module = root._module
            self._inside = check_inside(root, layout, layers, lambda: _run(root, module), SHAPE[0])
            self._had_dropout_inside = bool(self._inside.refused) and root._is_training()
            self.result = _with_inside(result, layers, self._inside)
            self.refused = {row.name: row for row in self.result.rows if row.status == "refused"}
            return self.result

    def _check(self, root: Any) -> Verification:
        best: tuple[int, Verification, Layout] | None = None
        for layout in self.layouts:
            found = check(root, layout)
            refused = sum(row.status == "refused" for row in found.rows)
            if best is None or refused < best[0]:
                best = (refused, found, layout)
            if not refused:
                break
        if best is None:
            return _unknown(root)
        self.layouts = [best[2]]
        return best[1]


_known: weakref.WeakKeyDictionary[nn.Module, Known] = weakref.WeakKeyDictionary()


def known_of(root: Any) -> Known:
    """What is known of a model's modules; light copies of a model share it."""
    known = _known.get(root._module)
    if known is None:
        known = _known[root._module] = Known(root)
    return known


def check(root: Any, layout: Layout) -> Verification:
    """Measure what a layout claims about a model.

    Args:
        root: The model's root envoy, its weights loaded.
        layout: Where the names are taken to be.
    """
    module: nn.Module = root._module
    table = _Table(root, layout)
    with _Watch(module, layout) as seen:
        try:
            _run(root, module)
        except Exception as error:
            # Whatever a model raises on plain ids: then nothing can be said about it.
            table.refuse_all(f"the check could not run: {type(error).__name__}: {error}")
            return table.result(None)
    table.fill(seen.values)
    return table.result(seen.values.get((0, "resid_pre")))


def _with_inside(table: Verification, layers: list[InsideLayer], found: Findings) -> Verification:
    """The table with lines for the names inside attention and MLP."""
    states, remarks, places = [], [], []
    has_experts = any("router" in layer.places for layer in layers)
    checked = [name for name in CHECKED if has_experts or name not in EXPERT_NAMES]
    for name in checked:
        there = [layer.places[name] for layer in layers if name in layer.places]
        is_there = bool(there or found.remark[name])
        states.append("refused" if name in found.refused else "verified" if is_there else "absent")
        why = layers[0].absent.get(name, "no layer has a matrix for it")
        remarks.append(found.refused.get(name) or (found.remark[name] if is_there else why))
        places.append(_pattern(there[0]) if there else "")
    keep = [number for number, name in enumerate(table.names) if name not in CHECKED]
    return replace(
        table,
        names=(*(table.names[number] for number in keep), *checked),
        places=[*(table.places[number] for number in keep), *places],
        states=[*(table.states[number] for number in keep), *states],
        remarks=[*(table.remarks[number] for number in keep), *remarks],
        error=np.concatenate([table.error[keep], np.stack([found.error[name] for name in checked])]),
    )


def _pattern(place: Place) -> str:
    """A place inside a layer with `i` for the layer."""
    short = re.sub(r"\.source\..*\.source\.", ".source….", place.native)
    return re.sub(r"\.\d+\.", "[i].", short, count=1)


def _unknown(root: Any) -> Verification:
    """The table of a model of which nothing is known."""
    return Verification(
        model=str(root._name),
        architecture=None,
        is_guess=False,
        dtype=str(next(root._module.parameters()).dtype).removeprefix("torch."),
        tolerance=float("nan"),
        names=NAMES,
        places=[""] * len(NAMES),
        states=["absent"] * len(NAMES),
        remarks=["no architecture that is known looks like this model"] * len(NAMES),
        layers=[],
        error=np.zeros((len(NAMES), 0)),
        provenance=provenance(root, seed=SEED),
    )


# --- one forward ----------------------------------------------------------------------------------


def _run(root: Any, module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(SEED)  # nobody's random numbers are used up
    ids = torch.randint(root._limits.vocabulary or 100, SHAPE, generator=generator)
    options: dict[str, Any] = {"use_cache": False} if root._limits.takes("use_cache") else {}
    with torch.no_grad():
        module(input_ids=ids.to(root._input_device()), **options)


class _Watch:
    """Keeps copies of what passes the places in one forward of this thread."""

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        self.values: dict[tuple[int, str], torch.Tensor] = {}
        self._module = module
        self._layout = layout
        self._thread = threading.get_ident()
        self._hooks: list[Any] = []

    def __enter__(self) -> _Watch:
        layout = self._layout
        for layer, places in enumerate(layout.of_layer):
            for name, place in places.items():
                self._at((layer, name), place)
        for name, place in layout.places.items():
            self._at((0, name), place)
        if layout.ln_final is not None:
            self._at((0, "ln_final_in"), Place("", layout.ln_final, "input"))
            self._at((0, "ln_final"), Place("", layout.ln_final, "output"))
        if layout.unembed is not None:
            self._at((0, "unembed_in"), Place("", layout.unembed, "input"))
            self._at((0, "unembed"), Place("", layout.unembed, "output"))
        return self

    def __exit__(self, *_: Any) -> None:
        for hook in self._hooks:
            hook.remove()

    def _at(self, key: tuple[int, str], place: Place) -> None:
        module = self._module.get_submodule(place.path)
        keep = self._keeper(key, place)
        if place.kind == "input":
            # After the user's own hooks: this is what the module gets.
            hook = module.register_forward_pre_hook(
                lambda _, args, kwargs: keep((*args, *kwargs.values())), with_kwargs=True
            )
        elif key[1] == "resid_post":
            # Before the user's own hooks, which may change what leaves the block.
            hook = module.register_forward_hook(lambda _, __, value: keep(value), prepend=True)
        else:
            hook = module.register_forward_hook(lambda _, __, value: keep(value))
        self._hooks.append(hook)

    def _keeper(self, key: tuple[int, str], place: Place) -> Callable[[Any], None]:
        def keep(value: Any) -> None:
            if threading.get_ident() != self._thread:  # another thread uses the same model
                return
            tensor = first_tensor(value).detach()
            if place.is_flat:
                tensor = tensor.reshape(*SHAPE, -1)
            self.values[key] = tensor.clone() * place.factor if place.factor != 1.0 else tensor.clone()

        return keep


# --- what is compared -----------------------------------------------------------------------------


class _Table:
    """Gathers the lines of the result."""

    def __init__(self, root: Any, layout: Layout) -> None:
        self.root = root
        self.layout = layout
        self.error = {name: np.full(layout.n_layers, np.nan) for name in NAMES}
        self.remark = dict.fromkeys(NAMES, "")
        self.refused: dict[str, str] = {}

    def refuse_all(self, why: str) -> None:
        self.refused = dict.fromkeys((name for name in NAMES if name not in self.layout.absent), why)

    def fill(self, seen: dict[tuple[int, str], torch.Tensor]) -> None:
        """Compare what was seen in the forward."""
        layout = self.layout
        for (_, name), value in seen.items():
            if name in NAMES and name != "z" and value.ndim != 3:
                self.refused[name] = f"its shape is {tuple(value.shape)}, not (batch, position, width)"
        for layer in range(layout.n_layers):
            got = {name: seen.get((layer, name)) for name in LAYER_NAMES}
            pre, post = got["resid_pre"], got["resid_post"]
            attn, mlp, mid = got["attn_out"], got["mlp_out"], got["resid_mid"]
            if "attn_out" not in layout.absent:
                self._compare(
                    ("resid_pre", "attn_out", "mlp_out", "resid_post"),
                    layer,
                    post,
                    _sums(pre, attn, mlp),
                    SUM,
                )
            if "resid_mid" not in layout.absent:
                sums = _sums(pre, attn)
                self._compare(("resid_mid",), layer, mid, sums, "= resid_pre + attn_out")
            self._check_heads(layer, got["z"])
        first = seen.get((0, "resid_pre"))
        if "pos_embed" in layout.absent:
            self._compare(("embed",), 0, first, [seen.get((0, "embed"))], "= layers[0].resid_pre")
        else:
            sums = _sums(seen.get((0, "embed")), seen.get((0, "pos_embed")))
            self._compare(("embed", "pos_embed"), 0, first, sums, "layers[0].resid_pre = embed + pos_embed")
        if layout.ln_final is not None:
            self._compare_ends(seen)

    def _compare_ends(self, seen: dict[tuple[int, str], torch.Tensor]) -> None:
        last = self.layout.n_layers - 1
        stream, normed = seen.get((last, "resid_post")), seen.get((0, "ln_final"))
        taken = seen.get((0, "unembed_in"))
        self._compare(
            ("ln_final",), last, seen.get((0, "ln_final_in")), [stream], "reads the last resid_post"
        )
        if taken is not None and normed is not None and taken.shape == normed.shape:
            self._compare(("unembed",), last, taken, [normed], "reads what ln_final gives")
        else:  # a projection, which belongs to neither
            self.remark["unembed"] = "something stands between ln_final and it"

    def _check_heads(self, layer: int, flat: torch.Tensor | None) -> None:
        heads = self.layout.config.num_attention_heads
        if "z" in self.layout.absent:
            return
        if flat is None or flat.ndim != 3 or flat.shape[-1] % heads:
            found = "nothing" if flat is None else f"shape {tuple(flat.shape)}"
            self.refused["z"] = f"at layer {layer} there is {found}, which is not {heads} heads side by side"
        self.remark["z"] = f"{heads} heads of {self.layout.size('d_head')}"

    def _compare(
        self,
        names: tuple[str, ...],
        layer: int,
        whole: torch.Tensor | None,
        sums: list[torch.Tensor | None],
        claim: str,
    ) -> None:
        error = min((distance(whole, one) for one in sums), default=float("inf"))
        tolerance = float("nan") if whole is None else TOLERANCE.get(whole.dtype, 1e-5)
        for name in names:
            self.remark[name] = self.remark[name] or claim
            known = self.error[name][layer]
            self.error[name][layer] = error if np.isnan(known) else max(error, known)
            if not error <= tolerance and name not in ("resid_pre", "resid_post"):
                where = f" at layer {layer}" if self.layout.n_layers > 1 else ""
                self.refused.setdefault(name, f"`{claim}` is off by {error:.1e}{where}")

    def result(self, stream: torch.Tensor | None) -> Verification:
        layout, root = self.layout, self.root
        absent = dict(layout.absent)
        if layout.unembed is None:
            absent["unembed"] = "the model has no output embedding; load it with a language-modelling head"
            absent["logits"] = absent["unembed"]
        states, remarks, places = [], [], []
        for name in NAMES:
            states.append("absent" if name in absent else "refused" if name in self.refused else "verified")
            remarks.append(absent.get(name) or self.refused.get(name) or self.remark[name])
            places.append("" if name in absent else self._where(name))
        parameter = next(root._module.parameters())
        dtype = parameter.dtype if stream is None else stream.dtype
        return Verification(
            model=str(root._name),
            architecture=layout.architecture.name,
            is_guess=layout.is_guess,
            dtype=str(dtype).removeprefix("torch."),
            tolerance=TOLERANCE.get(dtype, 1e-5),
            names=NAMES,
            places=places,
            states=states,
            remarks=remarks,
            layers=range(layout.n_layers),
            error=np.stack([self.error[name] for name in NAMES]),
            provenance=provenance(root, seed=SEED),
        )

    def _where(self, name: str) -> str:
        if name == "ln_final":
            return f"model.{self.layout.ln_final}"
        if name == "unembed":
            return f"model.{self.layout.unembed}"
        return self.layout.pattern(name)


def _sums(*parts: torch.Tensor | None) -> list[torch.Tensor | None]:
    """The sums of some tensors in the orders in which models add them, in their own dtype."""
    if any(part is None for part in parts):
        return []
    if len({part.device for part in parts if part is not None}) > 1:
        parts = tuple(part.cpu() for part in parts if part is not None)
    try:
        if len(parts) == 2:
            return [parts[0] + parts[1]]  # type: ignore[operator]
        a, b, c = parts
        return [(a + b) + c, a + (b + c), (a + c) + b]  # type: ignore[operator]
    except RuntimeError:  # shapes that cannot be added
        return []
