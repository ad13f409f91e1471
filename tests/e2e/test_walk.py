"""Two minutes of a new user: tutorial 2 is opened and run, a token dragged, its code inserted and run."""

from __future__ import annotations

import re
import shutil

import pytest

from tests.e2e.lab import CELL, ROOT, LabServer, Notebook, expect
from tests.e2e.test_patching import VIEW, chip, middle

NAME = "02_activation_patching.ipynb"


@pytest.fixture(scope="module")
def notebook(module_page, lab: LabServer) -> Notebook:
    shutil.copy(ROOT / "notebooks" / NAME, lab.folder / NAME)
    return Notebook(module_page, lab, NAME)


@pytest.fixture(scope="module")
def expected() -> float:
    """The logit difference when position 1 gets `Eiffel` after layer 0: by plain hooks."""
    import torch

    import nbsight

    model = nbsight.LanguageModel("nbsight/demo", dispatch=True)
    kept = {}

    def keep(_, __, output):
        kept["eiffel"] = (output if isinstance(output, torch.Tensor) else output[0])[0, 1].clone()

    def put(_, __, output):
        (output if isinstance(output, torch.Tensor) else output[0])[0, 1] = kept["eiffel"]

    block, logits = model._model.transformer.h[0], None
    prompts = "The Eiffel Tower is in the city of", "The Colosseum is in the city of"
    for prompt, hook in zip(prompts, (keep, put), strict=True):
        handle = block.register_forward_hook(hook)
        with torch.no_grad():
            logits = model._model(model.to_tokens(prompt)).logits[0, -1]
        handle.remove()
    paris, rome = (model.tokenizer.encode(word)[0] for word in (" Paris", " Rome"))
    return float(logits[paris] - logits[rome])


def test_the_walk(notebook: Notebook, expected: float):
    page = notebook.page
    notebook.command("runmenu:run-all")
    page.wait_for_function(
        "() => window.jupyterapp.shell.currentWidget.content.widgets.filter(cell => "
        "cell.model.type === 'code').every(cell => cell.model.executionCount !== null)",
        timeout=120_000,
    )
    notebook.wait_idle()
    for index in range(page.locator(CELL).count()):
        notebook.said(index)  # which fails where a cell did

    # the sweep stands between the prompts; a token of the clean one is carried to the other prompt
    page.wait_for_selector(f"{VIEW} .nbsight-actions")
    page.locator(VIEW).scroll_into_view_if_needed()
    page.wait_for_selector(f"{VIEW}:not(.jp-nbsight-still *) {chip('clean', 1).removeprefix(VIEW)}")
    page.mouse.move(*middle(page, chip("clean", 1)))
    page.mouse.down()
    x, y = middle(page, chip("corrupted", 1))
    page.mouse.move(x, y - 40, steps=4)
    page.mouse.move(x, y, steps=4)
    page.mouse.up()
    page.wait_for_selector(f"{VIEW}[data-stage='done'] .nbsight-patching-share strong")
    expect(page.locator(f"{VIEW} .nbsight-patching-share")).to_contain_text("of the way")
    shown = page.locator(f"{VIEW} .nbsight-patching-share").inner_text()

    # the code of that run, in a cell below, gives the same number
    count = page.locator(CELL).count()
    page.locator(f"{VIEW} button[aria-label='Insert code']").click()
    page.wait_for_function(
        "n => window.jupyterapp.shell.currentWidget.content.widgets.length === n + 1", arg=count
    )
    index = page.evaluate("() => window.jupyterapp.shell.currentWidget.content.activeCellIndex")
    source = page.evaluate(
        "i => window.jupyterapp.shell.currentWidget.content.widgets[i].model.sharedModel.source", index
    )
    assert "with model.trace(clean):" in source
    notebook.run(index)
    printed = notebook.said(index)
    found = re.search(r"logit difference ([-+]?\d+\.\d+)", printed)
    assert found, printed
    assert float(found[1]) == pytest.approx(expected, abs=2e-3)
    share = float(re.search(r"(-?\d+) %", shown)[1])
    assert float(found[1]) == pytest.approx(float(shown.split()[0].replace("−", "-")), abs=0.02)
    assert 90 <= share <= 100
