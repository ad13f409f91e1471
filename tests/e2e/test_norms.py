"""Norms in a real JupyterLab: shown after `%load_ext`, chosen by mouse and keys, linked to a lens."""

from __future__ import annotations

import pytest

from tests.e2e.lab import CELL, LabServer, Notebook, expect

MAKE = """
%load_ext nbsight
import nbsight
model = nbsight.LanguageModel("nbsight/demo", dispatch=True)
prompt = "The Eiffel Tower is in the city of"
"""
VIEW = ".nbsight-norms"


@pytest.fixture(scope="module")
def notebook(module_page, lab: LabServer) -> Notebook:
    cells = "nbsight.stream_norms(model, prompt)", "nbsight.logit_lens(model, prompt)", ""
    lab.write("norms.ipynb", MAKE, *cells)
    notebook = Notebook(module_page, lab, "norms.ipynb")
    for index in range(3):
        notebook.run(index)
    module_page.wait_for_selector(f"{VIEW} .nbsight-heat-token")
    module_page.wait_for_selector(".nbsight-lens-cell")
    return notebook


def test_keys_choose_a_place_whose_code_gives_the_number(notebook: Notebook):
    page = notebook.page
    page.focus(f"{VIEW} .nbsight-heat")
    for key in ("PageDown", "Home", "ArrowUp", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector(f"{VIEW} h3:has-text('Layer 1 · position 1')")
    shown = page.locator(f"{VIEW} .nbsight-norms-parts li").last.locator("span").last.inner_text()
    cells = page.locator(CELL).count()
    page.keyboard.press("c")
    page.wait_for_function(f"n => document.querySelectorAll('{CELL}').length === n + 1", arg=cells)
    notebook.run(2)
    assert shown in f"{float(notebook.said(2).split('(')[-1].rstrip(')')):.2f}"
    notebook.command("notebook:undo-cell-action")


def test_pointing_at_a_token_marks_it_in_the_lens(notebook: Notebook):
    page = notebook.page
    page.focus(f"{VIEW} .nbsight-heat")
    page.keyboard.press("ArrowRight")
    pointed = page.locator(f"{VIEW} .nbsight-heat-token[data-on]")
    expect(pointed).to_contain_text("·Tower")
    expect(page.locator(".nbsight-lens-token[data-on]")).to_contain_text("·Tower")
    page.locator(".nbsight-lens-cell").last.hover()
    expect(page.locator(f"{VIEW} .nbsight-heat-rows [data-on]").first).to_have_text("0")


@pytest.mark.parametrize(("theme", "name"), [("JupyterLab Light", "light"), ("JupyterLab Dark", "dark")])
def test_pictures(notebook: Notebook, artifacts, theme, name):
    page = notebook.page
    notebook.theme(theme)
    page.mouse.move(5, 5)
    for view in ("norms", "lens"):
        expect(page.locator(f".nbsight-{view}")).to_have_attribute("data-theme", name)
        page.locator(f".nbsight-{view}").screenshot(path=artifacts / f"{view}-{name}.png")
    notebook.theme("JupyterLab Light")
