"""The examples of docs/sae.md run and keep what the page says."""

from __future__ import annotations

from tests.docs.examples import run_examples


def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "standard autoencoder, 200 features of blocks.4.hook_resid_post (64)" in run_examples("sae.md")
