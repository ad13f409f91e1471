"""Tutorial 4 and its session in a real JupyterLab, against `nbsight serve` in another process."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from tests.e2e.lab import ROOT, LabServer, Notebook
from tests.server.running import KEYS, server

TUTORIAL = ROOT / "notebooks" / "04_remote_execution.ipynb"
JOBS = ".nbsight-jobs"

LONG = """\
with model.trace("The meaning of life is", remote=True):
    import time
    for second in range(40):
        print("second", second)
        time.sleep(0.1)
    hidden = model.model.layers[40].output[0].save()
"""
SENT = """\
with model.trace("The meaning of life is", remote=True, blocking=False) as job:
    import time
    time.sleep(12)
    hidden = model.model.layers[40].output[0].save()
print(job.id)
"""
AGAIN = """\
from nbsight.remote import jobs
again = jobs[0]
print(again.id, again.state)
print(tuple(again.result()["hidden"].shape))
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory):
    with server(tmp_path_factory.mktemp("server")) as it:
        yield it


def tutorial_cells(url: str, folder: Path) -> list[str]:
    """The tutorial's code up to its session, sent to a server."""
    where = f"import os\nos.environ.update(NBSIGHT_HOST={url!r}, NBSIGHT_API_KEY={KEYS['ada']!r})\n"
    cells = [cell.source for cell in nbformat.read(TUTORIAL, as_version=4).cells if cell.cell_type == "code"]
    end = next(number for number, cell in enumerate(cells) if cell.startswith("# Compare representations"))
    sent = [cell.replace('remote="local"', "remote=True") for cell in cells[: end + 1]]
    # The folder outlives the kernel, so that another one can open the same model.
    sent = [
        cell.replace("tempfile.TemporaryDirectory()", f"type('Kept', (), dict(name={str(folder)!r}))()")
        for cell in sent
    ]
    return [where, *sent]


def test_the_tutorial_runs_against_a_server_and_a_job_outlives_the_kernel(
    module_page, lab: LabServer, running, tmp_path_factory
):
    cells = tutorial_cells(running.url, tmp_path_factory.mktemp("llama"))
    lab.write("remote.ipynb", *cells, LONG, SENT, AGAIN)
    notebook = Notebook(module_page, lab, "remote.ipynb")
    page = notebook.page
    for index in range(len(cells)):
        notebook.run(index)
    everything = "".join(notebook.said(index) for index in range(len(cells)))
    assert "Hidden shape: torch.Size([1, 5, 32])" in everything
    assert "the same, bit for bit: " in everything
    assert "forgotten: `forgotten` is not here" in everything
    assert "Similarity: " in everything

    # The jobs widget comes under the cell while it runs, and moves.
    long, sent, again = len(cells), len(cells) + 1, len(cells) + 2
    notebook.run(long, wait=False)
    page.wait_for_selector(JOBS, timeout=30_000)
    first = page.locator(JOBS).last.inner_text()
    page.wait_for_function(
        "([selector, first]) => [...document.querySelectorAll(selector)].at(-1).innerText !== first",
        arg=[JOBS, first],
        timeout=20_000,
    )
    page.screenshot(path=ROOT / "tests" / "artifacts" / "remote-running.png")
    notebook.wait_idle()
    assert "second 39" in notebook.said(long)

    notebook.run(sent)
    job = notebook.said(sent).split()[-1]
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    notebook.wait_idle()
    notebook.run(0)
    notebook.run(again)
    found = notebook.said(again)
    assert found.startswith(f"{job} ")
    assert "(1, 5, 32)" in found
    page.screenshot(path=ROOT / "tests" / "artifacts" / "remote-attached.png")
