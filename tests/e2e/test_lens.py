"""The whole way of the lens: Python, comm, page, comm, Python; and what is left without a kernel."""

from __future__ import annotations

import json
import time

import pytest

from tests.e2e.lab import LabServer, Notebook, expect, settle

# A lens of known numbers with a real function behind it, so that the page can be told from the model.
MAKE = """
import threading, time
import numpy as np
from nbsight.results.lens import Lens, LensCell
from nbsight.widgets.lens import LensWidget

WORDS = [" Paris", " the", " is", " Rome", "\\n", " of", "é", " capital", " in", " France", "!", " 42"]
WORDS = np.array(WORDS, dtype=object)
TOKENS = ["The", " capital", " of", " France", " is"]
ODDS = np.random.default_rng(3).dirichlet([0.25] * 12, (12, len(TOKENS))).astype("f4")
CALLS = []

def detail(layer, position, top_k):
    CALLS.append((layer, position, top_k, threading.current_thread().name))
    if (layer, position) == (0, 0):
        raise ValueError("this cell is broken on purpose")
    order = np.argsort(-ODDS[layer, position], kind="stable")[:top_k]
    return LensCell(layer, position, list(WORDS[order]), order, ODDS[layer, position][order])

IDS = np.argsort(-ODDS, axis=-1, kind="stable")[..., :5]
lens = Lens("".join(TOKENS), TOKENS, range(12), IDS, WORDS[IDS], np.take_along_axis(ODDS, IDS, -1),
            model="a model of the test", provenance={"dtype": "float32"}, detail=detail)
"""
VIEW = ".nbsight-lens"


def cell(layer: int, position: int) -> str:
    return f"{VIEW} .nbsight-lens-cell[data-layer='{layer}'][data-position='{position}']"


CELLS = (MAKE, "CALLS.clear()\nw = LensWidget(lens)\nw", "", "")


@pytest.fixture(scope="module")
def shared(module_page, lab: LabServer) -> Notebook:
    """One notebook for the tests that leave it as it was (opening one takes seconds)."""
    lab.write("lens.ipynb", *CELLS)
    notebook = Notebook(module_page, lab, "lens.ipynb")
    notebook.run(0)
    return notebook


@pytest.fixture
def notebook(shared: Notebook) -> Notebook:
    """A fresh lens shown as `w`, with nothing asked yet, and two cells after it."""
    show(shared)
    return shared


@pytest.fixture
def own_notebook(page, lab: LabServer, request) -> Notebook:
    """The same in a notebook and a kernel of its own, for tests that change or end them."""
    name = f"{request.node.name}.ipynb"
    lab.write(name, *CELLS)
    notebook = Notebook(page, lab, name)
    notebook.run(0)
    show(notebook)
    return notebook


def show(notebook: Notebook) -> None:
    notebook.run(1)
    notebook.page.wait_for_selector(cell(11, 4))
    notebook.page.wait_for_selector(f"{VIEW} .nbsight-lens-detail[data-state='idle']")


def test_a_lens_is_shown_after_load_ext(page, lab: LabServer):
    lab.write("load_ext.ipynb", MAKE, "lens", "%load_ext nbsight", "lens")
    notebook = Notebook(page, lab, "load_ext.ipynb")
    notebook.run(0)
    notebook.run(1)
    assert "Lens of 'The capital of France is'" in notebook.said(1)
    assert page.locator(VIEW).count() == 0  # without the extension: text
    notebook.run(2)
    notebook.run(3)
    expect(page.locator(f"{VIEW} .nbsight-lens-cell")).to_have_count(12 * 5)


def test_a_click_asks_python_and_python_knows_the_selection(notebook: Notebook):
    page = notebook.page
    page.click(cell(7, 3))
    page.wait_for_selector(f"{VIEW} .nbsight-lens-detail[data-state='answered']")
    likeliest = page.locator(f"{VIEW} .nbsight-lens-detail li > :first-child")
    expect(likeliest).to_have_count(10)  # five came with the lens: these are from Python
    shown = likeliest.all_inner_texts()
    notebook.until(2, "print(w.selection)", "(7, 3)")
    asked = "import json\nprint(json.dumps([w.selection, list(CALLS), list(detail(7, 3, 10).tokens)]))"
    selection, calls, tokens = json.loads(notebook.python(2, asked))
    assert selection == [7, 3]
    assert [call[:3] for call in calls] == [[7, 3, 10]]
    assert calls[0][3].startswith("nbsight-worker")
    assert shown == [token.replace(" ", "·").replace("\n", "⏎") for token in tokens]


