"""The norms that Python's and TypeScript's tests both read: js/tests/fixtures/norms.json is their payload.

After a change of the payload write the file again: python -m tests.widgets.shared_norms
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np

from nbsight.results.norms import Norms
from nbsight.widgets.norms import norms_payload

FIXTURE = Path(__file__).parents[2] / "js" / "tests" / "fixtures" / "norms.json"
COMPONENTS = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")


def shared_norms() -> Norms:
    """Three layers, four positions; part c at (layer, position) is (c + 1)(layer + 1) + position.

    The first position is a hundred times as large.
    """
    component, layer, position = np.indices((5, 3, 4)).astype(np.float32)
    norm = (component + 1) * (layer + 1) + position
    norm[:, :, 0] *= 100
    return Norms(
        prompt="The <b> $layer\n",
        components=COMPONENTS,
        layers=range(3),
        tokens=["The", " <b>", " $layer", "\n"],
        norm=norm,
        turn=(0.5 + position / 10)[0],
        other_layers=range(3),
        alike=np.eye(3, dtype=np.float32),
        channels=[7, 3],
        channel_size=np.array([[2, 1], [30, 1], [4, 9]], np.float32),
        model="shared",
        provenance={"dtype": "float32"},
    )


def as_json() -> str:
    payload = norms_payload(shared_norms())
    content = {"header": payload.header, "data": base64.b64encode(payload.data).decode()}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FIXTURE.write_text(as_json(), encoding="utf-8")
