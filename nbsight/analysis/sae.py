"""Sparse autoencoders and transcoders, and their features inside traces and kept edits.

A model's value is never replaced by a reconstruction: what is written is the value itself plus what the
change of some features decodes to. So the part that the features miss, their error term, stays, and where
nothing is changed the model's numbers are its own, bit for bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nbsight.analysis.site import Site, read_site, site_of
from nbsight.errors import InputError, NbsightWarning
from nbsight.models.language_model import LanguageModel

__all__ = ["KINDS", "NORMS", "SaeConfig", "SparseAutoencoder"]

KINDS = ("standard", "gated", "jumprelu", "topk")
NORMS = ("none", "layer_norm", "constant_norm_rescale")
#: What the features become: numbers by feature, or what a function makes of all of them.
Change = Mapping[int, float] | Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class SaeConfig:
    """What the weights do not say.

    Args:
        kind: One of `KINDS`.
        hook_in: The site that is encoded, in TransformerLens's words or ours.
        hook_out: The site that is decoded to; the same for an autoencoder.
        is_transcoder: Whether it maps one site to another.
        k: Features that may be active at a position, for "topk".
        normalize: One of `NORMS`: what is done to a value before it is encoded.
        apply_b_dec_to_input: Whether the decoder's bias is taken off first.
        rescale_by_decoder: Whether features are measured in units of their decoder rows' norms, for "topk".
        model_name: What it was trained on, as whoever trained it called that.
    """

    kind: str
    hook_in: str
    hook_out: str
    is_transcoder: bool = False
    k: int | None = None
    normalize: str = "none"
    apply_b_dec_to_input: bool = True
    rescale_by_decoder: bool = False
    model_name: str = ""


class SparseAutoencoder(nn.Module):
    """A sparse autoencoder or a transcoder; `load_sae` reads one from a folder.

        sae = load_sae("folder")
        with model.trace(prompt):
            acts = sae.features(model).save()            # (batch, position, d_sae)
        with model.edit() as quiet:
            sae.change(quiet, {17: 0.0})                 # feature 17 is silent from now on

    Args:
        config: What the weights do not say.
        weights: `W_enc` (d_in, d_sae), `W_dec` (d_sae, d_out), `b_dec` (d_out,); and by kind `b_enc`,
            `threshold` (jumprelu), `b_gate`, `b_mag`, `r_mag` (gated), `W_skip` (d_out, d_in).

    Source: Bricken et al., "Towards monosemanticity", 2023; gated and jumprelu: Rajamanoharan et al., 2024;
        topk: Gao et al., 2024; transcoders: Dunefsky et al., 2024.
    """

    W_enc: torch.Tensor
    W_dec: torch.Tensor
    b_dec: torch.Tensor

    def __init__(self, config: SaeConfig, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.config = config
        for name, value in weights.items():
            self.register_parameter(name, nn.Parameter(value.detach().clone(), requires_grad=False))
        self.d_in, self.d_sae = self.W_enc.shape
        self.d_out = int(self.W_dec.shape[1])

    # -- numbers -------------------------------------------------------------------------------

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """How active every feature is, (..., d_sae).

        Args:
            x: What the model holds at the site, (..., d_in), or (..., head, d_head) for heads.
        """
        inner, _, _ = self._normalised(self._flat(x))
        if self.config.apply_b_dec_to_input:
            inner = inner - self.b_dec
        given = inner @ self.W_enc
        if self.config.kind == "gated":
            size = (inner @ (self.W_enc * self.r_mag.exp()) + self.b_mag).relu()
            return size * (given + self.b_gate > 0)
        given = given + self.b_enc
        if self.config.kind == "jumprelu":
            return given.relu() * (given > self.threshold)
        if self.config.kind == "topk":
            if self.config.rescale_by_decoder:
                given = given * self.W_dec.norm(dim=-1)
            assert self.config.k is not None
            top = given.topk(self.config.k, dim=-1)
            return torch.zeros_like(given).scatter(-1, top.indices, top.values.relu())
        return given.relu()

    def decode(self, acts: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """What the features stand for at the output site, (..., d_out).

        Args:
            acts: Features, (..., d_sae).
            x: What was encoded: its size, where inputs are normalised, and its skip connection.
        """
        flat = self._flat(x)
        _, scale, shift = self._normalised(flat)
        out = self._directions(acts) + self.b_dec
        if not self.config.is_transcoder:
            return out * scale + shift
        return out + flat @ self.W_skip.T if "W_skip" in self._parameters else out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The reconstruction of the output site from the input site, (..., d_out)."""
        return self.decode(self.encode(x), x)

    def _directions(self, acts: torch.Tensor) -> torch.Tensor:
        if self.config.rescale_by_decoder:
            acts = acts / self.W_dec.norm(dim=-1)
        return acts @ self.W_dec

    def _flat(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] != self.d_in and x.ndim > 1 and x.shape[-1] * x.shape[-2] == self.d_in:
            x = x.flatten(-2)
        if x.shape[-1] != self.d_in:
            raise InputError(
                f"the features are of values of width {self.d_in} ({self.config.hook_in}); this one has "
                f"shape {tuple(x.shape)}."
            )
        return x.to(self.W_enc)

    def _normalised(self, x: torch.Tensor) -> tuple[torch.Tensor, Any, Any]:
        """The value that is encoded, and the scale and the shift that lead back."""
        if self.config.normalize == "layer_norm":
            mean = x.mean(-1, keepdim=True)
            size = x.std(-1, keepdim=True)
            return (x - mean) / (size + 1e-5), size, mean
        if self.config.normalize == "constant_norm_rescale":
            size = x.norm(dim=-1, keepdim=True) / self.d_in**0.5
            return x / size, size, 0.0
        return x, 1.0, 0.0

    # -- in a model ----------------------------------------------------------------------------

    def sites(self, model: LanguageModel) -> tuple[Site, Site]:
        """Where it is encoded and decoded in a model.

        Raises:
            InputError: values there have another width.
            PathError: the model has no such place.
        """
        found = tuple(site_of(model, hook) for hook in (self.config.hook_in, self.config.hook_out))
        for site, width in zip(found, (self.d_in, self.d_out), strict=True):
            has = _width(model, site)
            if has is not None and has != width:
                other = f", {self.config.model_name}" if self.config.model_name else ""
                raise InputError(
                    f"these features are of width {width} at {site} and {model._name} has width {has} there: "
                    f"they are of another model{other}."
                )
        known, own = self.config.model_name, str(model._name)
        if known and not _alike(known, own):
            warnings.warn(
                f"these features were trained on {known}, and this model is {own}.",
                NbsightWarning,
                stacklevel=3,
            )
        return found[0], found[1]

    def features(self, model: LanguageModel) -> torch.Tensor:
        """Inside a trace: how active every feature is, (batch, position, d_sae).

        Args:
            model: The model that is traced.
        """
        return self.encode(read_site(model, self.sites(model)[0]))

    def change(self, model: LanguageModel, change: Change, *, positions: Any = slice(None)) -> torch.Tensor:
        """Inside a trace or a kept edit: set some features and let the model go on; the error term stays.

        Args:
            model: The model that is traced or edited.
            change: `{feature: value}`, in the units of `features`; or a function from features to features.
            positions: Which positions are changed, as an index of that axis.

        Returns:
            The features before, (batch, position, d_sae).
        """
        begin, end = self.sites(model)
        value = read_site(model, begin)
        before = self.encode(value)
        after = before.clone()
        after[:, positions] = self._changed(before, change)[:, positions]
        moved = self._directions(after - before)
        if not self.config.is_transcoder:
            moved = moved * self._normalised(self._flat(value))[1]
        held = value if begin == end else read_site(model, end)
        _write(model, end, held + moved.to(held).reshape(held.shape))
        return before

    def _changed(self, acts: torch.Tensor, change: Change) -> torch.Tensor:
        if callable(change):
            after = change(acts.clone())
            if not isinstance(after, torch.Tensor) or after.shape != acts.shape:
                raise InputError(
                    f"the function turns features of shape {tuple(acts.shape)} into features of that shape."
                )
            return after
        after = acts.clone()
        for feature, value in change.items():
            if not -self.d_sae <= feature < self.d_sae:
                raise InputError(f"there are {self.d_sae} features, counted from 0; there is no {feature}.")
            after[..., feature] = value
        return after

    def extra_repr(self) -> str:
        """What it is, in one line."""
        what = "transcoder" if self.config.is_transcoder else "autoencoder"
        path = (
            self.config.hook_in
            if not self.config.is_transcoder
            else (f"{self.config.hook_in} → {self.config.hook_out}")
        )
        return f"{self.config.kind} {what}, {self.d_sae} features of {path} ({self.d_in})"


def _write(model: LanguageModel, site: Site, value: torch.Tensor) -> None:
    if site.name == "mlp_in":
        raise InputError("features are written to what a module gives, such as `mlp_out`, not to its input.")
    model.std.set(site.name, site.layer, value)


def _width(model: LanguageModel, site: Site) -> int | None:
    """The width of a site's values, heads put together; None where only a run tells."""
    size = model.std.layout.size
    if site.name in ("q", "z"):
        heads, inner = size("n_heads"), size("d_head")
        return None if heads is None or inner is None else heads * inner
    return None if site.name in ("k", "v", "pre", "gate", "post") else size("d_model")


def _alike(known: str, own: str) -> bool:
    """Whether two names may be of one model: gpt2-small and openai-community/gpt2."""
    first, second = (name.lower().rpartition("/")[2].removesuffix("-small") for name in (known, own))
    return first in second or second in first
