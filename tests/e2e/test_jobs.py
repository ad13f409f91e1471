"""Jobs in a real JupyterLab: the bar under a cell that waits, stopped by mouse; the list, by keys; copies."""

from __future__ import annotations

import re

import pytest

from tests.e2e.lab import CELL, LabServer, Notebook, expect, settle

MAKE = """
%load_ext nbsight
import time, nbsight
from nbsight.core.jobs import Job, find, jobs
from nbsight.analysis.patching import PatchingSweep
model = nbsight.LanguageModel("nbsight/demo", dispatch=True)
prompts = "The capital of France is", "The capital of Italy is"
def slow():
    return PatchingSweep(model, *prompts, answers=(" Paris", " Rome"), batch=1)
"""
SWEEP = "result = slow().run(on_batch=lambda part: time.sleep(0.1))"
VIEW = ".nbsight-jobs"
BAR = f"{VIEW}[data-single] .nbsight-job"
LIST = f"{VIEW}:not([data-single])"


@pytest.fixture(scope="module")
def notebook(module_page, lab: LabServer) -> Notebook:
    lab.write("jobs.ipynb", MAKE, SWEEP, "%jobs", "", "")
    notebook = Notebook(module_page, lab, "jobs.ipynb")
    notebook.run(0)
    return notebook


def test_a_sweep_draws_its_bar_under_the_running_cell_and_stops_when_told(notebook: Notebook):
    page = notebook.page
    notebook.run(1, wait=False)
    page.wait_for_selector(f"{BAR}[data-state='running']")
    bar = page.locator(f"{BAR} [role=progressbar]")
    expect(bar).to_have_attribute("aria-valuenow", re.compile(r"0\.0*[1-9]"))
    seen = float(bar.get_attribute("aria-valuenow"))
    page.wait_for_function(
        "([bar, seen]) => Number(document.querySelector(bar).ariaValueNow ?? "
        "document.querySelector(bar).getAttribute('aria-valuenow')) > seen",
        arg=[f"{BAR} [role=progressbar]", seen],
    )
    page.wait_for_selector(f"{BAR} .nbsight-job-said:has-text(' left')")
    page.click(f"{BAR} button:has-text('Stop')")  # while the cell runs
    page.wait_for_selector(f"{BAR}[data-state='stopped']")
    notebook.wait_idle()
    known = notebook.python(3, "import numpy; print(int(numpy.isfinite(result.values).sum()))")
    assert 0 < int(known) < 60
    expect(page.locator(f"{BAR} .nbsight-job-said")).to_contain_text(f"stopped · {known} of 60")


def test_the_result_of_the_bar_is_a_cell(notebook: Notebook):
    page = notebook.page
    before = page.locator(CELL).count()
    page.locator(f"{BAR} button:has-text('Result')").click()
    page.wait_for_function(f"n => document.querySelectorAll('{CELL}').length === n + 1", arg=before)
    assert notebook.python(2, "print(find(jobs()[0].id).result is result)") == "True"
    page.locator(CELL).nth(2).click()
    notebook.command("notebook:delete-cell")


def test_a_remote_job_that_waits_and_a_failed_one_are_listed(notebook: Notebook):
    page = notebook.page
    notebook.python(
        3,
        "far = Job('trace 3f97aa01', kind='remote', model='meta-llama/Llama-3.1-70B', is_detached=True)\n"
        "far.code = 'answer = 42'\n"
        "far.wait(place=3, eta=40, note='waits for a worker')\n"
        "bad = Job('ablation', total=12, model='nbsight/demo'); bad.start(); bad.advance(5)\n"
        "bad.say('layer 0'); bad.say('<img src=x onerror=\"window.hacked = 1\">')\n"
        "bad.fail(ValueError('the metric gave nan for the run changed at layer 3'))",
    )
    notebook.run(2)
    said = page.locator(f"{LIST} .nbsight-job-said")
    expect(said.nth(0)).to_have_text(re.compile("^failed · 5 of 12"))
    expect(said.nth(1)).to_have_text("waits for a worker · place 3 · about 40 s")
    expect(said.nth(2)).to_have_text(re.compile("^stopped · "))
    expect(page.locator(f"{LIST} .nbsight-job-error").first).to_contain_text("the metric gave nan")
    page.click(f"{LIST} .nbsight-job >> nth=0 >> button:has-text('Log')")
    log = page.locator(f"{LIST} .nbsight-job-log[data-open]")
    expect(log).to_contain_text("<img src=x")
    assert page.evaluate("window.hacked") is None


