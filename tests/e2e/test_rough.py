"""What goes wrong around views: kernels that leave, hostile tokens, long prompts, second pages."""

from __future__ import annotations

import numpy as np
import pytest

from tests.e2e.lab import LabServer, Notebook, expect

EVIL = '<script>window.hacked=1</script><img src=x onerror="window.hacked=1">'
MAKE = """
%load_ext nbsight
import gc, torch, nbsight
from nbsight.widgets import *
model = nbsight.LanguageModel("nbsight/demo", dispatch=True)
prompt = "The Eiffel Tower is in the city of"
"""
VIEWS = {
    "lens": "w = LensWidget(nbsight.logit_lens(model, prompt)); w",
    "norms": "NormsWidget(nbsight.stream_norms(model, prompt))",
    "inspector": "InspectorWidget(model, prompt)",
    "stepper": "StepperWidget(model, prompt)",
}


def opened(page, lab: LabServer, name: str, make: str, *cells: str) -> Notebook:
    lab.write(name, make, *cells)
    notebook = Notebook(page, lab, name)
    for index, cell in enumerate((make, *cells)):
        if cell:
            notebook.run(index)
    return notebook


def test_every_view_is_a_copy_that_reads_when_its_kernel_is_gone(page, lab: LabServer):
    notebook = opened(page, lab, "copies.ipynb", MAKE, *VIEWS.values())
    for name in VIEWS:
        page.locator(f".nbsight-{name} [role=grid]").first.wait_for()
    notebook.save()
    notebook.shut_kernel_down()
    notebook.open(kernel=False)
    for index, name in enumerate(VIEWS):
        page.locator(".jp-Notebook .jp-Cell").nth(index + 1).scroll_into_view_if_needed()
        view = page.locator(f".jp-nbsight-still .nbsight-{name}")
        grid = view.locator("[role=grid]").first
        grid.wait_for(timeout=30_000)
        grid.focus()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowUp")
        expect(view.locator(".nbsight-readout").first).not_to_be_empty()
        page.keyboard.press("t")
        view.locator(".nbsight-table").wait_for()
        page.keyboard.press("t")
    assert "Error displaying widget" not in page.locator(".jp-Notebook").inner_text()


def test_a_token_that_is_markup_is_text_in_every_view(page, lab: LabServer):
    make = MAKE + f"prompt = {EVIL!r} + ' is'\nother = {EVIL!r} + ' was'\n"
    views = {**VIEWS, "patching": "PatchingWidget(model, prompt, other, answers=(' Paris', ' Rome'))"}
    notebook = opened(page, lab, "markup.ipynb", make, *views.values(), f"{{{EVIL!r}: torch.ones(8, 8)}}")
    notebook.python(len(views) + 1, f"InspectorWidget({{{EVIL!r}: torch.ones(8, 8)}}, tokens=[{EVIL!r}] * 8)")
    for name in views:
        view = page.locator(f".nbsight-{name}").first
        view.scroll_into_view_if_needed()
        grid = view.locator("[role=grid]").first
        grid.focus()
        for key in ("ArrowLeft", "Enter", "t", "t"):
            page.keyboard.press(key)
        with page.expect_download() as saved:
            view.locator("button:has-text('Save')").first.click()
            view.locator("button[role=menuitem]:has-text('SVG')").first.click()
        assert "<script" not in saved.value.path().read_text()
    page.wait_for_timeout(500)  # for what should not come
    assert page.locator(".nbsight img, .nbsight script").count() == 0
    assert page.evaluate("() => window.hacked === undefined")


