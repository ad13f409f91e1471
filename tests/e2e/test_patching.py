"""Patching by mouse and keys in a real JupyterLab, on the shipped model."""

from __future__ import annotations

import json
import math

import pytest

from tests.e2e.lab import CELL, LabServer, Notebook, expect, settle

MAKE = """
import nbsight
from nbsight.widgets import PatchingWidget
model = nbsight.LanguageModel("nbsight/demo", dispatch=True)
clean, corrupted = "The Eiffel Tower is in the city of", "The Colosseum is in the city of"
"""
SHOW = 'w = PatchingWidget(model, clean, corrupted, answers=(" Paris", " Rome"))\nw'
VIEW = ".nbsight-patching"


@pytest.fixture(scope="module")
def notebook(module_page, lab: LabServer) -> Notebook:
    lab.write("patching.ipynb", MAKE, SHOW, "", "")
    notebook = Notebook(module_page, lab, "patching.ipynb")
    notebook.run(0)
    return notebook


@pytest.fixture
def page(notebook: Notebook):
    notebook.run(1)
    notebook.page.wait_for_selector(f"{VIEW} .nbsight-patching-chip")
    return notebook.page


def chip(run: str, position: int) -> str:
    return f"{VIEW} .nbsight-patching-chip[data-run='{run}'][data-column='{position}']"


def middle(page, selector: str) -> tuple[float, float]:
    box = page.locator(selector).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def click_cell(page, layer: int, position: int, **options) -> None:
    """By the labels, since the cells are on a canvas."""
    row = page.locator(f"{VIEW} .nbsight-heat-rows [data-row='{layer}']").bounding_box()
    x, _ = middle(page, chip("clean", position))
    page.mouse.move(x, row["y"] + row["height"] / 2)
    if options.get("shift"):
        page.keyboard.down("Shift")
    page.mouse.click(x, row["y"] + row["height"] / 2)
    if options.get("shift"):
        page.keyboard.up("Shift")


def share(page) -> str:
    page.wait_for_selector(f"{VIEW}[data-stage='done'] .nbsight-patching-share strong")
    return page.locator(f"{VIEW} .nbsight-patching-share").inner_text()


@pytest.fixture(scope="module")
def expected():
    """What each single patch recovers, in percent as the page writes it: from a sweep of our own."""
    import nbsight

    model = nbsight.LanguageModel("nbsight/demo", dispatch=True)
    clean, corrupted = "The Eiffel Tower is in the city of", "The Colosseum is in the city of"
    found = nbsight.activation_patching(model, clean, corrupted, answers=(" Paris", " Rome"))
    return lambda layer, position: (
        f"{math.floor(100 * found.recovered[0, 0, layer, position] + 0.5)} % of the way"
    )


def asked(notebook: Notebook, expression: str):
    return json.loads(notebook.python(2, f"import json\nprint(json.dumps({expression}))"))


def test_a_click_runs_that_patch_and_the_bars_move(notebook: Notebook, page, expected):
    click_cell(page, 3, 1)
    assert expected(3, 1) in share(page)
    first = page.locator(f"{VIEW} .nbsight-bars li").first
    expect(first.locator("span").first).to_have_text("·Paris")
    notebook.until(2, "print(w.selection)", "(3, 1)")
    assert asked(notebook, "[w.selection, w.patched['patches']]") == [
        [3, 1],
        [{"layer": 3, "site": "resid_post", "source": 1, "target": 1}],
    ]
    click_cell(page, 11, 1)
    page.wait_for_selector(f"{VIEW} .nbsight-patching-share:has-text(': 0 %')")
    click_cell(page, 11, 7, shift=True)  # one more
    page.wait_for_selector(f"{VIEW} .nbsight-patching-share:has-text('100 %')")
    expect(page.locator(f"{VIEW} .nbsight-patching-stack li")).to_have_count(2)
    page.keyboard.press("Control+z")
    page.wait_for_selector(f"{VIEW} .nbsight-patching-share:has-text(': 0 %')")
    page.keyboard.press("Control+y")
    page.wait_for_selector(f"{VIEW} .nbsight-patching-share:has-text('100 %')")


def test_a_token_is_carried_to_another_prompt_with_the_mouse(notebook: Notebook, page):
    page.mouse.move(*middle(page, chip("clean", 1)))
    page.mouse.down()
    x, y = middle(page, chip("corrupted", 2))
    page.mouse.move(x, y - 60, steps=4)
    expect(page.locator(f"{VIEW} .nbsight-patching-over path").nth(1)).to_be_attached()  # the arrow
    page.mouse.move(x, y, steps=4)
    page.mouse.up()
    share(page)
    expect(page.locator(f"{VIEW} .nbsight-beside")).to_contain_text("Moved to another position")
    patches = asked(notebook, "w.patched['patches']")
    assert [(patch["source"], patch["target"]) for patch in patches] == [(1, 2)]


