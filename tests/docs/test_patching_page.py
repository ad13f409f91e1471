"""The examples of docs/patching.md run, one after the other."""

from __future__ import annotations

from tests.docs.examples import run_examples


def test_the_examples_run_one_after_the_other():
    printed = run_examples("patching.md")
    assert "most recovered: resid_post of layer 11" in printed
    assert "Norms of 'The Eiffel Tower" in printed
