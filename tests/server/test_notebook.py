"""In a real kernel: progress under the cell, what the block prints, and a job that outlives the kernel."""

from __future__ import annotations

import os
import time

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

SERVED = """\
with model.trace('The capital of France is', remote=True):
    hidden = model.transformer.h[3].output[0].save()
print(tuple(hidden.shape))
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
    (bar,) = [output for output in shown.outputs if output.output_type == "display_data"]
    assert "application/vnd.jupyter.widget-view+json" in bar.data  # the jobs widget, put there while it ran
    assert "trace " in bar.data["text/plain"]
    assert "done" in bar.data["text/plain"]  # and what the notebook keeps of it
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


def test_without_the_extension_a_line_under_the_cell_redraws_itself(environment):
    loading = "import nbsight\nmodel = nbsight.LanguageModel('nbsight/demo')"
    _, shown = _run([loading, SHOWN], **environment)
    bars = [output for output in shown.outputs if output.output_type == "display_data"]
    assert len(bars) >= 1  # how far the job has come, and then nothing
    assert bars[-1].data["text/plain"] == ""


def test_a_magic_serves_for_the_time_of_the_kernel(tmp_path):
    cells = [
        "%load_ext nbsight\nimport nbsight\nmodel = nbsight.LanguageModel('nbsight/demo')",
        "%nbsight serve",
        SERVED,
        "%nbsight serve",
        "from nbsight.notebook import serving\nprint(serving._servers[0].process.pid)",
    ]
    _, served, run, twice, pid = _run(cells, NBSIGHT_DATA_DIR=str(tmp_path), NBSIGHT_HOST="")
    assert "nbsight serves nbsight/demo at http://127.0.0.1:" in _text(served)
    assert _text(run).endswith("(1, 5, 64)\n")
    (error,) = [output for output in twice.outputs if output.output_type == "error"]
    assert "runs already" in error.evalue
    number = int(_text(pid))
    until = time.monotonic() + 15
    while time.monotonic() < until and _is_alive(number):
        time.sleep(0.1)
    assert not _is_alive(number)
    assert list(tmp_path.glob("nbsight-*.json")) == []


def _is_alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True
