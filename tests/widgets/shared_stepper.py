"""The held run that Python's and TypeScript's tests both read: js/tests/fixtures/stepper.json is its payload.

After a change of the payload write the file again: python -m tests.widgets.shared_stepper
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np

from nbsight.models.language_model import LanguageModel
from nbsight.widgets.stepper import StepperWidget
from tests.widgets.page import Page

FIXTURE = Path(__file__).parents[2] / "js" / "tests" / "fixtures" / "stepper.json"


def shared_stepper() -> StepperWidget:
    """Held after block 3 of the shipped model, which stopped at block 1 before, position 1 halved there."""
    widget = StepperWidget(LanguageModel("nbsight/demo", dispatch=True), "The capital of France is")
    page = Page(widget)
    for command, params in (
        ("until", {"block": 1}),
        ("edit", {"positions": [1], "factor": 0.5}),
        ("until", {"block": 3}),
    ):
        assert page.ask(command, **params)[0]["ok"]
    return widget


def content() -> dict[str, Any]:
    """The payload; in place of what the shipped model says, which its weights decide, words of our own."""
    widget = shared_stepper()
    header = json.loads(json.dumps(widget.header))
    header["tops"] = {"ids": [5, 9], "tokens": [" Paris", " Rome"], "probs": {"plain": [0.9, 0.05]}}
    header["words"] = [
        [f" {row}.{column}" if word else "" for column, word in enumerate(words)]
        for row, words in enumerate(header["words"])
    ]
    header["provenance"] = {"dtype": header["provenance"]["dtype"]}
    values = np.frombuffer(widget.data, "<f4")
    seen = np.where(np.isfinite(values), np.arange(len(values)) / 1000, np.nan).astype("<f4")
    widget.close()
    return {"header": header, "data": base64.b64encode(seen.tobytes()).decode()}


def as_json() -> str:
    return json.dumps(content(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FIXTURE.write_text(as_json(), encoding="utf-8")
