"""A message that is not what it should be is refused in words, whatever it holds."""

from __future__ import annotations

import ast
import contextlib
import json
import linecache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from nbsight.core.backend import Job
from nbsight.core.capture import Block
from nbsight.core.model import wrap
from nbsight.errors import RemoteError
from nbsight.wire.decode import _RULES, Decoder
from nbsight.wire.jobs import decode_job, encode_job
from nbsight.wire.messages import PROTOCOL, ResultHeader, TensorSpec, frame, unframe, unpack
from nbsight.wire.results import decode_result
from nbsight.wire.tensors import TensorReader

ROOT = wrap(torch.nn.Linear(2, 2))
TEXT = "h = model.output.save()\nk = x + 1"


def job(values=None, model=ROOT):
    body = tuple(ast.parse(TEXT).body)
    block = Block(
        compile(TEXT, "<b>", "exec"), body, "<b>", 1, "tracer", frozenset("hk"), frozenset(["model", "x"])
    )
    values = {"x": 1, "model": model} if values is None else values
    return Job(model, "trace", "forward", (torch.ones(1, 2),), {}, block, values, "tracer")


def header_with(**changes):
    header, blob, _ = encode_job(job())
    return json.dumps({**json.loads(header), **changes}).encode(), blob


def test_a_job_is_json_and_safetensors_and_says_who_wrote_it():
    header, blob, _ = encode_job(job())
    message = json.loads(header)
    assert message["protocol"] == PROTOCOL
    assert message["client"]["torch"] == torch.__version__
    assert message["captures"] == {"model": {"$envoy": ""}, "x": 1}
    assert message["program"]["source"] == TEXT
    assert len(message["model"]["tree"]) == 32
    assert unframe(frame(header, blob)) == (header, blob)
    assert b"pickle" not in frame(header, blob)


def test_the_name_after_as_does_not_travel():
    header, _, _ = encode_job(job({"x": 1, "model": ROOT, "tracer": object()}))
    assert "tracer" not in json.loads(header)["captures"]


def test_another_protocol_is_named_on_both_sides():
    with pytest.raises(RemoteError, match=r"speaks protocol 99 and this nbsight speaks 1"):
        decode_job(*header_with(protocol=99), ROOT)


def test_another_model_is_refused():
    header, blob, _ = encode_job(job())
    with pytest.raises(RemoteError, match=r"written for Linear .* and the model here is Bilinear"):
        decode_job(header, blob, wrap(torch.nn.Bilinear(2, 2, 2)))
    with pytest.raises(RemoteError, match="their modules differ"):
        decode_job(header, blob, wrap(torch.nn.Linear(2, 3)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "shell"}, r"Invalid enum value 'shell' - at `\$.kind`"),
        ({"args": 3}, r"Expected `array`, got `int` - at `\$.args`"),
        ({"captures": {"x": {"$what": 1}}}, r"\$what, which this nbsight does not know"),
        ({"captures": {"x": {}}}, "untagged object"),
        ({"captures": {"x": [1]}}, "bare list"),
        ({"captures": {"x": {"$ref": 3}}}, "refers to object 3"),
        ({"captures": {"x": {"$list": [], "id": 0}, "y": {"$list": [], "id": 0}}}, "object 0 twice"),
        ({"captures": {"x": {"$tensor": 7, "id": 10}}}, "names tensor 7 and has 1"),
        ({"captures": {"x": {"$tensor": -1, "id": 10}}}, "names tensor -1"),
        ({"captures": {"x": {"$envoy": "a.b"}}}, "`a.b`, which the model here does not have"),
        ({"captures": {"x": {"$parameter": "nope"}}}, "no parameter `nope`"),
        ({"captures": {"x": {"$submodule": "nope"}}}, "not well formed"),
        ({"captures": {"x": {"$module": "os"}}}, "may not bring the module 'os'"),
        ({"captures": {"x": {"$module": "torch.hub"}}}, "may not bring"),
        ({"captures": {"x": {"$name": "torch:os.system"}}}, "may not bring"),
        ({"captures": {"x": {"$name": "builtins:eval"}}}, "may not bring"),
        ({"captures": {"x": {"$name": "torch:_C"}}}, "may not bring"),
        ({"captures": {"x": {"$name": "torch:load"}}}, "may not bring"),
        ({"captures": {"x": {"$known": 0}}}, "was not sent"),
        (
            {"captures": {"x": {"$dict": [[{"$list": [], "id": 11}, 1]], "id": 10}}},
            "a key that cannot be one",
        ),
        ({"captures": {"x": {"$int": "many"}}}, "not well formed"),
        ({"captures": {"x": {"$tokenizer": True}}}, "tokenizer, and the model here has none"),
        ({"captures": {"x": {"$method": "__class__", "of": 1}}}, "only data may come"),
        (
            {"program": {"source": "h = (", "filename": "f", "line": 1, "stores": []}},
            "cannot be read as Python",
        ),
        ({"program": {"source": "return 3", "filename": "f", "line": 1, "stores": []}}, "cannot be compiled"),
    ],
)
def test_a_mistake_in_a_job_is_said(changes, said):
    with pytest.raises(RemoteError, match=said):
        decode_job(*header_with(**changes), ROOT)