def test_python_opens_a_cell(notebook: Notebook):
    page = notebook.page
    notebook.python(2, "w.selection = (-1, 1)")
    page.wait_for_selector(f"{cell(11, 1)}[aria-selected='true']")
    page.wait_for_selector(f"{VIEW} .nbsight-lens-detail[data-state='answered']")
    expect(page.locator(f"{VIEW} .nbsight-lens-detail h3")).to_have_text("Layer 11 · position 1")


def test_keys_move_open_and_close(notebook: Notebook):
    page = notebook.page
    page.focus(f"{VIEW} .nbsight-lens-grid")
    for key in ("PageDown", "Home", "ArrowUp", "ArrowUp", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector(f"{VIEW} .nbsight-lens-detail[data-state='answered']")
    expect(page.locator(f"{VIEW} .nbsight-lens-detail h3")).to_have_text("Layer 2 · position 1")
    expect(page.locator(f"{VIEW} [aria-live]").first).to_contain_text("Layer 2, position 1")
    assert page.locator(".jp-Notebook .jp-Cell").count() == 4
    page.keyboard.press("Escape")
    page.wait_for_function("() => !document.querySelector(\".nbsight-lens-cell[aria-selected='true']\")")
    notebook.until(2, "print(w.selection)", "None")


def test_an_error_in_python_is_shown_in_its_place(notebook: Notebook):
    page = notebook.page
    page.click(cell(0, 0))
    failure = page.locator(f"{VIEW} .nbsight-error")
    expect(failure).to_contain_text("ValueError")
    expect(failure).to_contain_text("this cell is broken on purpose")
    page.click(cell(1, 0))  # and the next question is answered
    page.wait_for_selector(f"{VIEW} .nbsight-lens-detail[data-state='answered']")


def test_a_question_asked_while_a_cell_runs_is_answered(notebook: Notebook):
    page = notebook.page
    page.click(cell(3, 3))
    page.wait_for_selector(f"{VIEW} .nbsight-lens-detail[data-state='answered']")
    notebook.type(2, "time.sleep(4); print(len(CALLS))")
    notebook.run(2, wait=False)
    notebook.wait_busy()
    page.click(cell(4, 4))
    page.wait_for_function(
        "() => document.querySelector('.nbsight-lens-detail h3').textContent === 'Layer 4 · position 4'"
    )
    page.wait_for_selector(f"{VIEW} .nbsight-lens-detail[data-state='answered']", timeout=15_000)
    notebook.wait_idle()
    assert notebook.python(3, "print(CALLS[-1][:3])") == "(4, 4, 10)"


def test_the_code_of_the_view_goes_into_a_new_cell_and_is_not_run(own_notebook: Notebook):
    notebook, page = own_notebook, own_notebook.page
    page.click(cell(5, 2))
    page.click(f"{VIEW} button[aria-label='Insert code']")
    page.wait_for_function("() => document.querySelectorAll('.jp-Notebook .jp-Cell').length === 5")
    inserted = page.locator(".jp-Notebook .jp-Cell").nth(2)
    assert "logit_lens(model, 'The capital of France is', top_k=5)" in notebook.source(2)
    assert "lens.at(layer=5, position=2)" in notebook.source(2)
    expect(inserted.locator(".jp-InputPrompt")).to_have_text("[ ]:")


def test_light_and_dark(own_notebook: Notebook, artifacts):
    notebook, page = own_notebook, own_notebook.page
    page.click(cell(8, 4))
    page.wait_for_selector(f"{VIEW} .nbsight-lens-detail[data-state='answered']")
    fills = {}
    for theme, said in (("JupyterLab Light", "light"), ("JupyterLab Dark", "dark")):
        notebook.theme(theme)
        page.wait_for_selector(f"{VIEW}[data-theme='{said}']")
        page.hover(cell(6, 2))
        settle(page)
        fills[said] = page.locator(cell(6, 2)).evaluate("cell => getComputedStyle(cell).backgroundColor")
        page.screenshot(path=artifacts / f"lens-{said}.png")
    notebook.theme("JupyterLab Light")
    assert fills["light"] != fills["dark"]


def test_a_view_on_a_kernel_that_is_gone_is_a_copy_that_still_reads(own_notebook: Notebook, artifacts):
    notebook, page = own_notebook, own_notebook.page
    top = page.locator(cell(11, 4)).inner_text()
    notebook.save()
    notebook.shut_kernel_down()
    notebook.open(kernel=False)
    page.wait_for_selector(".jp-nbsight-still", timeout=30_000)
    expect(page.locator(".jp-nbsight-still figcaption")).to_contain_text("Saved copy")
    expect(page.locator(cell(11, 4))).to_have_text(top)
    page.click(cell(11, 4))
    expect(page.locator(f"{VIEW} .nbsight-lens-note")).to_have_text("The 5 kept with the result.")
    expect(page.locator(f"{VIEW} .nbsight-lens-detail li")).to_have_count(5)
    assert "Error displaying widget" not in page.locator(".jp-Notebook").inner_text()
    page.screenshot(path=artifacts / "lens-saved-copy.png")


def test_a_restarted_kernel_answers_the_cell_that_is_run_again(own_notebook: Notebook):
    notebook, page = own_notebook, own_notebook.page
    page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()",
    )
    notebook.wait_idle()
    notebook.run(0)
    notebook.run(1)
    page.click(cell(2, 2))
    page.wait_for_selector(f"{VIEW} .nbsight-lens-detail[data-state='answered']")


