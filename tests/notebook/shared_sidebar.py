"""The messages that Python's and TypeScript's tests both read: js/tests/fixtures/sidebar.json.

After a change of what the kernel sends write the file again: python -m tests.notebook.shared_sidebar
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

import nbsight
from nbsight.core import alive, jobs, saving
from nbsight.notebook import shapes
from nbsight.notebook.keys import Keys
from nbsight.notebook.session import Session
from tests.notebook.conftest import Comm

FIXTURE = Path(__file__).parents[2] / "js" / "tests" / "fixtures" / "sidebar.json"

CELLS = (
    """with model.trace(PROMPT):
    hidden = model.transformer.h[3].output[0].save()
    kept = {'<b>': model.transformer.h[4].output[0].save()}""",
    "with model.edit(inplace=True):\n    model.transformer.h[0].output[0][:] = 0",
    "run = model.start(PROMPT)\nhere = run.step()",
)


def conversation() -> dict[str, Any]:
    """The first message of a kernel, a job's, a change and some replies."""
    for others in (alive.models, alive.runs, saving._saved, jobs._jobs):
        others.clear()
    shell = InteractiveShell()
    model = nbsight.LanguageModel("nbsight/demo", dispatch=True)
    shell.user_ns.update(model=model, PROMPT="The capital of France is")
    for cell in CELLS:
        shell.run_cell(cell, store_history=True).raise_error()
    comm = Comm()
    session = Session(shell, Keys(), "0.1.0", comm)
    shapes.shapes_of(model, 60)
    first = session.hello()
    card = first["state"]["models"][0]["id"]
    children = comm.ask("children", model=card, path="transformer.h.0")
    found = comm.ask("find", model=card, text="h[7] c_fc")
    gone = comm.ask("free", name="nothing")
    job = jobs.Job("patching", total=72, model="nbsight/demo", is_detached=True)
    for act in (job.start, lambda: job.advance(24), job.finish):
        act()
        session._pace._told.clear()  # each is told at once
        session.note_job(job)
    said = [message for message in comm.sent if message["op"] == "job"]
    for edit in model.edits:
        edit.enabled = False
    session.send_changes()
    changed = next(message for message in comm.sent if message["op"] == "changed")
    changed["sections"].pop("memory", None)  # the process may or may not have grown
    model.clear_edits()
    shell.user_ns["run"].close()
    return {
        "state": first,
        "children": children,
        "find": found,
        "refusal": gone,
        "jobs": said,
        "changed": changed,
    }


def steady(value: Any) -> Any:
    """The same with what is different on every machine and in every run replaced."""
    if isinstance(value, dict):
        fixed = {"process": 412_000_000, "began": 1_700_000_000.0, "seconds": 3.0, "rate": None, "left": None}
        parts = {name: fixed[name] if name in fixed else steady(part) for name, part in value.items()}
        return {**parts, "devices": []} if "holders" in parts else parts
    return [steady(part) for part in value] if isinstance(value, list) else value


def as_json() -> str:
    text = json.dumps(steady(conversation()), indent=1, ensure_ascii=False) + "\n"
    return re.sub(r'"job-\d+"', '"job-1"', text)  # they are numbered through the process


if __name__ == "__main__":
    FIXTURE.write_text(as_json(), encoding="utf-8")
