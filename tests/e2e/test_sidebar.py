"""The sidebar in a real JupyterLab: what a user sees, clicks and types, and what the kernel then has."""

from __future__ import annotations

import re

import pytest

from tests.e2e.lab import LabServer, Notebook, expect

PROMPT = "The capital of France is"
LOAD = f"""%load_ext nbsight
import nbsight
model = nbsight.LanguageModel("nbsight/demo", dispatch=True)
PROMPT = {PROMPT!r}"""
TRACE = """with model.trace(PROMPT):
    hidden = model.transformer.h[3].output[0].save()
    states = {i: model.transformer.h[i].output[0].save() for i in (4, 5)}
    logits = model.output.logits.save()"""
EDIT = "with model.edit(inplace=True):\n    model.transformer.h[0].output[0][:, 1] = 0"
RUN = "run = model.start(PROMPT)\nrun.step(); run.step(); run.step()"
SWEEP = """import time, warnings
class Slow:
    def __call__(self, logits):
        time.sleep(0.25)
        return logits.squeeze()[..., 0].reshape(-1)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    result = nbsight.activation_patching(model, PROMPT, "The capital of Italy is", metric=Slow(), batch=1)"""
PANEL = "#nbsight-sidebar"


def section(name: str) -> str:
    return f"{PANEL} [data-section='{name}']"


class Sidebar:
    """The sidebar beside a notebook, in the words of its user."""

    def __init__(self, notebook: Notebook) -> None:
        self.notebook, self.page = notebook, notebook.page
        notebook.command("nbsight:show")
        self.page.wait_for_selector(f"{PANEL}:not(.lm-mod-hidden)")

    def wait(self, selector: str) -> None:
        self.page.wait_for_selector(f"{PANEL} {selector}", timeout=20_000)

    def row(self, name: str, text: str):
        return self.page.locator(f"{section(name)} .jp-nbsight-row", has_text=text)

    def button(self, name: str, text: str, label: str):
        row = self.row(name, text).first
        row.hover()
        return row.locator(f"button[aria-label^='{label}']")


def typed(notebook: Notebook, index: int, text: str) -> None:
    """Wait until this is written in a cell."""
    notebook.page.wait_for_function(
        "([i, text]) => text === "
        "window.jupyterapp.shell.currentWidget.content.widgets[i].model.sharedModel.getSource()",
        arg=[index, text],
    )


def focused(page, test: str) -> None:
    """Wait until a row of the tree with such a path has the focus."""
    page.wait_for_function(f"() => (path => {test})(document.activeElement.dataset.path ?? '')")


@pytest.fixture(scope="module")
def shared(module_page, lab: LabServer) -> Sidebar:
    """One notebook with a model and a trace, for the tests that leave it as it was."""
    lab.write("sidebar.ipynb", LOAD, TRACE, EDIT, RUN, SWEEP, "", "")
    notebook = Notebook(module_page, lab, "sidebar.ipynb")
    side = Sidebar(notebook)
    notebook.run(0)
    notebook.run(1)
    side.wait(".jp-nbsight-card")
    return side


def test_the_sidebar_shows_the_model_and_what_was_saved(shared: Sidebar):
    card, saved = shared.page.locator(f"{PANEL} .jp-nbsight-card"), shared.page.locator(section("saved"))
    for where, text in (
        (card, "nbsight/demo"),
        (card, re.compile("12\\slayers")),
        (saved, "(1, 5, 64) float32"),
        (saved, "transformer.h.3.output · In [2], line 2"),
        (saved, "states[4]"),
    ):
        expect(where).to_contain_text(text)


def test_the_tree_opens_and_a_click_inserts_the_expression(shared: Sidebar):
    page, notebook = shared.page, shared.notebook
    notebook.type(5, "x = ")
    for path in ("transformer", "transformer.h", "transformer.h.3"):
        page.locator(f"[data-path='{path}'] > div > .jp-nbsight-caret").click()
        page.wait_for_selector(f"[data-path='{path}'] > ul > li")
    page.wait_for_selector(
        "[data-path='transformer.h.3.attn'] .jp-nbsight-shape:not(:empty)", state="attached"
    )
    page.locator("[data-path='transformer.h.3.attn'] > div > .jp-nbsight-name").click()
    page.wait_for_function("() => document.activeElement.closest('.jp-Notebook')")
    typed(notebook, 5, "x = model.transformer.h[3].attn")
    shape = page.locator("[data-path='transformer.h.3.attn'] .jp-nbsight-shape")
    expect(shape).to_have_text("(batch, position, d_model 64)")


