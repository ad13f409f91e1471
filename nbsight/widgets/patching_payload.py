"""What the patching view draws: two prompts, what is known of every place, and both plain predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nbsight.results.patching import Patching
from nbsight.widgets.payload import Payload, encode

__all__ = ["key_of", "patching_payload"]


def key_of(site: str, direction: str, metric: str) -> str:
    """The name of one sweep."""
    return f"{site}|{direction}|{metric}"


def patching_payload(about: Mapping[str, Any], tables: Mapping[str, Patching]) -> Payload:
    """The view's header, and one array (layer, position) of the metric for each sweep.

    Args:
        about: What was found of the model and the prompts.
        tables: What was swept, by `key_of`; only the first pair of prompts is shown.
    """
    known = []
    arrays = {}
    for number, (key, result) in enumerate(tables.items()):
        if result.values.shape[-1] != len(about["clean"]["tokens"]):
            continue  # spans by name: they have no place among the tokens
        base, donor = result.corrupted[0], result.clean[0]
        if result.direction == "noise":
            base, donor = donor, base
        known.append(
            {
                "key": key,
                "array": f"table_{number}",
                "complete": bool(result.is_complete),
                "base": float(base) if np.isfinite(base) else None,
                "donor": float(donor) if np.isfinite(donor) else None,
                "notes": list(result.notes),
            }
        )
        table = np.full((len(about["layers"]), result.values.shape[-1]), np.nan, np.float32)
        table[[about["layers"].index(layer) for layer in result.layers]] = result.values[0, 0]
        arrays[f"table_{number}"] = table
    return encode("patching", {**about, "tables": known}, arrays)