def test_keys_alone_patch_carry_take_back_and_insert_the_code(notebook: Notebook, page, expected):
    page.focus(f"{VIEW} .nbsight-heat")
    for key in ("PageDown", "Home", "ArrowUp", "ArrowUp", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    assert expected(2, 1) in share(page)
    page.focus(chip("clean", 1))
    page.keyboard.press("Enter")  # picked up: the focus is on the other prompt
    page.wait_for_function("() => document.activeElement.dataset.run === 'corrupted'")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector(f"{VIEW} .nbsight-badge:has-text('another position')")
    cells = page.locator(CELL).count()
    page.keyboard.press("c")
    page.wait_for_function(f"n => document.querySelectorAll('{CELL}').length === n + 1", arg=cells)
    text = notebook.source(2)
    assert "value_0 = model.layers[2].resid_post[0, 1].clone()" in text
    assert "model.layers[2].resid_post[0, 2] = value_0" in text
    notebook.run(2)
    printed = notebook.said(2)
    share(page)
    shown = page.locator(f"{VIEW} .nbsight-patching-share strong").inner_text().replace("−", "-")
    assert float(printed.split()[2]) == pytest.approx(float(shown), abs=0.05)
    notebook.command("notebook:undo-cell-action")
    page.wait_for_function(f"n => document.querySelectorAll('{CELL}').length === n", arg=cells)


def test_a_sweep_fills_the_map_and_python_has_the_result(notebook: Notebook, page):
    page.click(f"{VIEW} button.nbsight-do")
    page.wait_for_selector(f"{VIEW} button.nbsight-do", state="hidden")
    assert asked(notebook, "[w.result.is_complete, list(w.result.values.shape)]") == [True, [1, 1, 12, 8]]
    page.locator(f"{VIEW} button:has-text('Table')").click()
    expect(page.locator(f"{VIEW} tbody tr")).to_have_count(96)
    expect(page.locator(f"{VIEW} tbody")).to_contain_text("·Colos")


def test_what_python_raises_is_shown_in_its_place(notebook: Notebook, page, expected):
    notebook.python(
        2, "w.state = {'patches': [{'layer': 99, 'site': 'resid_post', 'source': 0, 'target': 0}]}"
    )
    failure = page.locator(f"{VIEW} .nbsight-error")
    expect(failure).to_contain_text("there is no 99")
    click_cell(page, 3, 1)
    assert expected(3, 1) in share(page)
    expect(failure).to_have_count(0)


def test_other_prompts_are_run_and_a_hostile_one_stays_text(notebook: Notebook, page):
    page.evaluate("window.hacked = false")
    page.click(f"{VIEW} button:has-text('Edit prompts')")
    hostile = "<img src=x onerror='window.hacked=true'><script>window.hacked=true</script> is"
    page.fill(f"{VIEW} input[aria-label='clean prompt']", hostile)
    page.wait_for_selector(f"{VIEW} .nbsight-badge:has-text('so there is no sweep')")
    expect(page.locator(f"{VIEW} [data-run='clean']").nth(10)).to_be_attached()
    assert page.evaluate("window.hacked") is False
    assert asked(notebook, "w.header['clean']['prompt']") == hostile


def test_the_view_lives_on_without_a_kernel(page, lab: LabServer, browser):
    """Saved, closed, opened again with no kernel: the map is there and can be walked through."""
    lab.write(
        "patching_kept.ipynb",
        MAKE,
        "answers = (' Paris', ' Rome')\n"
        "PatchingWidget(nbsight.activation_patching(model, clean, corrupted, answers=answers))",
    )
    own = Notebook(
        browser.new_context(viewport={"width": 1320, "height": 900}).new_page(), lab, "patching_kept.ipynb"
    )
    own.run(0)
    own.run(1)
    own.page.wait_for_selector(chip("clean", 1))
    own.save()
    own.shut_kernel_down()
    own.open(kernel=False)
    own.page.wait_for_selector(f".jp-nbsight-still {chip('clean', 1)}", timeout=30_000)
    own.page.focus(f"{VIEW} .nbsight-heat")
    own.page.keyboard.press("ArrowUp")
    expect(own.page.locator(f"{VIEW} .nbsight-readout")).to_contain_text("% recovered")
    own.page.context.close()


@pytest.mark.parametrize(("theme", "name"), [("JupyterLab Light", "light"), ("JupyterLab Dark", "dark")])
def test_pictures(notebook: Notebook, page, artifacts, theme, name):
    notebook.theme(theme)
    page.click(f"{VIEW} button.nbsight-do")
    page.wait_for_selector(f"{VIEW} button.nbsight-do", state="hidden")
    click_cell(page, 4, 1)
    share(page)
    page.mouse.move(5, 5)
    settle(page)
    expect(page.locator(VIEW)).to_have_attribute("data-theme", name)
    page.locator(VIEW).screenshot(path=artifacts / f"patching-{name}.png")
    notebook.theme("JupyterLab Light")
