"""The examples of docs/collecting.md run and keep what the page says."""

from __future__ import annotations

from tests.docs.examples import run_examples


def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = run_examples("collecting.md")
    assert "kept: 104 texts" in printed
    assert "Collection of nbsight/demo: 200 texts" in printed
