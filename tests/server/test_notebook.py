"""In a real kernel: progress under the cell, what the block prints, and a job that outlives the kernel."""

from __future__ import annotations

import os

import nbformat
import pytest
from nbclient import NotebookClient

from tests.server.running import KEYS

LOADING = """\
%load_ext nbsight
import nbsight
model = nbsight.LanguageModel('nbsight/demo')
"""
SHOWN = """\
with model.trace('The capital of France is', remote=True):
    import time
    print('begun')
    time.sleep(1)
    print('still there')
    time.sleep(0.2)
    hidden = model.transformer.h[3].output[0].save()
print(tuple(hidden.shape))
"""
SENT = """\
with model.trace('The capital of France is', remote=True, blocking=False) as job:
    import time
    time.sleep(1)
    hidden = model.transformer.h[3].output[0].save()
print(job.id)
"""
WRONG = """\
with model.trace('The capital of France is', remote=True):
    hidden = model.transformer.h[3].output[0]
    wrong = hidden / 'a'
"""


def _run(cells: list[str], **environment: str) -> list[nbformat.NotebookNode]:
    """The cells of a notebook after a kernel of its own has run them."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", allow_errors=True)
    client.execute(env={**os.environ, **environment})
    return notebook.cells


def _text(cell: nbformat.NotebookNode) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


@pytest.fixture(scope="module")
def environment(running):
    return {"NBSIGHT_HOST": running.url, "NBSIGHT_API_KEY": KEYS["ada"]}


def test_a_job_outlives_its_kernel_and_the_next_one_gets_its_value(environment):
    _, shown, sent, failed = _run([LOADING, SHOWN, SENT, WRONG], **environment)
    assert _text(shown) == "begun\nstill there\n(1, 5, 64)\n"
    bars = [output for output in shown.outputs if output.output_type == "display_data"]
    assert len(bars) >= 1  # how far the job has come, on a line that redraws itself and is then emptied
    assert bars[-1].data["text/plain"] == ""
    (error,) = [output for output in failed.outputs if output.output_type == "error"]
    assert error.ename == "TypeError"
    plain = "\n".join(error.traceback)
    assert "wrong = hidden / " in plain
    assert "BodySkipped" not in plain

    (job,) = _text(sent).split()
    got = _run(
        [f"from nbsight.remote import jobs\nprint(tuple(jobs[{job[:6]!r}].result()['hidden'].shape))"],
        **environment,
    )
    assert _text(got[0]) == "(1, 5, 64)\n"
