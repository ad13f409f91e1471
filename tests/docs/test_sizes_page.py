"""docs/sizes.md: its examples run."""

from __future__ import annotations

from tests.docs.examples import run_examples


def test_the_examples_run_one_after_the_other_and_print_what_is_written():
    printed = run_examples("sizes.md")
    assert "from the configuration and the header of model.safetensors; 12 blocks" in printed
    assert " free, it fits" in printed
