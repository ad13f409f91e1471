"""Folders as SAELens writes them, random weights for the shipped model; and what they compute, in numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

D_IN, D_SAE = 64, 96

CASES: dict[str, dict[str, Any]] = {
    "standard": {"architecture": "standard"},
    "no bias taken off": {"architecture": "standard", "apply_b_dec_to_input": False},
    "gated": {"architecture": "gated"},
    "jumprelu": {"architecture": "jumprelu"},
    "topk": {"architecture": "topk", "k": 7},
    "topk rescaled": {"architecture": "topk", "k": 7, "rescale_acts_by_decoder_norm": True},
    "layer norm": {"architecture": "standard", "normalize_activations": "layer_norm"},
    "constant norm": {"architecture": "jumprelu", "normalize_activations": "constant_norm_rescale"},
    "heads": {"architecture": "standard", "hook": "blocks.4.attn.hook_z", "reshape_activations": "hook_z"},
    "transcoder": {"architecture": "transcoder", "d_out": D_IN, "apply_b_dec_to_input": False},
    "skip transcoder": {"architecture": "skip_transcoder", "d_out": D_IN, "apply_b_dec_to_input": False},
    "jumprelu transcoder": {
        "architecture": "jumprelu_transcoder",
        "d_out": D_IN,
        "apply_b_dec_to_input": False,
    },
}


def write(folder: Path, case: str, **changed: Any) -> Path:
    """Write a case's folder; `changed` are other entries of its configuration."""
    told = {**CASES[case], **changed}
    kind = told["architecture"]
    hook = told.pop("hook", "blocks.4.hook_resid_post")
    metadata = {"hook_name": hook, "model_name": "nbsight/demo"}
    if "transcoder" in kind:
        metadata |= {"hook_name": "blocks.4.ln2.hook_normalized", "hook_name_out": "blocks.4.hook_mlp_out"}
    config = {
        "d_in": D_IN,
        "d_sae": D_SAE,
        "dtype": "float32",
        "device": "cpu",
        "normalize_activations": "none",
        "apply_b_dec_to_input": True,
        "metadata": metadata,
        **told,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file(weights(kind), folder / "sae_weights.safetensors")
    return folder


def weights(kind: str) -> dict[str, torch.Tensor]:
    """Random weights of the shapes of a kind."""
    draw = torch.Generator().manual_seed(5)

    def of(*shape: int, scale: float = 0.2) -> torch.Tensor:
        return torch.randn(shape, generator=draw) * scale

    found = {"W_enc": of(D_IN, D_SAE), "W_dec": of(D_SAE, D_IN), "b_dec": of(D_IN)}
    if kind == "gated":
        return {**found, "b_gate": of(D_SAE), "b_mag": of(D_SAE), "r_mag": of(D_SAE)}
    found["b_enc"] = of(D_SAE)
    if kind.startswith("jumprelu"):
        found["threshold"] = of(D_SAE).abs()
    if kind == "skip_transcoder":
        found["W_skip"] = of(D_IN, D_IN)
    return found


def in_numpy(case: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features and reconstructions of rows, one by one in float64, by the formulas of the papers."""
    told = CASES[case]
    kind, norm = told["architecture"], told.get("normalize_activations", "none")
    held = {name: value.double().numpy() for name, value in weights(kind).items()}
    acts, outs = [], []
    for row in x.astype(np.float64):
        inner, back = row, lambda out: out
        if norm == "layer_norm":
            mean, size = row.mean(), row.std(ddof=1)
            inner, back = (row - mean) / (size + 1e-5), lambda out, m=mean, s=size: out * s + m
        elif norm == "constant_norm_rescale":
            size = np.sqrt(np.mean(row**2))
            inner, back = row / size, lambda out, s=size: out * s
        if told.get("apply_b_dec_to_input", True):
            inner = inner - held["b_dec"]
        pre = inner @ held["W_enc"] + held.get("b_enc", 0)
        lengths = np.sqrt((held["W_dec"] ** 2).sum(1))
        if kind == "gated":
            size = inner @ held["W_enc"] * np.exp(held["r_mag"]) + held["b_mag"]
            act = np.where(pre + held["b_gate"] > 0, np.maximum(size, 0), 0)
        elif kind.startswith("jumprelu"):
            act = np.where(pre > np.maximum(held["threshold"], 0), pre, 0)
        elif kind == "topk":
            pre = pre * lengths if told.get("rescale_acts_by_decoder_norm") else pre
            act = np.where(pre >= np.sort(pre)[-told["k"]], np.maximum(pre, 0), 0)
        else:
            act = np.maximum(pre, 0)
        weight = act / lengths if told.get("rescale_acts_by_decoder_norm") else act
        out = sum(weight[n] * held["W_dec"][n] for n in range(D_SAE)) + held["b_dec"]
        out = out + held["W_skip"] @ row if kind == "skip_transcoder" else back(out)
        acts.append(act)
        outs.append(out)
    return np.stack(acts), np.stack(outs)
