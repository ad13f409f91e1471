"""The tensor that Python's and TypeScript's tests both read: js/tests/fixtures/inspector.json is its payload.

After a change of the payload write the file again: python -m tests.widgets.shared_inspector
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import torch

from nbsight.widgets.inspector import InspectorWidget

FIXTURE = Path(__file__).parents[2] / "js" / "tests" / "fixtures" / "inspector.json"
TOKENS = ["The", " <b>", " is"]


def shared_value() -> torch.Tensor:
    """(2, 3, 4): element (a, b, c) is 100 a + 10 b + c - 11, and one is NaN."""
    a, b, c = (part.float() for part in torch.meshgrid(*map(torch.arange, (2, 3, 4)), indexing="ij"))
    value = 100 * a + 10 * b + c - 11
    value[0, 2, 3] = float("nan")
    return value


def shared_inspector() -> InspectorWidget:
    values = {"resid <b>": shared_value(), "other": torch.arange(6.0)}
    return InspectorWidget(values, axes=("run", "position", "channel"), tokens=TOKENS)


def as_json() -> str:
    widget = shared_inspector()
    content = {"header": widget.header, "data": base64.b64encode(widget.data).decode()}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FIXTURE.write_text(as_json(), encoding="utf-8")
