"""The patching payload that Python's and TypeScript's tests both read.

After a change of the payload write the file again: python -m tests.widgets.shared_patching
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np

from nbsight.results.patching import Patching
from nbsight.widgets.patching_payload import key_of, patching_payload

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


def about() -> dict[str, Any]:
    return {
        "model": "shared",
        "clean": {"prompt": "".join(CLEAN), "tokens": CLEAN},
        "corrupted": {"prompt": "".join(CORRUPTED), "tokens": CORRUPTED},
        "layers": [0, 1, 2],
        "sites": ["resid_post", "mlp_out"],
        "metrics": ["logit_difference", "kl"],
        "names": {"logit_difference": "logit difference ' Paris' − ' Rome'", "kl": "KL"},
        "ends": {"logit_difference": [2.0, -2.0], "kl": [0.0, 3.0]},
        "seconds": 0.01,
        "tops": TOPS,
        "code": "import nbsight\n\nclean = 'a $site'\n",
        "code_at": 'nbsight.activation_patching(model, clean, corrupted, metric=$metric, sites=["$site"], '
        'direction="$direction")',
        "code_metric": {"logit_difference": "'logit_difference'", "kl": "'kl'"},
        "provenance": {"dtype": "float32", "attn_implementation": "sdpa"},
        "live": True,
    }


def as_json() -> str:
    key = key_of("resid_post", "denoise", "logit_difference")
    payload = patching_payload(about(), {key: shared_result()})
    content = {"header": payload.header, "data": base64.b64encode(payload.data).decode()}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FIXTURE.write_text(as_json(), encoding="utf-8")
