"""A run held open over the cells of a real notebook: stepped, looked at by the page, and left open."""

from __future__ import annotations

import pytest

from tests.e2e.lab import LabServer, Notebook

OPEN = """
%load_ext nbsight
from nbsight import LanguageModel
model = LanguageModel("nbsight/demo")
run = model.start("The capital of France is")
"""
PLAIN = """
import torch
kept = []
handle = model._model.transformer.h[3].register_forward_hook(lambda m, i, out: kept.append(out))
with torch.no_grad():
    plain = model._model(**model.tokenizer("The capital of France is", return_tensors="pt")).logits
handle.remove()
state = kept[0] if isinstance(kept[0], torch.Tensor) else kept[0][0]
print(torch.equal(run.here.value[0], state), torch.equal(run.finish().logits, plain))
"""


@pytest.fixture(scope="module")
def notebook(module_page, lab: LabServer) -> Notebook:
    """One notebook for all tests here (opening one takes seconds)."""
    lab.write(
        "paused.ipynb", OPEN, "run.step()", "run", "run.until(model.transformer.h[3].output)", PLAIN, ""
    )
    return Notebook(module_page, lab, "paused.ipynb")


def test_a_run_waits_between_cells_and_gives_what_hooks_see(notebook: Notebook):
    for index in range(3):
        notebook.run(index)
    assert "transformer.h.0.output: float32 (batch 1, position 5, d_model 64)" in notebook.said(1)
    assert "block 1 of 12" in notebook.said(2)
    notebook.run(3)
    notebook.run(4)
    assert notebook.said(4) == "True True"


def test_what_the_page_asks_while_one_types_does_not_move_a_run(notebook: Notebook):
    notebook.run(0)
    notebook.run(1)
    place = "model.transformer.h[7].output"
    for typed, key in (
        (f"{place}.", "Tab"),
        (f"{place}.shape", "Shift+Tab"),
        (place, "Shift+Tab"),
        ("run.", "Tab"),
    ):
        notebook.type(5, typed)
        notebook.page.keyboard.press(key)
        notebook.page.wait_for_timeout(1000)
        notebook.page.keyboard.press("Escape")
        notebook.wait_idle()
        assert notebook.python(5, "print(run.here.path, run.is_open)") == "transformer.h.0 True"


def test_a_kernel_with_an_open_run_restarts_and_shuts_down(notebook: Notebook):
    notebook.run(0)
    notebook.run(1)
    notebook.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.restartKernel()")
    notebook.wait_idle()
    assert notebook.python(5, "print('run' in globals())") == "False"
    notebook.run(0)
    notebook.run(1)
    assert "transformer.h.0.output" in notebook.said(1)
    notebook.shut_kernel_down()
    notebook.page.wait_for_function(
        "() => !window.jupyterapp.shell.currentWidget.sessionContext.session", timeout=30_000
    )
