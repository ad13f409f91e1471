"""The sidebar in Notebook 7: one notebook in a page, and no launcher, file browser or status bar."""

from __future__ import annotations

import pytest

from tests.e2e.lab import LabServer, expect
from tests.e2e.test_sidebar import LOAD, PANEL, TRACE, section

pytest.importorskip("notebook", reason="Notebook 7 is not installed: pip install notebook")

KERNEL = "window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel"
RUN = "() => window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => null)"


def test_the_sidebar_works_in_notebook_7(page, lab: LabServer, artifacts):
    lab.write("seven.ipynb", LOAD, TRACE, "x = ")
    page.goto(f"{lab.url}/notebooks/seven.ipynb?token={lab.token}")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    page.wait_for_function(f"() => {KERNEL}?.status === 'idle'", timeout=60_000)
    page.evaluate("() => window.jupyterapp.commands.execute('nbsight:show').then(() => null)")
    page.wait_for_selector(f"{PANEL}[data-status='unloaded']")
    page.click(f"{PANEL} .jp-nbsight-load")
    page.wait_for_selector(f"{PANEL}[data-status='connected']", timeout=30_000)
    page.evaluate(RUN)
    saved = page.locator(f"{section('saved')} .jp-nbsight-row", has_text="hidden")
    saved.wait_for(timeout=60_000)
    page.locator(".jp-Notebook .jp-Cell").nth(2).locator(".cm-content").click()
    page.keyboard.press("End")
    page.locator("[data-path='lm_head'] > div > .jp-nbsight-name").click()
    page.wait_for_function("() => document.activeElement.closest('.jp-Notebook')")
    typed = page.locator(".jp-Notebook .jp-Cell").nth(2).locator(".cm-content")
    expect(typed).to_have_text("x = model.lm_head")
    page.screenshot(path=artifacts / "sidebar-notebook7.png")
    saved.hover()
    saved.locator("button[aria-label^='Free']").click()
    saved.wait_for(state="detached")
