"""The jobs widget on the kernel's side: what it shows, what a page may ask, its copies, bars under cells."""

from __future__ import annotations

import json
import threading
import time

import pytest

import nbsight
from nbsight.core import jobs
from nbsight.core.job_rows import PULSE
from nbsight.core.jobs import Job
from nbsight.models.language_model import LanguageModel
from nbsight.widgets import JobsWidget
from nbsight.widgets.base import STILL_MIME
from nbsight.widgets.jobs import _views
from tests.widgets.page import Page
from tests.widgets.shared_jobs import FIXTURE, Found, as_json, shared_jobs


@pytest.fixture(autouse=True)
def empty():
    jobs._jobs.clear()
    yield
    jobs._jobs.clear()


@pytest.fixture
def page():
    page = Page(JobsWidget())
    yield page
    page.widget.close()


def rows(widget):
    return {row["id"]: row for row in widget.header["jobs"]}


def until(true, seconds=5.0):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    assert true()


def test_jobs_are_shown_as_they_go_newest_first(page):
    first = Job("patching", total=72)
    second = Job("ablation", total=12)
    assert [row["id"] for row in page.widget.header["jobs"]] == [second.id, first.id]
    with first:
        first.advance(to=24)
        time.sleep(2 * PULSE)
        assert (rows(page.widget)[first.id]["done"], rows(page.widget)[first.id]["state"]) == (24, "running")
    assert rows(page.widget)[first.id]["state"] == "stopped"


def test_the_page_hears_of_a_busy_job_ten_times_a_second_at_most(page):
    sent = []
    page.widget.observe(lambda change: sent.append(change), "header")
    with Job("patching", total=10**6) as job:
        began = time.monotonic()
        while time.monotonic() - began < 0.5:
            job.advance()
    assert job.done > 100
    assert 3 <= len(sent) <= 0.5 / PULSE + 5


def test_a_page_stops_a_job_and_reads_all_of_its_log(page):
    job = Job("patching", total=3)
    job.start()
    for number in range(7):
        job.say(f"line {number}")
    until(lambda: rows(page.widget)[job.id]["lines"] == 7)
    assert rows(page.widget)[job.id]["tail"] == ["line 4", "line 5", "line 6"]
    reply, _ = page.ask("log", job=job.id)
    assert reply["result"]["lines"] == [f"line {number}" for number in range(7)]
    assert page.ask("cancel", job=job.id)[0]["ok"]
    with pytest.raises(KeyboardInterrupt):
        job.check()
    reply, _ = page.ask("cancel", job="job-none")
    assert "there is no job 'job-none'" in reply["error"]["message"]


def test_stopping_does_not_wait_for_the_models_worker(page):
    """A sweep keeps the worker of its model busy; what stops it must not queue behind it."""
    from nbsight.widgets.worker import Job as Request
    from nbsight.widgets.worker import worker_for

    model = Found()
    job, go = Job("patching"), threading.Event()
    worker_for(model).submit(go.wait, Request())
    job.start()
    assert page.ask("cancel", job=job.id)[0]["ok"]
    assert job.is_cancelled
    go.set()


def test_old_jobs_are_counted_and_not_sent(page):
    for number in range(26):
        Job(f"number {number}").finish()
    assert len(page.widget.header["jobs"]) == 20
    assert page.widget.header["older"] == 6
    assert page.widget.header["jobs"][0]["title"] == "number 25"


def test_the_code_of_a_job_gives_its_result(page):
    found = Found()
    job = Job("patching", total=1)
    job.finish(found)
    page.widget.selection = (job.id,)
    assert page.widget.result is found
    names: dict = {}
    exec(page.widget.to_code(), names)
    assert names["result"] is found
    assert page.ask("code", job=job.id)[0]["result"]["code"] == page.widget.to_code()


def test_a_result_that_has_a_name_or_is_an_output_is_called_that(page):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    try:
        job, found = Job("patching"), Found()
        job.finish(found)
        shell.user_ns.setdefault("Out", {})[7] = found
        assert page.ask("code", job=job.id)[0]["result"]["code"] == "Out[7]"
        shell.user_ns["sweep"] = found
        assert page.ask("code", job=job.id)[0]["result"]["code"] == "sweep"
    finally:
        InteractiveShell.clear_instance()


def test_the_code_of_a_remote_job_fetches_it(page):
    job = Job("trace", kind="remote")
    job.code = 'from nbsight.remote import jobs\n\nresult = jobs["3f97"].result()'
    page.widget.selection = (job.id,)
    assert page.widget.to_code() == job.code