def test_the_tree_is_walked_with_keys(shared: Sidebar):
    page, notebook = shared.page, shared.notebook
    notebook.type(5, "y = ")
    page.locator(f"{PANEL} input[type=search]").focus()
    page.keyboard.press("ArrowDown")
    focused(page, "path === 'transformer'")
    for key in ("ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
    focused(page, "path.startsWith('transformer.')")
    page.keyboard.press("End")
    focused(page, "path === 'lm_head'")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.activeElement.closest('.jp-Notebook')")
    typed(notebook, 5, "y = model.lm_head")


def test_the_filter_finds_modules(shared: Sidebar):
    page = shared.page
    box = page.locator(f"{PANEL} input[type=search]")
    box.fill("h[7] c_fc")
    page.wait_for_selector("[data-path='transformer.h.7.mlp.c_fc']")
    page.wait_for_function("() => document.querySelectorAll('#nbsight-sidebar [role=treeitem]').length === 1")
    box.fill("")
    page.wait_for_selector("[data-path='lm_head']")


CLOSE = (
    "() => { for (const w of [...window.jupyterapp.shell.widgets('main')]) "
    "if (w.node.querySelector('.jp-nbsight-opened')) w.close(); }"
)
OPEN = "print(len(get_ipython().kernel.comm_manager.comms))"


def test_a_double_click_opens_the_inspector_and_its_tab_closes_it(shared: Sidebar):
    page, notebook = shared.page, shared.notebook
    before = notebook.python(6, OPEN)
    opened = page.locator(".jp-nbsight-opened .nbsight-inspector")
    for act in (
        lambda: page.locator("[data-path='lm_head'] > div > .jp-nbsight-name").dblclick(),
        lambda: shared.button("saved", "hidden", "Open").click(),
        lambda: (notebook.type(5, "states[5]"), notebook.command("nbsight:open-name")),
    ):
        act()
        opened.wait_for(timeout=20_000)
        opened.locator(".nbsight-heat-rows > div").first.wait_for()
        expect(opened.locator(".nbsight-heat-rows")).to_contain_text("capital")
        opened.locator("[role=grid]").focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function(
            "() => document.querySelector('.jp-nbsight-opened .nbsight-readout').textContent"
        )
        page.evaluate(CLOSE)
        opened.wait_for(state="detached")
        notebook.until(6, OPEN, before)


def test_freeing_a_value_closes_its_tab(shared: Sidebar):
    page, notebook = shared.page, shared.notebook
    notebook.python(6, "with model.trace(PROMPT):\n    spare = model.transformer.h[1].output[0].save()")
    shared.button("saved", "spare", "Open").click()
    opened = page.locator(".jp-nbsight-opened .nbsight-inspector")
    opened.wait_for()
    shared.button("saved", "spare", "Free").click()
    opened.wait_for(state="detached")
    shared.row("saved", "spare").wait_for(state="detached")
    expect(page.locator(f"{PANEL} [role=status]")).to_contain_text("freed")


def test_a_value_is_freed(shared: Sidebar):
    notebook = shared.notebook
    shared.button("saved", "logits", "Free").click()
    shared.row("saved", "logits").wait_for(state="detached")
    expect(shared.page.locator(f"{PANEL} [role=status]")).to_contain_text("Deleted `logits`")
    assert notebook.python(5, "print('logits' in globals(), 'hidden' in globals())") == "False True"


def test_an_edit_is_switched_off_and_removed(shared: Sidebar):
    notebook, page = shared.notebook, shared.page
    check = (
        "import torch\n"
        "ids = model.tokenizer(PROMPT, return_tensors='pt')\n"
        "print(torch.equal(model.trace(PROMPT, trace=False).logits, model._model(**ids).logits))"
    )
    notebook.run(2)
    switch = page.locator(f"{section('edits')} [role=switch]")
    expect(switch).to_have_attribute("aria-checked", "true")
    assert notebook.python(5, check) == "False"
    switch.click()
    page.wait_for_selector(f"{section('edits')} [data-off]")
    assert notebook.python(5, check) == "True"
    assert notebook.python(6, "print(model.edits[0].enabled)") == "False"
    shared.button("edits", "output", "Remove").click()
    page.wait_for_selector(f"{section('edits')} [role=switch]", state="detached")
    assert notebook.python(6, "print(model.edits)") == "[]"


def test_an_open_run_is_shown_and_given_up(shared: Sidebar):
    notebook = shared.notebook
    notebook.run(3)
    row = shared.row("runs", "transformer.h.2.output")
    expect(row).to_contain_text("block 3 of 12")
    shared.button("runs", "transformer.h.2", "Give").click()
    row.wait_for(state="detached")
    assert notebook.python(6, "print(run.is_open)") == "False"


def test_a_sweep_shows_its_progress_and_is_stopped_while_its_cell_runs(shared: Sidebar):
    notebook, page = shared.notebook, shared.page
    notebook.run(4, wait=False)
    row = page.locator(f"{section('jobs')} [data-state='running']")
    row.wait_for(timeout=20_000)
    page.wait_for_function(
        "() => document.querySelector('#nbsight-sidebar [data-state=running] progress').value > 0.03"
    )
    expect(row).to_contain_text("of 60")
    expect(page.locator(".jp-nbsight-status")).to_contain_text("1 job")
    row.locator("button[aria-label^='Stop']").click()
    page.wait_for_selector(f"{section('jobs')} [data-state='stopped']", timeout=20_000)
    notebook.wait_idle()
    done = notebook.python(5, "import numpy as np; print(int(np.isfinite(result.values).sum()))")
    assert 0 < int(done) < 60


def test_a_click_while_a_cell_runs_is_said_to_wait(shared: Sidebar):
    notebook, page = shared.notebook, shared.page
    notebook.type(5, "extra = hidden * 1\nimport time; time.sleep(4)")
    notebook.run(5, wait=False)
    notebook.wait_busy()
    shared.button("saved", "hidden", "Free").click()
    page.wait_for_selector(f"{PANEL} .jp-nbsight-note:has-text('Queued')", timeout=3500)
    shared.row("saved", "hidden").first.wait_for(state="detached", timeout=15_000)
    notebook.wait_idle()
    assert notebook.python(6, "print('hidden' in globals())") == "False"


def test_two_notebooks_have_their_own_state(page, lab: LabServer):
    lab.write("one.ipynb", LOAD, TRACE)
    lab.write("two.ipynb", LOAD.replace("model =", "other ="), "")
    notebook = Notebook(page, lab, "one.ipynb")
    side = Sidebar(notebook)
    notebook.run(0)
    notebook.run(1)
    side.row("saved", "hidden").wait_for()
    notebook.command("docmanager:open", path="two.ipynb")
    page.wait_for_function("() => window.jupyterapp.shell.currentWidget.title.label === 'two.ipynb'")
    notebook.wait_idle()
    page.wait_for_selector(f"{PANEL}[data-status='unloaded']")
    expect(page.locator(f"{PANEL} header")).to_contain_text("two.ipynb")
    page.click(f"{PANEL} .jp-nbsight-load")
    page.wait_for_selector(f"{PANEL}[data-status='connected']", timeout=30_000)
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => null)")
    side.wait(".jp-nbsight-cardtitle:has-text('other')")
    expect(side.row("saved", "hidden")).to_have_count(0)
    notebook.command("docmanager:open", path="one.ipynb")
    side.wait(".jp-nbsight-cardtitle:has-text('model')")
    side.row("saved", "hidden").wait_for()


