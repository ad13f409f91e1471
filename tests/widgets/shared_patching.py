"""The patching payload that Python's and TypeScript's tests both read.

After a change of the payload write the file again: python -m tests.widgets.shared_patching
"""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nbsight.results.patching import Patching
from nbsight.widgets.patching_payload import patching_payload
from nbsight.widgets.patching_places import key_of

FIXTURE = Path(__file__).parents[2] / "js" / "tests" / "fixtures" / "patching.json"
CLEAN, CORRUPTED = ["The", " Eiffel", " Tower", " is"], ["The", " <b>", " Arena", " is"]
TOPS = {
    "ids": [5, 9],
    "tokens": [" Paris", " Rome"],
    "probs": {"clean": [0.9, 0.05], "corrupted": [0.1, 0.8]},
}


def shared_result() -> Patching:
    """Three layers, four positions; base -2 and donor 2, so that a value v is the share (v + 2) / 4."""
    layer, position = np.indices((3, 4))
    values = -2 + 4 * ((layer + 1) * position / 12)
    values[2, 3] = np.nan
    return Patching(
        clean_prompts=["The Eiffel Tower is"],
        corrupted_prompts=["The <b> Arena is"],
        sites=("resid_post",),
        layers=range(3),
        positions=CORRUPTED,
        heads=(),
        values=values[None, None],
        clean=np.array([2.0]),
        corrupted=np.array([-2.0]),
        metric="logit difference",
        unit="logit difference",
        notes=("a note",),
        provenance={"model": "shared", "dtype": "float32"},
    )


def shared_heads() -> Patching:
    """Two heads, patched at all positions; the share of head h of layer l is (l + 1) * (h + 1) / 10."""
    layer, head = np.indices((3, 2))
    return replace(
        shared_result(),
        sites=("z",),
        positions=("".join(CORRUPTED),),
        heads=range(2),
        values=np.full((1, 1, 3, 1), np.nan),
        head_values=(-2 + 4 * (layer + 1) * (head + 1) / 10)[None, :, None],
    )


def about() -> dict[str, Any]:
    return {
        "model": "shared",
        "clean": {"prompt": "".join(CLEAN), "tokens": CLEAN},
        "corrupted": {"prompt": "".join(CORRUPTED), "tokens": CORRUPTED},
        "layers": [0, 1, 2],
        "heads": 2,
        "sites": ["resid_post", "z_by_head", "mlp_out"],
        "pairs": ["".join(CLEAN), "<i>another</i>"],
        "pair": 0,
        "metrics": ["logit_difference", "kl"],
        "names": {"logit_difference": "logit difference ' Paris' − ' Rome'", "kl": "KL"},
        "ends": {"logit_difference": [2.0, -2.0], "kl": [0.0, 3.0]},
        "seconds": 0.01,
        "tops": TOPS,
        "code": "import nbsight\n\nclean = 'a $site'\n",
        "code_at": "nbsight.activation_patching(model, clean, corrupted, metric=$metric, "
        'sites=["$site"], $places, direction="$direction")',
        "code_metric": {"logit_difference": "'logit_difference'", "kl": "'kl'"},
        "provenance": {"dtype": "float32", "attn_implementation": "sdpa"},
        "live": True,
    }


def as_json() -> str:
    key = key_of("resid_post", "denoise", "logit_difference")
    by_head = key_of("z_by_head", "denoise", "logit_difference")
    payload = patching_payload(about(), {key: shared_result(), by_head: shared_heads()})
    content = {"header": payload.header, "data": base64.b64encode(payload.data).decode()}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FIXTURE.write_text(as_json(), encoding="utf-8")