def test_the_list_follows_work_and_works_by_keys(notebook: Notebook):
    page = notebook.page
    notebook.python(3, "far.start(); far.advance(0, note='layer 3 of 80')")
    page.wait_for_selector(f"{LIST} .nbsight-job-said:has-text('layer 3 of 80')")
    page.focus(f"{LIST} .nbsight-job >> nth=0")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("x")
    page.wait_for_selector(f"{LIST} .nbsight-job-said:has-text('stopping')")
    notebook.until(3, "print(far.is_cancelled)", "True")
    notebook.python(3, "far.finish()")
    page.wait_for_selector(f"{LIST} .nbsight-job[data-state='done']")
    before = page.locator(CELL).count()
    page.focus(f"{LIST} .nbsight-job >> nth=1")
    page.keyboard.press("Enter")
    page.wait_for_function(f"n => document.querySelectorAll('{CELL}').length === n + 1", arg=before)
    assert notebook.python(4, "answer = 0") == ""
    assert notebook.source(3).strip() == "answer = 42"
    page.locator(CELL).nth(3).click()
    notebook.command("notebook:delete-cell")


def test_what_works_is_named_for_screen_readers(notebook: Notebook):
    bars = notebook.page.locator(f"{LIST} [role=listitem]")
    expect(bars.first).to_have_attribute("aria-label", re.compile("^ablation: failed"))
    notebook.page.focus(f"{LIST} .nbsight-job >> nth=0")
    notebook.page.keyboard.press("t")
    table = notebook.page.locator(f"{LIST} .nbsight-table table")
    expect(table).to_contain_text("ablation")
    notebook.page.locator(f"{LIST} button:has-text('Table')").click()


def test_pictures(notebook: Notebook, artifacts):
    page = notebook.page
    notebook.python(
        3,
        "go = Job('patching', total=1080, model='nbsight/demo'); go.start()\n"
        "for n in range(36):\n    go.advance(12); time.sleep(0.05)\n"
        "wait = Job('trace 51d0e2c7', kind='remote', model='meta-llama/Llama-3.1-70B', is_detached=True)\n"
        "wait.wait(place=3, eta=40, note='waits for a worker')\n"
        "tune = Job('tuned lens', kind='training', model='nbsight/demo'); tune.start()\n"
        "tune.advance(0, note='epoch 2'); "
        "tune.say('loss 1.42 at step 200'); tune.say('loss 1.37 at step 250')",
    )
    page.wait_for_selector(f"{LIST} .nbsight-job-said:has-text('432 of 1080')")
    for theme, name in (("JupyterLab Dark", "dark"), ("JupyterLab Light", "light")):
        notebook.theme(theme)
        settle(page)
        expect(page.locator(LIST)).to_have_attribute("data-theme", name)
        page.locator(LIST).screenshot(path=artifacts / f"jobs-{name}.png")
        page.locator(CELL).nth(1).locator(VIEW).screenshot(path=artifacts / f"job-bar-{name}.png")
    notebook.python(3, "go.finish(); wait.stopped(); tune.finish()")


def test_reopened_without_a_kernel_the_bar_and_the_list_are_still_there(notebook: Notebook):
    page = notebook.page
    notebook.save()
    notebook.shut_kernel_down()
    notebook.open(kernel=False)
    page.wait_for_selector(".jp-nbsight-still .nbsight-jobs:not([data-single])", state="attached")
    stills = page.locator(".jp-nbsight-still .nbsight-job-said")
    expect(stills.filter(has_text=re.compile("^stopped · ")).first).to_be_attached()
    expect(page.locator(".jp-nbsight-still button:has-text('Stop'):visible")).to_have_count(0)


def test_the_list_as_a_page_lives_without_kernel_and_network(page, tmp_path):
    from nbsight.core.jobs import Job
    from nbsight.widgets import JobsWidget

    with Job("patching </script><b>", total=3) as job:
        job.advance(3)
    file = tmp_path / "jobs.html"
    widget = JobsWidget()
    widget.to_html(file)
    widget.close()
    page.context.set_offline(True)
    page.goto(file.as_uri())
    row = page.locator(".nbsight-job").first
    expect(row).to_contain_text("</script><b>")
    row.focus()
    page.keyboard.press("c")
    expect(page.locator(".nbsight-code pre")).to_have_text(re.compile(r"JobsWidget|find\("))
