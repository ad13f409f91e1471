"""Sparse autoencoders and transcoders from folders as SAELens writes them: cfg.json and safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from nbsight.analysis.sae import KINDS, NORMS, SaeConfig, SparseAutoencoder
from nbsight.errors import InputError

__all__ = ["load_sae"]

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
_OF_KIND = {
    "standard": ("b_enc",),
    "jumprelu": ("b_enc", "threshold"),
    "topk": ("b_enc",),
    "gated": ("b_gate", "b_mag", "r_mag"),
}


def load_sae(
    folder: str | Path, *, device: Any = None, dtype: Any = None, input_scale: float | None = None
) -> SparseAutoencoder:
    """Read a sparse autoencoder or a transcoder from a folder in SAELens's format.

    Args:
        folder: It holds `cfg.json` and `sae_weights.safetensors`; older and newer keys are known.
        device: Where the weights go; the CPU by default.
        dtype: What is computed in; by default what the file holds.
        input_scale: What inputs are multiplied with, for `expected_average_only_in` where the factor is not
            folded into the weights.

    Raises:
        InputError: a file is missing, or of a kind that is not known; or weights do not fit together.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(f"{folder} has no {name}; a folder of SAELens's holds {CONFIG} and {WEIGHTS}.")
    try:
        raw = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        weights = load_file(folder / WEIGHTS)
    except (ValueError, SafetensorError, OSError) as error:
        raise InputError(f"{folder} cannot be read: {error}.") from None
    config = _config(raw, folder)
    weights = _fitting(weights, config, raw, folder)
    if raw.get("normalize_activations") == "expected_average_only_in":
        weights = _folded(weights, config, input_scale, folder)
    return SparseAutoencoder(config, weights).to(device=device, dtype=dtype)


def _config(raw: Mapping[str, Any], folder: Path) -> SaeConfig:
    more = raw.get("metadata") or {}

    def told(*names: str) -> Any:
        return next((at[name] for name in names for at in (raw, more) if at.get(name) is not None), None)

    architecture = str(told("architecture") or "standard")
    is_transcoder = "transcoder" in architecture or bool(raw.get("is_transcoder"))
    kind = architecture.replace("skip_transcoder", "standard").replace("_transcoder", "")
    kind = "standard" if kind == "transcoder" else kind
    activation = str(told("activation_fn", "activation_fn_str") or "relu")
    options = raw.get("activation_fn_kwargs") or {}
    if kind == "standard" and activation == "topk":
        kind = "topk"
    if kind not in KINDS or activation not in ("relu", "topk"):
        raise InputError(
            f"{folder} holds a {architecture!r} with activation {activation!r}; known are "
            f"{', '.join(KINDS)}, and transcoders of them."
        )
    hook = told("hook_name", "hook_name_in", "hook_point")
    if not isinstance(hook, str):
        raise InputError(f"{folder / CONFIG} does not say where its features are: it has no `hook_name`.")
    if told("hook_head_index") is not None:
        raise InputError(
            f"{folder} is of one head ({told('hook_head_index')}) of {hook}, which is not known."
        )
    out = told("hook_name_out", "hook_point_out")
    if is_transcoder and out is None:
        raise InputError(f"{folder / CONFIG} is a transcoder's and has no `hook_name_out`.")
    normalize = str(raw.get("normalize_activations") or "none")
    if normalize not in (*NORMS, "expected_average_only_in"):
        raise InputError(f"{folder} normalises by {normalize!r}; known are {', '.join(NORMS)}.")
    k = told("k") or options.get("k")
    if kind == "topk" and not isinstance(k, int):
        raise InputError(f"{folder / CONFIG} is of kind topk and does not say `k`.")
    return SaeConfig(
        kind=kind,
        hook_in=hook,
        hook_out=out if is_transcoder else hook,
        is_transcoder=is_transcoder,
        k=k if kind == "topk" else None,
        normalize="none" if normalize == "expected_average_only_in" else normalize,
        apply_b_dec_to_input=bool(raw.get("apply_b_dec_to_input", not is_transcoder)),
        rescale_by_decoder=bool(raw.get("rescale_acts_by_decoder_norm", False)),
        model_name=str(told("model_name") or ""),
    )


def _fitting(
    weights: dict[str, torch.Tensor], config: SaeConfig, raw: Mapping[str, Any], folder: Path
) -> dict[str, torch.Tensor]:
    """The weights that this kind has, each of the shape that it must have."""
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        factor = weights.pop(name, None)
        if factor is not None and raw.get("finetuning_scaling_factor") and bool((factor != 1).any()):
            raise InputError(f"{folder} has a {name}, which is not known; fold it into W_dec.")
    wanted = ["W_enc", "W_dec", "b_dec", *_OF_KIND[config.kind]]
    if "W_skip" in weights and config.is_transcoder:
        wanted.append("W_skip")
    missing = [name for name in wanted if name not in weights]
    if missing:
        raise InputError(
            f"{folder / WEIGHTS} has no {', '.join(missing)}; a {config.kind} has {', '.join(wanted)}."
        )
    if weights["W_enc"].ndim != 2 or weights["W_dec"].ndim != 2:
        raise InputError(f"W_enc and W_dec of {folder} are no matrices.")
    d_in, d_sae = weights["W_enc"].shape
    d_out = weights["W_dec"].shape[1]
    shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_out), "b_dec": (d_out,), "W_skip": (d_out, d_in)}
    for name in wanted:
        want = shapes.get(name, (d_sae,))
        if tuple(weights[name].shape) != want:
            raise InputError(f"{name} of {folder} has shape {tuple(weights[name].shape)} and not {want}.")
    if not config.is_transcoder and d_in != d_out:
        raise InputError(f"{folder} decodes width {d_out} from {d_in} and is not said to be a transcoder.")
    return {name: weights[name] for name in wanted}


def _folded(
    weights: dict[str, torch.Tensor], config: SaeConfig, scale: float | None, folder: Path
) -> dict[str, torch.Tensor]:
    """With the scale of the inputs in the weights: x·s is encoded, and what is decoded is divided by s."""
    if scale is None:
        raise InputError(
            f"{folder} was trained on inputs scaled by a constant that it does not say "
            "(normalize_activations expected_average_only_in). Give it: `load_sae(folder, input_scale=...)`; "
            "1.0 if it is folded into the weights already."
        )
    if config.is_transcoder and scale != 1:
        raise InputError(f"{folder} is a transcoder's: what its outputs are scaled by is not said anywhere.")
    weights["W_enc"] = weights["W_enc"] * scale
    for name in ("W_dec", "b_dec"):
        weights[name] = weights[name] / scale
    return weights
