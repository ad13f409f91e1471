"""What follows from a result's declaration: checks, tables, files, and where the numbers come from."""

from __future__ import annotations

import itertools
import json
import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from nbsight.errors import InputError
from nbsight.results.base import Result, coordinate, load_result, variable
from nbsight.results.tokens import Tokens

WORDS = ("The", " cat", " cat\x00")  # one twice but for a character that numpy's own strings drop


@dataclass(frozen=True, eq=False, repr=False)
class Score(Result):
    """A result of two arrays."""

    title = "score"

    name: str
    layers: Sequence[int] = coordinate("layer")
    tokens: Sequence[str] = coordinate("position", name="token")
    score: NDArray[np.float64] = variable("layer", "position", unit="nats")
    best: NDArray[np.object_] | None = variable("layer", default=None)


def make(**changes):
    values = {
        "name": "one",
        "layers": range(2),
        "tokens": WORDS,
        "score": np.arange(6.0).reshape(2, 3) / 7,
        "best": np.array([" a", "é\n"], object),
        "provenance": {"model": "m", "dtype": "float32", "seed": 3, "torch": "2.13.0", "revision": None},
    }
    return Score(**{**values, **changes})


def same(one, other):
    return (
        one.name == other.name
        and one.layers == other.layers
        and one.tokens == other.tokens
        and np.array_equal(one.score, other.score)
        and one.score.dtype == other.score.dtype
        and list(one.best) == list(other.best)
        and dict(one.provenance) == dict(other.provenance)
    )


def test_a_file_gives_back_what_was_saved(tmp_path):
    score = make()
    path = score.save(tmp_path / "score")
    assert path.name == "score.npz"
    assert same(load_result(path), score)
    assert same(Score.load(path), score)
    assert load_result(path).hash == score.hash


def test_a_file_holds_no_pickle(tmp_path):
    path = make().save(tmp_path / "score.npz")
    with np.load(path, allow_pickle=False) as archive:
        header = json.loads(archive["header"].tobytes())
        assert all(archive[name].dtype != object for name in archive.files)
    assert header["kind"] == "Score"
    assert header["fields"]["tokens"] == list(WORDS)


def test_an_array_that_was_left_out_stays_out(tmp_path):
    score = make(best=None)
    assert load_result(score.save(tmp_path / "score")).best is None
    assert "best" not in score.to_dataframe()


def test_a_file_of_another_kind_is_refused(tmp_path):
    class Other(Score):
        pass

    path = make().save(tmp_path / "score")
    with pytest.raises(InputError, match=r"holds a Score, not a Other"):
        Other.load(path)


@pytest.mark.parametrize("content", [b"", b"no archive", pickle.dumps({"a": 1})])
def test_what_is_no_result_is_refused(tmp_path, content):
    path = tmp_path / "file.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"file\.npz is not a result that nbsight saved"):
        load_result(path)


def test_a_later_format_is_refused_by_name(tmp_path):
    path = tmp_path / "later.npz"
    header = json.dumps({"format": 99, "kind": "Score", "fields": {}}).encode()
    np.savez(path, header=np.frombuffer(header, np.uint8))
    with pytest.raises(InputError, match="format 99; this version reads format 1"):
        load_result(path)


def test_the_table_has_a_row_for_every_entry():
    score = make()
    table = score.to_dataframe()
    assert len(table) == 6
    for row, (layer, position) in zip(
        table.to_dict("records"), itertools.product(range(2), range(3)), strict=True
    ):
        assert row["layer"] == layer
        assert row["position"] == position
        assert row["token"] == WORDS[position]
        assert row["score"] == score.score[layer, position]
        assert row["best"] == score.best[layer]


def test_a_table_is_of_one_array_and_says_which_there_are():
    score = make()
    table = score.to_dataframe("best")
    assert list(table.columns) == ["layer", "best"]
    assert list(table["best"]) == list(score.best)
    with pytest.raises(InputError, match="there is no 'worst' in this Score; it has score, best"):
        score.to_dataframe("worst")


def test_another_process_reads_a_result_of_any_kind(tmp_path):
    tokens = Tokens(
        text="a b",
        has_bos=False,
        strings=["a", " b"],
        ids=np.array([1, 2]),
        start=np.array([0, 1]),
        end=np.array([1, 3]),
        special=np.array([False, False]),
    )
    path = tokens.save(tmp_path / "tokens")
    code = f"import nbsight; print(nbsight.load_result({str(path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == repr(tokens)


def test_xarray_knows_dimensions_labels_and_units():
    score = make()
    data = score.to_xarray()
    assert data["score"].dims == ("layer", "position")
    assert data["score"].attrs["unit"] == "nats"
    assert float(data["score"].sel(layer=1, position=2)) == score.score[1, 2]
    assert list(data["token"].values) == list(WORDS)
    assert data.attrs["seed"] == 3


def test_shapes_that_disagree_are_refused_by_name():
    with pytest.raises(ValueError, match=r"`score` has 4 entries along `position` and `tokens` has 3"):
        make(score=np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"score is \(layer, position\) and was given shape \(6,\)"):
        make(score=np.zeros(6))


@pytest.mark.parametrize(
    "changes",
    [
        {"score": np.zeros((2, 3))},
        {"score": (np.arange(6.0).reshape(2, 3) / 7).astype(np.float32)},
        {"tokens": ("The", " cat", " cat")},
        {"provenance": {"model": "other"}},
        {"name": "two"},
    ],
)
def test_the_hash_changes_with_everything_that_matters(changes):
    assert make().hash == make().hash
    assert make(**changes).hash != make().hash


def test_the_citation_names_model_dtype_seed_and_versions():
    score = make()
    assert score.cite() == (
        f"Score of m in float32, seed 3, computed with torch 2.13.0 (result {score.hash})."
    )
    assert "revision 0123456789ab" in make(provenance={"model": "m", "revision": "0123456789abcdef"}).cite()