def test_a_restart_clears_and_a_reload_finds_again(page, lab: LabServer):
    lab.write("restart.ipynb", LOAD, TRACE, "")
    notebook = Notebook(page, lab, "restart.ipynb")
    side = Sidebar(notebook)
    notebook.run(0)
    notebook.run(1)
    side.row("saved", "hidden").wait_for()
    page.goto(f"{lab.url}/lab/tree/restart.ipynb?token={lab.token}")
    page.wait_for_selector(".jp-NotebookPanel .jp-Notebook .jp-Cell", timeout=60_000)
    notebook.wait_idle()
    side = Sidebar(notebook)
    side.row("saved", "hidden").wait_for()
    page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()",
    )
    page.wait_for_selector(f"{PANEL}[data-status='unloaded']", timeout=30_000)
    expect(side.row("saved", "hidden")).to_have_count(0)
    notebook.wait_idle()
    notebook.run(0)
    side.wait(".jp-nbsight-card")
    expect(side.row("saved", "hidden")).to_have_count(0)
    log = lab.log.read_text()
    assert "No such comm target registered: nbsight" not in log


def test_code_is_inserted_by_a_command_and_undone(page, lab: LabServer):
    lab.write("insert.ipynb", "1", "2")
    notebook = Notebook(page, lab, "insert.ipynb")
    notebook.command("nbsight:insert-code", code="print('from a view')")
    typed(notebook, 1, "print('from a view')")
    cell = page.locator(".jp-Notebook .jp-Cell").nth(1)
    expect(cell.locator(".jp-InputPrompt")).to_have_text("[ ]:")
    notebook.command("notebook:undo-cell-action")
    expect(page.locator(".jp-Notebook .jp-Cell")).to_have_count(2)


