"""What the numbers of an analysis depend on, in plain values."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from typing import Any

__all__ = ["provenance", "version_of"]

PACKAGES = ("nbsight", "torch", "transformers")


def provenance(
    model: Any, prompts: Sequence[str] = (), *, seed: int | None = None, **more: Any
) -> dict[str, Any]:
    """Model, revision, dtype, attention, prompts, seed and versions of libraries.

    Args:
        model: The language model that was run, or whose tokenizer was asked.
        prompts: What it was run on.
        seed: The seed of what was drawn at random; None if nothing was.
        more: What else the numbers depend on, such as a method's options.
    """
    module = model._module  # without its weights, if they are not loaded: names and dtypes are known
    config = getattr(module, "config", None)
    parameter = next(module.parameters(), None)
    known: dict[str, Any] = {
        "model": str(model._name),
        "revision": getattr(config, "_commit_hash", None),
        "dtype": None if parameter is None else str(parameter.dtype).removeprefix("torch."),
        "attn_implementation": getattr(config, "_attn_implementation", None),
    }
    if prompts:
        known["prompts"] = list(prompts)
    if seed is not None:
        known["seed"] = seed
    return {**known, **more, **{package: version_of(package) for package in PACKAGES}}


@cache
def version_of(package: str) -> str:
    """The version of a package, of one that was not installed what it says itself."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # a checkout that was not installed
        return str(getattr(sys.modules.get(package), "__version__", "unknown"))
