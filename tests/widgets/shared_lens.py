"""The lens that Python's and TypeScript's tests both read: js/tests/fixtures/lens.json is its payload.

After a change of the payload write the file again: python -m tests.widgets.shared_lens
"""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nbsight.results.lens import Lens, LensCell
from nbsight.widgets.lens_payload import lens_payload
from nbsight.widgets.lens_readings import Readings

FIXTURE = Path(__file__).parents[2] / "js" / "tests" / "fixtures" / "lens.json"
CONTRAST = FIXTURE.with_name("contrast.json")
WORDS = np.array([" Paris", " in", " is", "\n", "<b>&</b>"], dtype=object)


def shared_lens(detail: Any = None) -> Lens:
    """Three layers, four positions, two ranks; every number can be told by heart."""
    layer, position, rank = np.indices((3, 4, 2))
    ids = (layer + position + rank) % len(WORDS)
    probs = np.where(rank == 0, 0.5 + layer / 10 + position / 100, 0.01 * (position + 1))
    return Lens(
        prompt="The Eiffel Tower\n",
        tokens=["The", " Eiffel", " Tower", "\n"],
        layers=range(3),
        top_ids=ids,
        top_tokens=WORDS[ids],
        top_probs=probs,
        model="shared",
        provenance={"dtype": "float32"},
        detail=detail,
    )


def shared_contrast(detail: Any = None) -> Lens:
    """The same in which " Paris" and " in" are followed: logits layer and 2 × position."""
    layer, position = np.indices((3, 4)).astype(np.float32)
    logits = np.stack([layer, 2 * position], axis=-1)
    return replace(
        shared_lens(detail),
        tracked=[" Paris", " in"],
        track_logits=logits,
        track_probs=logits / 100,
        track_ranks=logits.astype(np.int64),
    )


def answer(layer: int, position: int, top_k: int) -> LensCell:
    """A detail function whose answer says what was asked."""
    ids = np.arange(top_k)
    return LensCell(layer, position, [f" {layer}.{position}.{i}" for i in ids], ids, 1 / (2.0 + ids))


def as_json() -> str:
    return _packed(shared_lens(answer))


def contrast_as_json() -> str:
    return _packed(shared_contrast(answer))


def _packed(lens: Lens) -> str:
    readings = Readings(lens)
    key = readings.first
    payload = lens_payload(readings, key, live=True, more=lens, followed=readings.followed(key))
    content = {"header": payload.header, "data": base64.b64encode(payload.data).decode()}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FIXTURE.write_text(as_json(), encoding="utf-8")
    CONTRAST.write_text(contrast_as_json(), encoding="utf-8")
