"""axe-core looks at every view and at the sidebar, in light and dark, and at what opens in them."""

from __future__ import annotations

import pytest

from tests.e2e.lab import ROOT, LabServer, Notebook, expect, settle
from tests.e2e.test_sidebar import LOAD, PANEL, TRACE

AXE = ROOT / "js" / "node_modules" / "axe-core" / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
# A view is a part of somebody's page, and which headings and landmarks that has is not its own.
OF_PAGES = ("region", "landmark-one-main", "page-has-heading-one", "heading-order")
RUN = """([where, tags, off]) => axe.run(where, {
  runOnly: tags, rules: Object.fromEntries(off.map(name => [name, {enabled: false}]))
}).then(found => found.violations.flatMap(rule => rule.nodes.map(
  node => `${rule.id}: ${node.target.join(' ')}  ${node.failureSummary.split('\\n').slice(1).join(' ')}`)))"""

pytestmark = pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed: cd js && npm ci")


def found(page, where: str) -> list[str]:
    """What axe-core has against a part of a page, once it has its colours."""
    settle(page)
    if not page.evaluate("() => 'axe' in window"):
        page.add_script_tag(path=AXE)
    return list(page.evaluate(RUN, [where, RULES, list(OF_PAGES)]))


@pytest.fixture(scope="module")
def widgets():
    import nbsight
    from nbsight.widgets import InspectorWidget, LensWidget, NormsWidget, PatchingWidget, StepperWidget

    model = nbsight.LanguageModel("nbsight/demo", dispatch=True)
    clean, corrupted = "The Eiffel Tower is in", "The Colosseum is in"
    answers = [{"id": model.to_single_token(text), "token": text} for text in (" Paris", " Rome")]
    lens = nbsight.logit_lens(model, clean, track=[" Paris", " Rome"])
    contrast = {"contrast": answers, "statistic": "logit_difference", "stride": 2}
    return {
        "lens": LensWidget(lens),
        "contrast": LensWidget(lens, state=contrast),
        "norms": NormsWidget(nbsight.stream_norms(model, clean)),
        "inspector": InspectorWidget(model, clean),
        "patching": PatchingWidget(model, clean, corrupted, answers=(" Paris", " Rome")),
        "stepper": StepperWidget(model, clean),
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["lens", "contrast", "norms", "inspector", "patching", "stepper"])
def test_a_view_as_a_page(page, widgets, tmp_path, name, scheme):
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    file = tmp_path / f"{name}.html"
    widgets[name].to_html(file)
    page.goto(file.as_uri())
    grid = page.locator(".nbsight [role=grid]").first
    grid.wait_for()
    assert "\n".join(found(page, ".nbsight")) == ""
    grid.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.click("button:has-text('Save')")
    assert "\n".join(found(page, ".nbsight")) == ""
    page.keyboard.press("Escape")
    grid.focus()
    page.keyboard.press("t")
    page.wait_for_selector(".nbsight-table")
    page.keyboard.press("c")
    page.wait_for_selector(".nbsight-code")
    assert "\n".join(found(page, ".nbsight")) == ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_jobs_in_every_state(page, tmp_path, scheme):
    from nbsight.core.jobs import Job
    from nbsight.widgets import JobsWidget

    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    jobs = [
        Job(f"{scheme} {state}", total=3)
        for state in ("done", "runs", "failed", "stopped", "waits", "endless")
    ]
    done, runs, failed, stopped, waits, endless = jobs
    endless.total = None
    for job in (done, runs, failed, stopped, endless):
        job.start()
        job.say("a line of its log")
        job.advance(1)
    failed.fail(ValueError("the metric gave nan"))
    stopped.stopped()
    waits.wait(place=3, eta=40, note="waits for a worker")
    done.finish()
    file, widget = tmp_path / "jobs.html", JobsWidget()
    try:
        assert {"running", "done", "failed", "stopped"} <= {job["state"] for job in widget.header["jobs"]}
        widget.to_html(file)
        page.goto(file.as_uri())
        rows = page.locator(".nbsight-job")
        expect(rows.filter(has_text=scheme).nth(5)).to_be_visible()
        assert "\n".join(found(page, ".nbsight")) == ""
        rows.filter(has_text=f"{scheme} failed").focus()
        for key in ("l", "t", "c"):
            page.keyboard.press(key)
        expect(page.locator(".nbsight-code pre")).not_to_be_empty()
        page.click("button:has-text('Save')")
        assert "\n".join(found(page, ".nbsight")) == ""
    finally:
        widget.close()
        for job in (runs, waits, endless):
            job.stopped()


def test_live_views_and_the_sidebar(page, lab: LabServer):
    lab.write(
        "axe.ipynb",
        LOAD,
        TRACE + "\nrun = model.start(PROMPT)\nrun.step()\nrun.step()",
        "nbsight.logit_lens(model, PROMPT)",
        "nbsight.stream_norms(model, PROMPT)",
        "with model.edit(inplace=True):\n    model.transformer.h[0].output[0][:, 1] *= 2",
    )
    notebook = Notebook(page, lab, "axe.ipynb")
    notebook.command("nbsight:show")
    for index in range(5):
        notebook.run(index)
    page.wait_for_selector(f"{PANEL} .jp-nbsight-card")
    page.locator("[data-path='transformer'] > div > .jp-nbsight-caret").click()
    page.wait_for_selector("[data-path='transformer'] > ul > li")
    lens, norms = page.locator(".nbsight-lens"), page.locator(".nbsight-norms")
    lens.locator(".nbsight-lens-cell").last.click()
    lens.locator("[data-state='answered']").wait_for()
    lens.locator("button:has-text('Contrast')").click()
    lens.locator("button:has-text('Open the activation')").click()
    lens.locator(".nbsight-below .nbsight-heat-rows > div").first.wait_for()
    norms.locator("[role=grid]").first.focus()
    page.keyboard.press("Enter")
    norms.locator(".nbsight-below .nbsight-heat-rows > div").first.wait_for()
    for theme in ("JupyterLab Light", "JupyterLab Dark"):
        notebook.theme(theme)
        for where in (".nbsight-lens", ".nbsight-norms", PANEL):
            assert "\n".join(found(page, where)) == "", theme
    notebook.theme("JupyterLab Light")