def test_a_nest_of_containers_is_refused():
    deep = 1
    for _ in range(150):
        deep = {"$tuple": [deep]}
    with pytest.raises(RemoteError, match="nested more than 100 deep"):
        decode_job(*header_with(captures={"x": deep}), ROOT)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"protocol": 1}', b'{"protocol": true}'],
)
def test_bytes_that_are_no_message_are_refused(data):
    for kind in (ResultHeader,):
        with pytest.raises(RemoteError):
            unpack(data, kind)
    with pytest.raises(RemoteError):
        unframe(data)


def test_a_message_that_ends_early_is_refused():
    whole = frame(b"{}", b"xyz")
    with pytest.raises(RemoteError, match="ends early"):
        unframe(whole[:17])


BLOB = save({"0": torch.zeros(4), "1": torch.zeros(64, dtype=torch.uint8)})


@pytest.mark.parametrize(
    "spec",
    [
        TensorSpec("9", "float32", [4]),
        TensorSpec("0", "float32", [5]),
        TensorSpec("0", "float64", [4]),
        TensorSpec("0", "nn", [4]),
        TensorSpec("0", "float32", [4], [1]),
        TensorSpec("1", "float32", [17], [1]),
        TensorSpec("1", "float32", [2], [2**62]),
        TensorSpec("1", "float32", [2**40, 2**40], [0, 0]),
        TensorSpec("1", "float32", [2], [-1]),
        TensorSpec("1", "float32", [2], [1], 60),
        TensorSpec("1", "float32", [2], [1], 3),
        TensorSpec("1", "float32", [2], [1], -4),
        TensorSpec("1", "float32", [2], [1, 1]),
        TensorSpec("1", "float32", [-2], [1]),
        TensorSpec("1", "<f4", [99], kind="array"),
        TensorSpec("1", "|O", [8], kind="array"),
        TensorSpec("1", "rubbish", [8], kind="array"),
        TensorSpec("0", "float32", [4], device="no such"),
    ],
    ids=str,
)
def test_a_tensor_that_does_not_fit_its_bytes_is_refused(spec):
    with pytest.raises(RemoteError):
        TensorReader([spec], BLOB).get(0)


@pytest.mark.parametrize("blob", [b"", b"\x00" * 8, BLOB[:-1], b"\xff" * 40])
def test_a_blob_that_is_no_safetensors_file_is_refused(blob):
    with pytest.raises(RemoteError, match="cannot be read"):
        TensorReader([], blob)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from([*_RULES, "id", "items", "fields", "output", "of", "factory"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@settings(max_examples=500, deadline=None)
@given(JUNK)
def test_junk_is_decoded_to_data_or_refused(code):
    reader = TensorReader([TensorSpec("0", "float32", [4])], BLOB)
    with contextlib.suppress(RemoteError):  # any other error fails the test
        Decoder(ROOT, reader, functions_travel=False, codes=[code]).decode(code)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_damaged_message_is_refused_or_understood(data):
    header, blob, _ = encode_job(job({"x": [1, torch.ones(2), {"a": (1, 2)}], "model": ROOT}))
    damaged = bytearray(header)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(32, 126))
    with contextlib.suppress(RemoteError):  # any other error fails the test
        decode_job(bytes(damaged), blob, ROOT)


FUNCTION = {
    "$fn": {
        "source": "def f(): pass",
        "filename": "f",
        "line": 1,
        "name": "f",
        "decorated": False,
        "free": [],
        "decorators": [],
        "space": 0,
        "values": {},
        "defaults": None,
        "kwdefaults": None,
    },
    "id": 0,
}


@pytest.mark.parametrize("code", [FUNCTION, {"$method": "save", "of": {"$envoy": ""}}, {"$known": 5}])
def test_a_result_brings_data_and_nothing_that_runs(code):
    header = json.dumps({"protocol": PROTOCOL, "names": {"f": code}, "tensors": []}).encode()
    with pytest.raises(RemoteError):
        decode_result(header, save({}), ROOT, {})


def test_a_result_changes_only_what_was_sent():
    row = [1]
    header = json.dumps(
        {"protocol": PROTOCOL, "names": {}, "tensors": [], "changes": {"4": {"$list": [2], "id": 0}}}
    ).encode()
    with pytest.raises(RemoteError, match="which was not sent"):
        decode_result(header, save({}), ROOT, {0: row})
    assert row == [1]


def test_texts_are_kept_only_as_long_as_they_are_few():
    from nbsight.wire import source

    for number in range(source._KEPT + 20):
        source.register(f"x = {number}\n", 1, "<nowhere>")
    held = [name for name in linecache.cache if name.endswith("of <nowhere>>")]
    assert len(held) <= source._KEPT
