"""The page on JupyterLab: its blocks are cells, run one after the other in a shell."""

from __future__ import annotations

import json
import re

from IPython.core.interactiveshell import InteractiveShell

from nbsight.core import alive, saving
from nbsight.notebook import extension
from nbsight.notebook.folding import COLOURS
from nbsight.notebook.magics import NbsightMagics
from nbsight.notebook.shapes import shapes_of
from tests.docs.examples import DOCS

PAGE = (DOCS / "jupyterlab.md").read_text(encoding="utf-8")


def test_every_cell_of_the_page_runs_and_prints_what_it_shows(capsys):
    for others in (alive.models, saving._saved):  # what other tests have left
        others.clear()
    shell = InteractiveShell()
    blocks = re.findall(r"^```(python|text)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    said = ""
    try:
        for kind, block in blocks:
            if kind == "text":
                assert block.strip() in COLOURS.sub("", said)
                continue
            capsys.readouterr()
            shell.run_cell(block, store_history=True).raise_error()
            said = capsys.readouterr().out
            shapes_of(shell.user_ns["model"], 60)  # a slow machine would answer "ask again"
    finally:
        extension.unload_ipython_extension(shell)
    assert [kind for kind, _ in blocks].count("python") >= 8


def test_every_magic_is_on_the_page():
    for named in NbsightMagics.magics.values():
        for name in named:
            assert f"%{name}" in PAGE


def test_every_setting_is_on_the_page():
    schema = json.loads((DOCS.parent / "js" / "schema" / "sidebar.json").read_text(encoding="utf-8"))
    for setting in schema["properties"].values():
        assert setting["title"] in PAGE
