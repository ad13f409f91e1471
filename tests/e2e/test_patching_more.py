"""Heads, a frozen run beside another, and several pairs: the patching view in a real JupyterLab."""

from __future__ import annotations

import re

import pytest

from tests.e2e.lab import CELL, LabServer, Notebook, expect
from tests.e2e.test_patching import VIEW, asked, click_cell

MAKE = """
%load_ext nbsight
import nbsight
from nbsight.core.jobs import jobs
from nbsight.widgets import PatchingWidget
model = nbsight.LanguageModel("nbsight/demo", dispatch=True)
clean = ["The Eiffel Tower is in the city of", "The capital of France is"]
corrupted = ["The Colosseum is in the city of", "The capital of Italy is"]
"""
SHOW = 'w = PatchingWidget(model, clean, corrupted, answers=(" Paris", " Rome"))\nw'


@pytest.fixture(scope="module")
def notebook(module_page, lab: LabServer) -> Notebook:
    lab.write("patching_more.ipynb", MAKE, SHOW, "", "")
    notebook = Notebook(module_page, lab, "patching_more.ipynb")
    notebook.run(0)
    notebook.run(1)
    module_page.wait_for_selector(f"{VIEW} .nbsight-patching-chip")
    return notebook


def select(page, label: str):
    return page.locator(f"{VIEW} label:has-text('{label}') select")


def done(page) -> None:
    page.wait_for_selector(f"{VIEW}[data-stage='done'] .nbsight-patching-share strong")


def test_heads_are_swept_and_patched_and_their_sweep_is_listed(notebook: Notebook):
    page = notebook.page
    select(page, "Site").select_option("z_by_head")
    page.click(f"{VIEW} button:has-text('Sweep · 48 runs')")
    page.wait_for_selector(f"{VIEW} button.nbsight-do", state="hidden")  # says Stop while it runs
    page.focus(f"{VIEW} .nbsight-heat")
    for key in ("PageDown", "Home", *["ArrowUp"] * 10, *["ArrowRight"] * 3):
        page.keyboard.press(key)
    expect(page.locator(f"{VIEW} .nbsight-readout")).to_have_text(re.compile("^Layer 10, head 3: "))
    page.keyboard.press("Enter")
    done(page)
    expect(page.locator(f"{VIEW} .nbsight-patching-stack")).to_contain_text("L10 z head 3 at all positions")
    single, swept = asked(notebook, "[w.patched['value'], float(w.result.head_values[0, 10, 0, 3])]")
    assert single == pytest.approx(swept, abs=1e-3)
    assert asked(notebook, "[job.title for job in jobs()]") == ["patching z by head"]
    for theme in ("Dark", "Light"):
        notebook.theme(f"JupyterLab {theme}")
        path = notebook.server.log.parent / f"patching-heads-{theme.lower()}.png"
        page.locator(VIEW).screenshot(path=path)


def test_a_frozen_run_stays_beside_the_next_one_and_the_code_compares_them(notebook: Notebook):
    page = notebook.page
    select(page, "Site").select_option("resid_post")
    page.keyboard.press("Escape")
    click_cell(page, 6, 1)
    done(page)
    page.locator(f"{VIEW} .nbsight-heat").focus()
    page.keyboard.press("f")
    page.wait_for_selector(f"{VIEW} .nbsight-patching-compare table:visible")
    click_cell(page, 6, 7)
    page.wait_for_selector(f"{VIEW} .nbsight-patching-stack li:has-text('at 7')")
    page.wait_for_function(
        "view => !document.querySelector(`${view} .nbsight-patching-compare tbody tr`)"
        ".innerText.includes('+0.00')",
        arg=VIEW,
    )
    done(page)
    row = page.locator(f"{VIEW} .nbsight-patching-compare tbody tr").first.locator("td").all_inner_texts()
    before, now = asked(notebook, "[w.patched['frozen']['value'], w.patched['value']]")
    shown = [float(text.replace("−", "-")) for text in row]
    assert shown == pytest.approx([before, now, now - before], abs=0.02)
    for theme in ("Dark", "Light"):
        notebook.theme(f"JupyterLab {theme}")
        path = notebook.server.log.parent / f"patching-compare-{theme.lower()}.png"
        page.locator(VIEW).screenshot(path=path)
    cells = page.locator(CELL).count()
    page.locator(f"{VIEW} .nbsight-heat").focus()
    page.keyboard.press("c")
    page.wait_for_function(f"n => document.querySelectorAll('{CELL}').length === n + 1", arg=cells)
    notebook.run(2)
    printed = notebook.said(2)
    assert f"difference {now - before:.3f}"[:-1] in printed
    notebook.command("notebook:delete-cell")
    page.locator(f"{VIEW} .nbsight-heat").focus()
    page.click(f"{VIEW} button:has-text('Let go')")
    page.wait_for_selector(f"{VIEW} .nbsight-patching-compare table", state="hidden")


def test_another_pair_is_chosen(notebook: Notebook):
    page = notebook.page
    select(page, "Pair").select_option("1")
    page.wait_for_selector(
        f"{VIEW} .nbsight-patching-chip[data-run='clean'][data-column='3']:has-text('France')"
    )
    expect(page.locator(f"{VIEW} .nbsight-patching-stack li")).to_have_text(re.compile("^None"))
    page.wait_for_selector(f"{VIEW}[data-stage='done']")
    page.locator(VIEW).scroll_into_view_if_needed()
    click_cell(page, 3, 3)
    done(page)
    value = float(page.locator(f"{VIEW} .nbsight-patching-share strong").inner_text().replace("−", "-"))
    assert value == pytest.approx(swept_alone(), abs=0.02)


def swept_alone() -> float:
    """The same patch of the second pair, from a sweep of our own."""
    import nbsight

    model = nbsight.LanguageModel("nbsight/demo", dispatch=True)
    found = nbsight.activation_patching(
        model,
        "The capital of France is",
        "The capital of Italy is",
        answers=(" Paris", " Rome"),
        layers=[3],
        positions=[3],
    )
    return float(found.values[0, 0, 0, 0])
