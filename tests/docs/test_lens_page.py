"""The examples of docs/lens.md run and print what the page shows."""

from __future__ import annotations

from tests.docs.examples import run_examples


def test_the_examples_run_and_print_what_the_page_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = run_examples("lens.md")
    assert "the last row is the model's own output" in printed
    assert (tmp_path / "lens.npz").exists()
