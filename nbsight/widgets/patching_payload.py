"""What the patching view draws: two prompts, what is known of every place, and both plain predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nbsight.results.patching import Patching
from nbsight.widgets.patching_places import values_of
from nbsight.widgets.payload import Payload, encode

__all__ = ["patching_payload"]


def patching_payload(about: Mapping[str, Any], tables: Mapping[str, Patching]) -> Payload:
    """The view's header, and one array (layer, position) or (layer, head) of the metric for each sweep.

    Args:
        about: What was found of the model and the prompts.
        tables: What was swept of the pair on show, by `key_of`.
    """
    known = []
    arrays = {}
    for number, (key, result) in enumerate(tables.items()):
        values = values_of(result)
        if result.head_values is None and values.shape[-1] != len(about["clean"]["tokens"]):
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
        columns = range(values.shape[-1]) if result.head_values is None else result.heads
        wide = values.shape[-1] if result.head_values is None else about["heads"]
        table = np.full((len(about["layers"]), wide), np.nan, np.float32)
        rows = [about["layers"].index(layer) for layer in result.layers]
        table[np.ix_(rows, list(columns))] = values
        arrays[f"table_{number}"] = table
    return encode("patching", {**about, "tables": known}, arrays)
