"""docs/errors.md shows what really happens, and every mistake on it gets one screen."""

from __future__ import annotations

import pytest
import torch

from docs import gallery

MISTAKES = [mistake for section in gallery.SECTIONS for mistake in section.mistakes]


@pytest.fixture(scope="module")
def names():
    return gallery.setup()


@pytest.fixture(scope="module")
def outputs():
    return {}


@pytest.fixture(scope="module")
def plain(names):
    ids = names["model"].to_tokens(names["prompt"])
    with torch.no_grad():
        return names["model"]._model(ids).logits


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.title)
def test_a_mistake_fits_on_a_screen_shows_the_users_line_and_leaves_the_model_clean(
    mistake, names, outputs, plain
):
    model = names["model"]
    text, lines = gallery.run_cell(gallery.text_of(mistake), dict(names))
    outputs[mistake.title] = text
    assert mistake.line in text
    assert lines <= gallery.LIMIT, text
    assert not [path for path, module in model._model.named_modules() if "forward" in vars(module)]
    with model.trace(names["prompt"]):
        logits = model.output.logits
    assert torch.equal(logits, plain)


def test_the_page_is_what_the_cells_give_now(outputs):
    page = gallery.PAGE.read_text(encoding="utf-8")
    if f"torch {torch.__version__.partition('+')[0]})" not in page:
        pytest.skip("the page quotes another torch's own messages")
    assert gallery.render(outputs) == page, "write the page again: python -m docs.gallery"


def test_titles_are_unique():
    titles = [mistake.title for mistake in MISTAKES]
    assert len(titles) == len(set(titles))
