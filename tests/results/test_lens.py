"""A lens is plain data: its shapes are checked, and every export says the same numbers."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from nbsight.results.lens import Lens, LensCell

TOKENS = ("The", " capital", "\n")
WORDS = np.array([" is", " in", " Paris", "\n"], dtype=object)


def make_lens(detail=None) -> Lens:
    generator = np.random.default_rng(7)
    ids = generator.integers(0, len(WORDS), (4, 3, 2))
    probs = np.sort(generator.random((4, 3, 2)), axis=-1)[..., ::-1]
    return Lens(
        prompt="The capital\n",
        tokens=TOKENS,
        layers=range(4),
        top_ids=ids,
        top_tokens=WORDS[ids],
        top_probs=probs,
        model="demo",
        provenance={"dtype": "float32"},
        detail=detail,
    )


def test_a_cell_is_the_slice_of_the_arrays():
    lens = make_lens()
    cell = lens.at(2, 1)
    assert (cell.layer, cell.position) == (2, 1)
    assert list(cell.tokens) == list(lens.top_tokens[2, 1])
    np.testing.assert_array_equal(cell.probs, lens.top_probs[2, 1])
    np.testing.assert_array_equal(cell.ids, lens.top_ids[2, 1])


def test_negative_indices_count_from_the_end():
    lens = make_lens()
    assert (lens.at(-1, -3).layer, lens.at(-1, -3).position) == (3, 0)


@pytest.mark.parametrize(("layer", "position", "said"), [(4, 0, "4 layers, 0 to 3"), (0, -4, "3 positions")])
def test_a_place_outside_is_an_error_that_says_what_is_there(layer, position, said):
    with pytest.raises(IndexError, match=said):
        make_lens().at(layer, position)


def test_arrays_of_other_shapes_are_refused():
    lens = make_lens()
    with pytest.raises(ValueError, match=r"`top_ids` has 3 entries along `position` and `tokens` has 2"):
        Lens("", TOKENS[:2], range(4), lens.top_ids, lens.top_tokens, lens.top_probs)
    with pytest.raises(ValueError, match="`top_tokens` has 2 entries along `rank` and `top_ids` has 1"):
        Lens("", TOKENS, range(4), lens.top_ids[..., :1], lens.top_tokens, lens.top_probs)


def test_the_repr_shows_tokens_with_visible_spaces_and_the_last_layer_first():
    lens = make_lens()
    lines = repr(lens).splitlines()
    assert "'The capital\\n'" in lines[0]
    assert "·capital" in lines[1]
    assert "⏎" in lines[1]
    assert [line.split()[0] for line in lines[2:]] == ["3", "2", "1", "0"]
    first = lines[2].split()
    assert first[1] == lens.top_tokens[3, 0, 0].replace(" ", "·").replace("\n", "⏎")
    assert float(first[2]) == pytest.approx(lens.top_probs[3, 0, 0], abs=0.005)


def test_the_repr_of_a_long_prompt_counts_what_it_leaves_out():
    tokens = [" word"] * 40
    shape = (2, 40, 1)
    lens = Lens("", tokens, range(2), np.zeros(shape, int), np.full(shape, " x", object), np.zeros(shape))
    assert max(map(len, repr(lens).splitlines())) <= 100
    shown = repr(lens).splitlines()[1].count("·word")
    assert f"and {40 - shown} more positions" in repr(lens)


def test_the_data_frame_has_one_row_per_layer_position_and_rank():
    pytest.importorskip("pandas")
    lens = make_lens()
    frame = lens.to_dataframe()
    assert len(frame) == lens.top_probs.size
    row = frame[(frame["layer"] == 3) & (frame["position"] == 1) & (frame["rank"] == 1)].iloc[0]
    assert row["probability"] == lens.top_probs[3, 1, 1]
    assert row["prediction"] == lens.top_tokens[3, 1, 1]
    assert row["token"] == " capital"


def test_the_dataset_is_indexed_by_layer_position_and_rank():
    pytest.importorskip("xarray")
    lens = make_lens()
    found = lens.to_xarray().sel(layer=2, position=0, rank=1)
    assert found["probability"].item() == lens.top_probs[2, 0, 1]
    assert found["prediction"].item() == lens.top_tokens[2, 0, 1]


def test_a_pickled_lens_has_its_numbers_and_no_model():
    lens = make_lens(detail=lambda layer, position, top_k: LensCell(layer, position, [], WORDS, WORDS))
    again = pickle.loads(pickle.dumps(lens))
    assert again.detail is None
    assert again.tokens == lens.tokens
    np.testing.assert_array_equal(again.top_probs, lens.top_probs)


def test_the_figure_shows_every_cell_without_pyplot():
    import sys

    before = "matplotlib.pyplot" in sys.modules
    lens = make_lens()
    figure = lens.to_figure()
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert len(texts) == lens.top_probs[..., 0].size
    assert texts[0] == lens.top_tokens[0, 0, 0].replace(" ", "·").replace("\n", "⏎")
    assert ("matplotlib.pyplot" in sys.modules) == before
