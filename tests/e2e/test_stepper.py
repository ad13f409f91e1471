"""A held run in a real JupyterLab by keys and mouse; and every view as a page with the network off."""

from __future__ import annotations

import re

import pytest

from tests.e2e.lab import CELL, LabServer, Notebook, expect

MAKE = """
import torch, nbsight
from nbsight.widgets import *
model = nbsight.LanguageModel("nbsight/demo", dispatch=True)
clean, corrupted = "The Eiffel Tower is in the city of", "The Colosseum is in the city of"
"""
VIEW = ".nbsight-stepper"


@pytest.fixture(scope="module")
def notebook(module_page, lab: LabServer) -> Notebook:
    lab.write("stepper.ipynb", MAKE, "w = StepperWidget(model, clean)\nw", "")
    notebook = Notebook(module_page, lab, "stepper.ipynb")
    notebook.run(0)
    notebook.run(1)
    module_page.wait_for_selector(f"{VIEW} .nbsight-heat-token")
    return notebook


def stands_at(page, text: str) -> None:
    page.wait_for_selector(f"{VIEW} .nbsight-beside h3:has-text('{text}')")
    page.wait_for_selector(f"{VIEW}[data-stage='done']")


def test_a_run_is_stepped_changed_ended_and_written_as_code(notebook: Notebook):
    page = notebook.page
    page.focus(f"{VIEW} .nbsight-heat")
    page.keyboard.press("s")
    stands_at(page, "transformer.h.0.output")
    for key in ("PageDown", "Home", "ArrowUp", "ArrowUp", "ArrowUp", "ArrowUp", "ArrowRight", "Enter"):
        page.keyboard.press(key)  # run to block 4
    stands_at(page, "transformer.h.4.output")
    page.keyboard.press("Enter")  # position 1 is to be changed
    page.fill(f"{VIEW} input[type=number]", "0")
    page.click(f"{VIEW} button:has-text('Apply')")
    page.wait_for_selector(f"{VIEW} .nbsight-stepper-done li:has-text('multiply position 1 by 0')")
    page.click(f"{VIEW} button:has-text('Finish')")
    stands_at(page, "The run has ended")
    shown = page.locator(f"{VIEW} .nbsight-bars li").first
    expect(shown).to_have_text(re.compile(r"0\.\d"))
    expect(shown).not_to_contain_text("<0.001")
    cells = page.locator(CELL).count()
    page.focus(f"{VIEW} .nbsight-heat")
    page.keyboard.press("c")
    page.wait_for_function(f"n => document.querySelectorAll('{CELL}').length === n + 1", arg=cells)
    notebook.run(2)
    same = "print(torch.equal(output.logits, w.result.logits))"
    assert notebook.python(3, same) == "True"


def test_pictures(notebook: Notebook, artifacts):
    for theme, name in (("JupyterLab Dark", "dark"), ("JupyterLab Light", "light")):
        notebook.theme(theme)
        expect(notebook.page.locator(VIEW)).to_have_attribute("data-theme", name)
        notebook.page.locator(VIEW).screenshot(path=artifacts / f"stepper-{name}.png")


@pytest.fixture(scope="module")
def widgets():
    import nbsight
    from nbsight.widgets import InspectorWidget, LensWidget, NormsWidget, PatchingWidget, StepperWidget

    model = nbsight.LanguageModel("nbsight/demo", dispatch=True)
    clean, corrupted = "The <script> Tower is in", "The <b>Arena</b> is in"
    return {
        "lens": LensWidget(nbsight.logit_lens(model, clean)),
        "norms": NormsWidget(nbsight.stream_norms(model, clean)),
        "inspector": InspectorWidget(model, clean),
        "patching": PatchingWidget(model, clean, corrupted, answers=(" Paris", " Rome")),
        "stepper": StepperWidget(model, clean),
    }


@pytest.mark.parametrize("name", ["lens", "norms", "inspector", "patching", "stepper"])
def test_the_page_of_a_view_lives_without_kernel_and_network(page, widgets, tmp_path, name):
    page.context.set_offline(True)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    file = tmp_path / f"{name}.html"
    widgets[name].to_html(file)
    page.goto(file.as_uri())
    grid = page.locator(f".nbsight-{name} [role=grid]")
    grid.wait_for()
    grid.focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".nbsight-readout")).not_to_be_empty()
    page.keyboard.press("t")
    expect(page.locator(".nbsight-table")).to_be_visible()
    page.keyboard.press("t")
    page.keyboard.press("c")
    expect(page.locator(".nbsight-code pre")).not_to_be_empty()
    with page.expect_download() as saved:
        page.click("button:has-text('Save')")
        page.click("button[role=menuitem]:has-text('PNG')")
    assert saved.value.suggested_filename == f"{name}.png"
    assert saved.value.path().read_bytes()[:4] == b"\x89PNG"
    assert not [url for url in asked if url.startswith("http")]
