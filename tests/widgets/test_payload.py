"""What Python packs is what a page unpacks."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nbsight.widgets.lens_payload import lens_payload
from nbsight.widgets.lens_readings import STREAM, Readings
from nbsight.widgets.payload import DTYPES, encode
from tests.widgets.shared_lens import CONTRAST, FIXTURE, as_json, contrast_as_json, shared_lens


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_come_back_from_their_place(dtype):
    odd = np.arange(3, dtype=np.uint8)  # three bytes: what follows needs padding
    array = np.arange(6).reshape(2, 3).astype(dtype)
    payload = encode("some", {"title": "t"}, {"odd": odd, "array": array})
    place = payload.header["arrays"]["array"]
    assert place["offset"] % 4 == 0
    read = np.frombuffer(payload.data, dtype=place["dtype"], count=array.size, offset=place["offset"])
    np.testing.assert_array_equal(read.reshape(place["shape"]), array)
    assert payload.header["title"] == "t"


def test_a_type_that_no_browser_has_is_refused():
    with pytest.raises(TypeError, match="odds is float64; a page can read"):
        encode("some", {}, {"odds": np.zeros(2)})


def test_big_endian_arrays_are_sent_little_endian():
    payload = encode("some", {}, {"a": np.array([1.5, -2], dtype=">f4")})
    np.testing.assert_array_equal(np.frombuffer(payload.data, "<f4"), [1.5, -2])


def test_a_lens_can_be_read_back_from_its_payload():
    lens = shared_lens()
    payload = lens_payload(Readings(lens), ("", STREAM), live=False)
    header = json.loads(json.dumps(payload.header))
    arrays = {
        name: np.frombuffer(payload.data, p["dtype"], int(np.prod(p["shape"])), p["offset"]).reshape(
            p["shape"]
        )
        for name, p in header["arrays"].items()
    }
    np.testing.assert_array_equal(arrays["probs"], lens.top_probs)
    np.testing.assert_array_equal(arrays["ids"], lens.top_ids)
    np.testing.assert_array_equal(np.array(header["vocabulary"], object)[arrays["words"]], lens.top_tokens)
    assert header["tokens"] == list(lens.tokens)
    assert header["live"] is False


def test_the_fixture_of_the_javascript_tests_is_what_python_sends():
    assert FIXTURE.read_text(encoding="utf-8") == as_json(), "python -m tests.widgets.shared_lens writes it"
    assert CONTRAST.read_text(encoding="utf-8") == contrast_as_json()
