"""What the patching view shows at a time: a site by position, or `z` by head, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nbsight.analysis.patch_runs import Patch
from nbsight.results.patching import Patching

__all__ = [
    "BY_HEAD",
    "engine_sites",
    "key_of",
    "patch_of",
    "places_code",
    "plain_of",
    "tables_of",
    "values_of",
]

#: The site `z`, a head a column; positions all at once or one of them.
BY_HEAD = "z_by_head"


def key_of(site: str, direction: str, metric: str, position: int | None = None) -> str:
    """The name of one sweep (js/src/widgets/patching/data.ts has the same)."""
    if site == BY_HEAD:
        site = f"{site}@{'all' if position is None else position}"
    return f"{site}|{direction}|{metric}"


def engine_sites(site: str, position: int | None) -> dict[str, Any]:
    """The same for `PatchingSweep`."""
    if site != BY_HEAD:
        return {"sites": (site,), "heads": False}
    return {"sites": ("z",), "heads": True, "positions": [slice(None) if position is None else position]}


def places_code(site: str, position: int | None) -> dict[str, str]:
    """The same as written in a cell."""
    if site != BY_HEAD:
        return {"site": site, "places": "heads=False"}
    where = "slice(None)" if position is None else str(position)
    return {"site": "z", "places": f"heads=True,\n    positions=[{where}]"}


def values_of(result: Patching) -> NDArray[np.float64]:
    """The numbers of a result of one pair and one site, (layer, position) or (layer, head)."""
    return result.values[0, 0] if result.head_values is None else result.head_values[0, :, 0]


def tables_of(result: Patching, number: int, metric: str) -> dict[str, Patching]:
    """What a result knows of one pair, by `key_of`, each a result of one pair and one site.

    Args:
        result: Any number of pairs and sites.
        number: Which pair.
        metric: What the view calls the metric.
    """
    pair = slice(number, number + 1)
    own = replace(
        result,
        clean_prompts=result.clean_prompts[pair],
        corrupted_prompts=result.corrupted_prompts[pair],
        values=result.values[pair],
        head_values=None if result.head_values is None else result.head_values[pair],
        clean=result.clean[pair],
        corrupted=result.corrupted[pair],
    )
    found = {}
    for place, site in enumerate(own.sites):
        one = replace(own, sites=(site,), values=own.values[:, [place]])
        if site != "z" or own.head_values is None:
            found[key_of(site, own.direction, metric)] = replace(one, head_values=None, heads=())
            continue
        for at, label in enumerate(own.positions):
            base = own.corrupted_prompts[0] if own.direction == "denoise" else own.clean_prompts[0]
            is_all = len(own.positions) == 1 and label == base
            found[key_of(BY_HEAD, own.direction, metric, None if is_all else at)] = replace(
                one,
                positions=(label,),
                values=one.values[..., [at]],
                head_values=own.head_values[:, :, [at]],
            )
    return found


def patch_of(given: Mapping[str, Any]) -> Patch:
    """A patch as a page gives it."""
    numbers = (given.get(name) for name in ("source", "target", "head"))
    source, target, head = (None if one is None else int(one) for one in numbers)
    return Patch(int(given["layer"]), str(given["site"]), source, target, head)


def plain_of(patch: Patch) -> dict[str, Any]:
    """A patch as a page gets it."""
    said = {"layer": patch.layer, "site": patch.site, "source": patch.source, "target": patch.target}
    return said if patch.head is None else {**said, "head": patch.head}