def test_without_a_choice_the_code_shows_all_jobs(page):
    Job("patching")
    names: dict = {}
    exec(page.widget.to_code().replace("JobsWidget()", "made = JobsWidget()"), names)
    assert [row["title"] for row in names["made"].header["jobs"]] == ["patching"]
    names["made"].close()


def test_copies_hold_how_far_each_is(page, tmp_path):
    with pytest.raises(ValueError, match="nan"), Job("ablation", total=12, model="m") as job:
        job.advance(to=5)
        raise ValueError("the metric gave nan")
    header, row = page.widget.to_csv().splitlines()
    assert header.startswith("id,title,model,state,done,total")
    assert row.startswith(f"{job.id},ablation,m,failed,5,12")
    assert "failed · ValueError: the metric gave nan" in page.widget.still_text()
    assert page.widget.to_png(tmp_path / "jobs.png")[:4] == b"\x89PNG"
    html = page.widget.to_html()
    assert "the metric gave nan" in html
    assert "https://" not in html


def test_a_bar_under_a_cell_shows_its_job_only_and_costs_no_picture_while_it_runs():
    other = Job("other")
    job = Job("patching", total=9)
    job.start()
    bar = JobsWidget(job)
    other.advance()
    assert [row["id"] for row in bar.header["jobs"]] == [job.id]
    data, _ = bar._repr_mimebundle_()
    assert "image/png" not in data
    assert data[STILL_MIME]["header"]["jobs"][0]["state"] == "running"
    found = Found()
    job.advance(to=9)
    job.finish(found)
    data, _ = bar._repr_mimebundle_()
    assert "image/png" in data
    assert data[STILL_MIME]["header"]["jobs"][0]["state"] == "done"
    assert data[STILL_MIME]["header"]["live"] is False
    assert bar.result is found
    names: dict = {}
    exec(bar.to_code(), names)
    assert names["result"] is found
    bar.close()


def test_a_closed_view_hears_nothing_and_the_last_one_leaves_no_listener():
    for other in list(_views):  # of other tests
        other.close()
    before = list(jobs.listeners)
    view, second = JobsWidget(), JobsWidget()
    assert len(jobs.listeners) == len(before) + 1
    view.close()
    Job("later")
    assert view.header["jobs"] == []
    assert len(second.header["jobs"]) == 1
    second.close()
    assert jobs.listeners == before


def test_many_threads_may_move_jobs_while_a_page_looks(page):
    def work():
        with Job("sweep", total=300) as job:
            for _ in range(300):
                job.advance()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: all(row["state"] == "done" for row in page.widget.header["jobs"]))
    assert [row["done"] for row in page.widget.header["jobs"]] == [300] * 4
    json.dumps(page.widget.header)


# -- sweeps ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return LanguageModel("nbsight/demo", dispatch=True)


def sweep(model, **options):
    prompts = "The capital of France is", "The capital of Italy is"
    return nbsight.activation_patching(model, *prompts, answers=(" Paris", " Rome"), layers=[2, 5], **options)


def test_a_sweeps_job_has_its_result(model):
    result = sweep(model)
    (job,) = jobs.jobs()
    assert job.result is result
    assert (job.state, job.done, job.total) == ("done", 10, 10)


@pytest.mark.parametrize(("progress", "shown"), [(True, 1), (False, 0)])
def test_a_sweep_shows_its_bar_under_the_cell_where_it_is_wanted(model, monkeypatch, capsys, progress, shown):
    from nbsight.core import in_cell

    bars, left = [], []

    def present(job):
        bars.append(JobsWidget(job))
        return lambda: left.append(bars[-1].header["jobs"][0]["state"])

    monkeypatch.setattr(in_cell, "presenters", [present])
    sweep(model, progress=progress)
    assert len(bars) == shown
    assert left == ["done"] * shown
    assert capsys.readouterr().err == ""  # and no second bar as text
    for bar in bars:
        bar.close()


def test_without_a_notebook_the_bar_is_text(model, capsys):
    sweep(model, progress=True)
    assert "patching" in capsys.readouterr().err


def test_the_fixture_of_the_javascript_tests_is_what_python_sends():
    assert FIXTURE.read_text(encoding="utf-8") == as_json(), "python -m tests.widgets.shared_jobs writes it"


def test_the_shared_jobs_are_of_every_state():
    widget, _ = shared_jobs()
    assert [row["state"] for row in widget.header["jobs"]] == [
        "running",
        "queued",
        "done",
        "stopped",
        "failed",
    ]
    widget.close()