def test_a_page_of_its_own_works_offline(browser, notebook: Notebook, tmp_path, artifacts):
    page_file = tmp_path / "lens.html"
    notebook.python(2, f"print(open({str(page_file)!r}, 'w').write(w.to_html()) > 0)")
    context = browser.new_context(viewport={"width": 1000, "height": 560}, offline=True)
    alone = context.new_page()
    asked: list[str] = []
    alone.on("request", lambda request: asked.append(request.url))
    alone.goto(page_file.as_uri())
    alone.click(cell(9, 1))
    expect(alone.locator(f"{VIEW} .nbsight-lens-detail li")).to_have_count(5)
    alone.screenshot(path=artifacts / "lens-page.png")
    context.close()
    assert all(url.startswith(("file:", "blob:", "data:")) for url in asked)


def test_a_long_prompt_is_scrolled_and_only_what_is_seen_is_in_the_page(page, lab: LabServer):
    long = "TOKENS = [' word'] * 1500\n"
    lab.write(
        "long.ipynb",
        MAKE.replace("TOKENS = [", "SHORT = [", 1).replace("ODDS =", f"{long}ODDS ="),
        "LensWidget(lens)",
    )
    notebook = Notebook(page, lab, "long.ipynb")
    notebook.run(0)
    began = time.monotonic()
    notebook.run(1)
    page.wait_for_selector(cell(0, 0))
    assert time.monotonic() - began < 20
    assert page.locator(f"{VIEW} .nbsight-lens-cell").count() < 12 * 60
    page.focus(f"{VIEW} .nbsight-lens-grid")
    page.keyboard.press("End")
    page.wait_for_selector(cell(0, 1499))
    page.wait_for_function("() => !document.querySelector(\".nbsight-lens-cell[data-position='0']\")")


def test_the_shipped_model_is_looked_into(page, lab: LabServer, artifacts):
    """Everything at once, as a newcomer does it; the ranking is checked against hooks of plain torch."""
    lab.write(
        "shipped.ipynb",
        "%load_ext nbsight\nimport nbsight\nmodel = nbsight.LanguageModel('nbsight/demo')",
        "lens = nbsight.logit_lens(model, 'The capital of France is')\nlens",
        "",
    )
    notebook = Notebook(page, lab, "shipped.ipynb")
    notebook.run(0)
    notebook.run(1)
    expect(page.locator(cell(11, 4))).to_have_text("·Paris")
    page.click(cell(8, 4))
    page.wait_for_selector(f"{VIEW} .nbsight-lens-detail[data-state='answered']")
    expect(page.locator(f"{VIEW} .nbsight-lens-detail li")).to_have_count(10)
    shown = page.locator(f"{VIEW} .nbsight-lens-detail li > :first-child").all_inner_texts()
    # The same ranking by hooks of plain torch: block 8's output through the model's own norm and head.
    oracle = """
import json, torch
plain, kept = model._model, []
handle = plain.transformer.h[8].register_forward_hook(lambda module, inputs, output: kept.append(output))
with torch.no_grad():
    plain(**model.tokenizer('The capital of France is', return_tensors='pt'))
    resid = kept[0][0] if isinstance(kept[0], tuple) else kept[0]
    best = plain.lm_head(plain.transformer.ln_f(resid))[0, 4].topk(10).indices
handle.remove()
print(json.dumps([model.tokenizer.decode([i]) for i in best.tolist()]))
"""
    expected = json.loads(notebook.python(2, oracle).splitlines()[-1])
    assert shown == [token.replace(" ", "·").replace("\n", "⏎") for token in expected]
    for theme, said in (("JupyterLab Light", "light"), ("JupyterLab Dark", "dark")):
        notebook.theme(theme)
        page.locator(f"{VIEW}[data-theme='{said}']").screenshot(path=artifacts / f"shipped-model-{said}.png")
