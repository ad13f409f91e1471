"""One place of a model by name: `layers.3.resid_post`, in whoever's words it was given."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from nbsight.errors import InputError, PathError
from nbsight.models.language_model import LanguageModel

__all__ = ["NAMES", "Site", "read_site", "site_of", "sites_of"]

NAMES = (
    "embed",
    "resid_pre",
    *("q", "k", "v", "z", "attn_out"),
    "resid_mid",
    *("mlp_in", "pre", "gate", "post", "mlp_out"),
    "resid_post",
)
"""What has one value for each position, in the order in which a forward makes it."""

_OWN = re.compile(r"(?:model\.)?layers?[.\[](-?\d+)\]?\.(?:attn\.|mlp\.)?(\w+)")
#: What TransformerLens calls the input of an MLP; its other names are in `models/dialects.py`.
_MLP_IN = re.compile(r"blocks\.(\d+)\.(?:ln2\.hook_normalized|hook_mlp_in|mlp\.hook_in)")


@dataclass(frozen=True)
class Site:
    """A place whose values are (batch, position, ...).

    Args:
        name: One of `NAMES`.
        layer: The layer, counted from 0; None for `embed`.
    """

    name: str
    layer: int | None

    @property
    def order(self) -> tuple[int, int]:
        """When a forward makes it."""
        return -1 if self.layer is None else self.layer, NAMES.index(self.name)

    def __str__(self) -> str:
        return self.name if self.layer is None else f"layers.{self.layer}.{self.name}"


def site_of(model: LanguageModel, given: Any) -> Site:
    """The site that is meant.

    Args:
        model: The model that it is in.
        given: `"layers.3.resid_post"`, `"blocks.3.hook_resid_post"`, `("resid_post", 3)` or a `Site`.

    Raises:
        InputError: it is no such thing, or has no value for each position.
        PathError: the model has no such layer or name.
    """
    name, layer = _meaning(given)
    if name == "pre_of_gate":
        assert layer is not None
        name = "gate" if model.std.inside(layer).is_gated else "pre"
    if name not in NAMES or (layer is None) != (name == "embed"):
        raise InputError(
            f"{given!r} is no site with a value for each position; those are `embed`, and of a layer "
            f"{', '.join(NAMES[1:])}: `'layers.3.resid_post'` or `('resid_post', 3)`."
        )
    if layer is None:
        model.std.place(name)
        return Site(name, None)
    layer = model.std._index(layer)
    if name != "mlp_in":
        model.std.place(name, layer)
    elif model.std.layout.mlp(layer) is None:
        raise PathError(f"the MLP of layer {layer} is no module of its own here, so it has no `mlp_in`.")
    return Site(name, layer)


def _meaning(given: Any) -> tuple[str, int | None]:
    if isinstance(given, Site):
        return given.name, given.layer
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str):
        name, layer = given
        if isinstance(layer, int) and not isinstance(layer, bool):
            return name, layer
    if isinstance(given, str):
        for pattern in (_OWN, _MLP_IN):
            found = pattern.fullmatch(given)
            if found is not None:
                return (found[2] if pattern is _OWN else "mlp_in"), int(found[1])
        if given in NAMES:
            return given, None
        if given.startswith("blocks.") or "hook" in given:
            from nbsight.models.dialects import meaning_of

            return meaning_of(given)
    raise InputError(
        f"{given!r} is no site. Write `'layers.3.resid_post'`, `('resid_post', 3)` or TransformerLens's "
        "`'blocks.3.hook_resid_post'`."
    )


def sites_of(model: LanguageModel, given: Any) -> list[Site]:
    """Several sites, each once, in the order in which a forward makes them."""
    one = isinstance(given, (str, Site)) or (
        isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], int)
    )
    listed = [given] if one or not isinstance(given, Iterable) else list(given)
    if not listed:
        raise InputError("no site was given; write `sites=['layers.3.resid_post']`.")
    return sorted({site_of(model, each) for each in listed}, key=lambda site: site.order)


def read_site(model: LanguageModel, site: Site) -> torch.Tensor:
    """The value there inside a trace, (batch, position, ...)."""
    if site.name == "mlp_in":
        return _mlp(model, site).input
    return model.std.get(site.name, site.layer)


def _mlp(model: LanguageModel, site: Site) -> Any:
    assert site.layer is not None
    path = model.std.layout.mlp(site.layer)
    assert path is not None  # looked at when the site was made
    return model.get(path)
