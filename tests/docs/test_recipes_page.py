"""The examples of docs/recipes.md run, and leave the file that they say."""

from __future__ import annotations

from tests.docs.examples import run_examples


def test_the_examples_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = run_examples("recipes.md")
    assert "Recipe for 'The Eiffel Tower is in the city of'" in printed
    assert "with model.trace(prompt, grad=False):" in printed
    assert (tmp_path / "recipe.json").exists()