@pytest.fixture(scope="module")
def large():
    """96 layers and 10,000 tokens, with numbers that can be told by heart."""
    from nbsight.results.lens import Lens
    from nbsight.results.norms import Norms
    from nbsight.widgets import InspectorWidget, LensWidget, NormsWidget

    layers, tokens = 96, [f" {i}" for i in range(10_000)]
    layer, position = np.indices((layers, 10_000)).astype(np.float32)
    ids = (position[..., None] % 50).astype(int)
    words = np.array([f" w{i}" for i in range(50)], object)
    probs = (layer / 96)[..., None]
    lens = Lens(
        "p", tokens, range(layers), top_ids=ids, top_tokens=words[ids], top_probs=probs, model="large"
    )
    norms = Norms(
        prompt="p",
        components=["resid_post"],
        layers=range(layers),
        tokens=tokens,
        norm=(layer + position / 1e4)[None],
        turn=np.ones_like(layer),
        other_layers=range(layers),
        alike=np.eye(layers, dtype=np.float32),
        channels=[1],
        channel_size=np.ones((layers, 1), np.float32),
        model="large",
    )
    return {
        "lens": LensWidget(lens, state={"stride": 8}),
        "norms": NormsWidget(norms),
        "inspector": InspectorWidget({"a": layer}, axes=("layer", "position"), tokens=tokens),
    }


@pytest.mark.parametrize("name", ["lens", "norms", "inspector"])
def test_ninety_six_layers_of_ten_thousand_tokens_can_be_walked(page, large, tmp_path, name):
    file = tmp_path / f"{name}.html"
    large[name].to_html(file)
    page.goto(file.as_uri())
    grid = page.locator(f".nbsight-{name} [role=grid]").first
    grid.wait_for(timeout=60_000)
    grid.focus()
    page.keyboard.press("End")
    expect(page.locator(".nbsight-readout").first).to_contain_text("9999")
    assert page.evaluate("() => document.querySelectorAll('.nbsight *').length") < 6000
    page.keyboard.press("t")
    expect(page.locator(".nbsight-table caption")).to_contain_text(" of ", timeout=60_000)  # what is left out


def test_a_model_that_was_deleted_still_answers_its_views(page, lab: LabServer):
    notebook = opened(page, lab, "deleted.ipynb", MAKE, VIEWS["lens"], "del model; gc.collect()", "")
    page.click(".nbsight-lens-cell[data-layer='3'][data-position='2']")
    page.wait_for_selector(".nbsight-lens-detail[data-state='answered']")
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.shutdown()")
    page.click(".nbsight-lens-cell[data-layer='4'][data-position='2']")
    page.wait_for_selector(".nbsight-lens-note:has-text('busy or gone'), .nbsight-error", timeout=20_000)
    expect(page.locator(".nbsight-lens-detail li")).to_have_count(5)  # what was kept
    assert notebook.page.locator(".nbsight-lens").count() == 1


def test_a_second_page_and_a_reload_have_the_same_live_view(page, browser, lab: LabServer):
    notebook = opened(page, lab, "pages.ipynb", MAKE, VIEWS["lens"], "")
    notebook.save()
    context = browser.new_context(viewport={"width": 1320, "height": 900})
    other = context.new_page()
    other.goto(f"{lab.url}/lab/workspaces/second/tree/pages.ipynb?token={lab.token}")
    place = ".nbsight-lens-cell[data-layer='3'][data-position='2']"
    other.wait_for_selector(place, timeout=60_000)
    other.wait_for_selector(".jp-nbsight-still", state="detached", timeout=30_000)
    other.click(place)
    other.wait_for_selector(".nbsight-lens-detail[data-state='answered']", timeout=20_000)
    page.wait_for_selector(f"{place}[aria-selected='true']", timeout=20_000)
    context.close()
    notebook.open()
    page.wait_for_selector(".jp-nbsight-still", state="detached", timeout=30_000)
    page.click(".nbsight-lens-cell[data-layer='5'][data-position='1']")
    page.wait_for_selector(".nbsight-lens-detail[data-state='answered']", timeout=20_000)
    notebook.until(2, "print(w.selection)", "(5, 1)")


def test_a_part_that_cannot_be_read_is_said_in_its_place(page, lab: LabServer):
    opened(page, lab, "parts.ipynb", MAKE, VIEWS["lens"])
    page.click("button:has-text('Contrast')")
    field = page.locator(".nbsight-lens-contrast input").first
    field.fill("no such token at all")
    field.press("Enter")
    error = page.locator(".nbsight-lens .nbsight-error")
    expect(error).to_contain_text("no such token at all")
    page.select_option("label:has-text('Read') select", "head_1")
    page.wait_for_selector(".nbsight-lens-check:has-text('Read alone')")
    expect(error).to_have_count(0)
