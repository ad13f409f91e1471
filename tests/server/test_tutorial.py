"""Tutorial 4, as it is written, with `remote=True` in the place of `remote="local"`."""

from __future__ import annotations

import linecache
import sys
from pathlib import Path

import matplotlib as mpl
import nbformat
import torch

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "04_remote_execution.ipynb"


def test_the_tutorial_runs_against_a_server(ada, monkeypatch, capsys):
    mpl.use("agg")
    cells = [cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    names: dict = {"__name__": "tutorial"}
    sent = 0
    for number, cell in enumerate(cells):
        if cell.startswith("%load_ext") or "LocalBackend" in cell or "customs.sent" in cell:
            continue  # IPython's own, and the cells on what the parcel looks like
        source = cell.replace('remote="local"', "remote=True")
        sent += source.count("remote=True)")
        filename = f"<tutorial {number}>"
        linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
        exec(compile(source, filename, "exec", dont_inherit=True), names)
    out = capsys.readouterr().out
    assert sent >= 3
    assert "Hidden shape: torch.Size([1, 5, 32])" in out
    assert "the same, bit for bit: True" in out
    assert "forgotten: `forgotten` is not here" in out
    assert "Similarity: " in out
    assert torch.is_tensor(names["fact_hidden"])
    jobs = ada.client().jobs(sent)
    assert {job.model for job in jobs} == {names["tiny_llama"]}
    assert "session" in {job.kind for job in jobs}
    assert sys.modules["matplotlib"] is mpl
