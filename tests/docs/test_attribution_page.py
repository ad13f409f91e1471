"""The examples of docs/attribution.md run and keep what the page says."""

from __future__ import annotations

from tests.docs.examples import run_examples


def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = run_examples("attribution.md")
    assert "parts add up to it within" in printed
    assert "one gradient" in printed
    assert "without head" in printed
