"""What the numbers of an analysis depend on, in plain values."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from nbsight.models.language_model import LanguageModel

__all__ = ["provenance"]

PACKAGES = ("nbsight", "torch", "transformers")


def provenance(
    model: LanguageModel, prompts: Sequence[str] = (), *, seed: int | None = None, **more: Any
) -> dict[str, Any]:
    """Model, revision, dtype, attention, prompts, seed and versions of libraries.

    Args:
        model: The model that was run.
        prompts: What it was run on.
        seed: The seed of what was drawn at random; None if nothing was.
        more: What else the numbers depend on, such as a method's options.
    """
    module = model._model
    parameter = next(module.parameters(), None)
    known: dict[str, Any] = {
        "model": str(model._name),
        "revision": getattr(model.config, "_commit_hash", None),
        "dtype": None if parameter is None else str(parameter.dtype).removeprefix("torch."),
        "attn_implementation": getattr(model.config, "_attn_implementation", None),
    }
    if prompts:
        known["prompts"] = list(prompts)
    if seed is not None:
        known["seed"] = seed
    return {**known, **more, **{package: _version(package) for package in PACKAGES}}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # a checkout that was not installed
        return str(getattr(sys.modules.get(package), "__version__", "unknown"))
