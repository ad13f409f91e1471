"""A text that grows in its cell while the model writes it, is stopped there, and stays."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.e2e.lab import LabServer, Notebook, expect

# As slow as a large model, so that one can see it write.
SLOW = """
import time
from nbsight import LanguageModel
model = LanguageModel("nbsight/demo", dispatch=True)
handle = model._model.lm_head.register_forward_hook(lambda *_: time.sleep(0.25))
stream = model.generate("The Eiffel Tower is in the city of", 100, eos_token_id=None, stream=True)
"""


@pytest.fixture(scope="module")
def notebook(module_page, lab: LabServer) -> Notebook:
    """One notebook for all tests here (opening one takes seconds)."""
    lab.write("streaming.ipynb", SLOW, "stream", "", "")
    return Notebook(module_page, lab, "streaming.ipynb")


def shown(notebook: Notebook, index: int) -> str:
    return "\n".join(notebook.output(index).all_inner_texts())


def count(notebook: Notebook) -> int:
    found = re.search(r"(\d+) tokens? so far", shown(notebook, 1))
    return int(found[1]) if found else 0


def test_a_text_grows_in_its_cell_and_an_interrupt_keeps_it(notebook: Notebook, artifacts: Path):
    notebook.run(0)
    notebook.run(1, wait=False)
    page = notebook.page
    page.wait_for_function(
        "() => /[3-9] tokens so far/.test(document.querySelectorAll('.jp-Cell')[1].innerText)", timeout=30_000
    )
    first = count(notebook)
    expect(notebook.output(1).first).to_contain_text("Paris.")
    page.wait_for_function(
        "first => Number(/(\\d+) tokens so far/.exec("
        "document.querySelectorAll('.jp-Cell')[1].innerText)?.[1]) > first",
        arg=first,
    )
    page.screenshot(path=artifacts / "streaming.png")
    notebook.command("notebook:interrupt-kernel")
    page.wait_for_function(
        "() => document.querySelectorAll('.jp-Cell')[1].innerText.includes('(interrupted)')", timeout=30_000
    )
    notebook.wait_idle()
    text = shown(notebook, 1)
    assert "Paris" in text
    assert "entropy" in text
    assert "Traceback" not in text
    page.screenshot(path=artifacts / "streaming-interrupted.png")
    said = notebook.python(2, "print(len(stream.result), stream.result.stop, repr(stream.result.text[:7]))")
    number, stop, start = said.split(" ", 2)
    assert (stop, start) == ("interrupted", "' Paris.'")
    assert f"{number} tokens by nbsight/demo" in text
    assert first <= int(number) < 100


def test_the_model_is_free_after_an_interrupt(notebook: Notebook):
    assert (
        notebook.python(3, 'handle.remove(); print(model.generate("The cat sat on the", 2).text)') == "mat."
    )
    assert notebook.python(3, "print(any(m._forward_hooks for m in model._model.modules()))") == "False"


def test_the_file_keeps_the_text_for_whoever_opens_it_without_a_kernel(notebook: Notebook, lab: LabServer):
    notebook.save()
    (output,) = [o for o in lab.read("streaming.ipynb").cells[1].outputs if "data" in o]
    assert "(interrupted)" in output.data["text/plain"]
    assert "Paris" in output.data["text/html"]