def test_unloading_leaves_the_button(page, lab: LabServer):
    lab.write("unload.ipynb", "%load_ext nbsight", "%unload_ext nbsight")
    notebook = Notebook(page, lab, "unload.ipynb")
    side = Sidebar(notebook)
    notebook.run(0)
    page.wait_for_selector(f"{PANEL}[data-status='connected']")
    notebook.run(1)
    page.wait_for_selector(f"{PANEL}[data-status='unloaded']")
    expect(side.page.locator(f"{PANEL} .jp-nbsight-load")).to_be_visible()


def test_a_kernel_of_another_version_is_told_politely(page, lab: LabServer):
    lab.write(
        "version.ipynb",
        "import nbsight.notebook.session as s\ns.PROTOCOL = 99\n%load_ext nbsight",
    )
    notebook = Notebook(page, lab, "version.ipynb")
    Sidebar(notebook)
    notebook.run(0)
    page.wait_for_selector(f"{PANEL}[data-status='other-version']")
    said = page.locator(f"{PANEL} .jp-nbsight-note").first
    expect(said).to_contain_text("protocol 99")
    expect(said).to_contain_text("pip install -U nbsight")


def test_a_hostile_name_is_text(page, lab: LabServer):
    evil = '<img src=x onerror=\\"window.hacked=1\\">'
    lab.write(
        "hostile.ipynb",
        LOAD,
        f'd = {{}}\nwith model.trace("{evil}"):\n    d["{evil}"] = model.lm_head.output.save()\n'
        f'run = model.start("{evil}")',
    )
    notebook = Notebook(page, lab, "hostile.ipynb")
    side = Sidebar(notebook)
    notebook.run(0)
    notebook.run(1)
    side.row("saved", "onerror").wait_for()
    side.row("runs", "onerror").wait_for()
    assert page.evaluate("() => window.hacked === undefined")
    assert page.locator(f"{PANEL} img").count() == 0


def test_light_and_dark(page, lab: LabServer, artifacts):
    lab.write("look.ipynb", LOAD, TRACE, EDIT, RUN, SWEEP.replace("0.25", "0.5"), "")
    notebook = Notebook(page, lab, "look.ipynb")
    side = Sidebar(notebook)
    for index in range(4):
        notebook.run(index)
    side.wait(".jp-nbsight-card")
    page.locator(f"{PANEL} .jp-nbsight-verify").click()
    page.wait_for_selector(f"{PANEL} .jp-nbsight-verify[data-state='ok']")
    for path in ("transformer", "transformer.h", "transformer.h.0"):
        page.locator(f"[data-path='{path}'] > div > .jp-nbsight-caret").click()
        page.wait_for_selector(f"[data-path='{path}'] > ul > li")
    page.locator("[data-path='transformer.h.0.attn'] .jp-nbsight-shape:not(:empty)").wait_for(
        state="attached"
    )
    page.locator("[data-path='transformer.h.0'] > div > .jp-nbsight-caret").scroll_into_view_if_needed()
    notebook.run(4, wait=False)
    page.wait_for_function(
        "() => document.querySelector('#nbsight-sidebar [data-state=running] progress')?.value > 0.1",
        timeout=30_000,
    )
    box = page.locator(PANEL).bounding_box()
    page.mouse.move(box["x"] + box["width"] + 2, 400)
    page.mouse.down()
    page.mouse.move(430, 400, steps=5)
    page.mouse.up()
    for theme, said in (("JupyterLab Light", "light"), ("JupyterLab Dark", "dark")):
        notebook.theme(theme)
        page.locator("[data-path='transformer.h.0.attn'] > div").hover()
        page.screenshot(path=artifacts / f"sidebar-{said}.png")
        page.locator(section("memory")).scroll_into_view_if_needed()
        side.row("saved", "hidden").hover()
        page.screenshot(path=artifacts / f"sidebar-lower-{said}.png")
        page.locator(f"{PANEL} header").scroll_into_view_if_needed()
    notebook.theme("JupyterLab Light")
