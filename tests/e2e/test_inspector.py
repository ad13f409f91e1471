"""The inspector in a real JupyterLab: a 50 MB tensor by tiles, modules by search, keys, code."""

from __future__ import annotations

import json
import re

import pytest

from tests.e2e.lab import CELL, LabServer, Notebook, expect

MAKE = """
import json, torch, nbsight
from nbsight.widgets import InspectorWidget
model = nbsight.LanguageModel("nbsight/demo", dispatch=True)
large = torch.randn(1, 512, 24_576, generator=torch.Generator().manual_seed(0))
large[0, :, 137] *= 60
"""
VIEW = ".nbsight-inspector"


@pytest.fixture(scope="module")
def notebook(module_page, lab: LabServer) -> Notebook:
    show = 'w = InspectorWidget(model, "The Eiffel Tower is in the city of")\nw'
    lab.write("inspector.ipynb", MAKE, show, "", "")
    notebook = Notebook(module_page, lab, "inspector.ipynb")
    notebook.run(0)
    notebook.run(1)
    module_page.wait_for_selector(f"{VIEW} .nbsight-heat-rows > div")
    return notebook


def test_a_module_is_found_opened_read_and_written_as_code(notebook: Notebook):
    page = notebook.page
    page.fill(f"{VIEW} input[type=search]", "h.5 mlp gpt2mlp")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector(f"{VIEW} .nbsight-about:has-text('transformer.h.5.mlp ')")
    page.focus(f"{VIEW} .nbsight-heat")
    for key in ("PageUp", "Home", "ArrowDown", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    readout = page.locator(f"{VIEW} .nbsight-readout")
    expect(readout).to_have_text(re.compile(r"^position 1 ·Eiffel, d_model 1: .*\d"))
    said = readout.inner_text()
    cells = page.locator(CELL).count()
    page.keyboard.press("c")
    page.wait_for_function(f"n => document.querySelectorAll('{CELL}').length === n + 1", arg=cells)
    notebook.run(2)
    value = float(notebook.said(2).split("(")[1].split(")")[0])
    assert value == pytest.approx(float(said.split(": ")[1].replace("−", "-")), abs=1e-3)
    notebook.command("notebook:undo-cell-action")


def test_fifty_megabytes_open_by_tiles(notebook: Notebook, artifacts):
    page = notebook.page
    notebook.type(3, "w = InspectorWidget({'large': large})\nw")
    notebook.run(3)
    view = f"{VIEW} >> nth=1"
    page.wait_for_selector(f"{view} >> .nbsight-legend:has-text('of 6 × 128 numbers')")
    heat = page.locator(view).locator(".nbsight-heat")
    heat.focus()
    legend, readout = (page.locator(view).locator(f".nbsight-{part}") for part in ("legend", "readout"))
    for _ in range(4):
        before = legend.text_content()
        page.keyboard.press("+")
        expect(legend).not_to_have_text(before)
    expect(legend).to_contain_text("each cell is one number")
    page.keyboard.press("Enter")
    expect(readout).to_have_text(re.compile(r": −?\d"))
    said = readout.inner_text()
    notebook.until(2, "print(w.selection is not None)", "True")
    told = json.loads(notebook.python(2, "print(json.dumps([w.selection, float(large[w.selection])]))"))
    assert told[1] == pytest.approx(float(said.split(": ")[1].replace("−", "-")), abs=1e-3)
    expect(page.locator(view).locator(".nbsight-inspector-channels li").first).to_contain_text("137")


@pytest.mark.parametrize(("theme", "name"), [("JupyterLab Light", "light"), ("JupyterLab Dark", "dark")])
def test_pictures(notebook: Notebook, artifacts, theme, name):
    page = notebook.page
    notebook.theme(theme)
    page.mouse.move(5, 5)
    expect(page.locator(VIEW).first).to_have_attribute("data-theme", name)
    page.locator(VIEW).first.screenshot(path=artifacts / f"inspector-{name}.png")
    notebook.theme("JupyterLab Light")
