"""The examples of docs/generation.md run, and what it shows is what they print."""

from __future__ import annotations

from tests.docs.examples import run_examples


def test_the_examples_run_one_after_the_other():
    assert run_examples("generation.md").endswith(" Paris\n.\n")
