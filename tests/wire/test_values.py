"""Every kind of value that travels arrives as it was, and others are refused by name."""

from __future__ import annotations

import collections
import functools
import math
import pathlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nbsight.core.model import wrap
from nbsight.core.steps import Step, StepRecord, step_of, steps_of
from nbsight.errors import InputError, RemoteError
from nbsight.models.outputs import BlockOutput, LogitsOutput, show_block, show_logits
from nbsight.wire.decode import Decoder
from nbsight.wire.encode import Encoder, Unsendable
from nbsight.wire.missing import NotHere
from nbsight.wire.tensors import TensorReader
from tests.wire.trips import trip

ROOT = wrap(torch.nn.Linear(2, 2))

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text(st.characters())  # lone surrogates too
    | st.binary(max_size=20)
    | st.just(...)
    | st.builds(slice, st.none() | st.integers(), st.integers(), st.none() | st.integers())
    | st.builds(range, st.integers(-5, 5), st.integers(-5, 5), st.integers(1, 3))
    | st.sampled_from([torch.float32, torch.bfloat16, torch.device("cpu"), torch.Size([2, 3])])
)
KEYS = (
    st.integers()
    | st.text(max_size=4)
    | st.tuples(st.integers(), st.booleans())
    | st.none()
    | st.floats(0, 1)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.sets(KEYS, max_size=4)
        | st.frozensets(KEYS, max_size=4)
        | st.builds(collections.deque, st.lists(inner, max_size=3), st.just(5))
        | st.builds(collections.OrderedDict, st.dictionaries(KEYS, inner, max_size=3))
    ),
    max_leaves=20,
)


def same(a, b) -> bool:
    """Equal in value and in kind, all the way down; 1 is not True and -0.0 is not 0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (a == b and math.copysign(1, a) == math.copysign(1, b)) or (a != a and b != b)
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, dict):
        return len(a) == len(b) and all(
            same(x, y) for pair in zip(a.items(), b.items(), strict=True) for x, y in zip(*pair, strict=True)
        )
    if isinstance(a, (list, tuple, collections.deque)) and not isinstance(a, torch.Size):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_plain_values_arrive_as_they_were(value):
    assert same(trip(value, ROOT), value)


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(hnp.scalar_dtypes() | hnp.unicode_string_dtypes(), hnp.array_shapes(min_dims=0, min_side=0))
)
def test_arrays_arrive_bit_for_bit(array):
    for sent in (array, array.T, np.asfortranarray(array)):
        got = trip(sent, ROOT)
        assert got.dtype == sent.dtype
        assert got.shape == sent.shape
        assert np.ascontiguousarray(got).tobytes() == np.ascontiguousarray(sent).tobytes()
        assert got.flags.writeable
        if sent.size and sent.flags.f_contiguous and not sent.flags.c_contiguous:
            assert got.strides == sent.strides


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -float("inf"), -0.0, 2**53, -(2**5000), complex("nan+1j")]
)
def test_awkward_numbers_arrive_as_they_were(value):
    assert same(trip(value, ROOT), value)


@pytest.mark.parametrize(
    "value", [np.float32(1.5), np.int8(-3), np.bool_(True), np.float64("nan"), np.str_("é")]
)
def test_numpy_scalars_keep_their_dtype(value):
    got = trip(value, ROOT)
    assert type(got) is type(value)
    assert got.tobytes() == value.tobytes()


DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.bool,
    torch.float8_e4m3fn,
]  # fmt: skip

LAYOUTS = {
    "whole": lambda x: x,
    "transposed": lambda x: x.transpose(0, 2),
    "a column": lambda x: x[:, -1:],
    "every second": lambda x: x[::2, :, ::2],
    "expanded": lambda x: x[:, :1].expand(-1, 7, -1),
    "one number": lambda x: x[1, 2, 3],
    "nothing": lambda x: x[:0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_arrive_bit_for_bit(dtype, layout):
    torch.manual_seed(0)
    whole = torch.randint(0, 255, (4, 3, 6, 16), dtype=torch.uint8)
    whole = whole.bool()[..., 0] if dtype is torch.bool else whole.view(dtype)[..., 0]
    sent = LAYOUTS[layout](whole)
    got = trip(sent, ROOT)
    assert (got.dtype, got.shape) == (sent.dtype, sent.shape)
    as_bytes = [x.contiguous().reshape(-1).view(torch.uint8) for x in (got, sent)]
    assert torch.equal(*as_bytes)
    assert got.untyped_storage().data_ptr() != sent.untyped_storage().data_ptr() or not sent.numel()


def test_a_dense_tensor_keeps_its_strides():
    sent = torch.randn(5, 7, 3).permute(2, 0, 1)
    assert trip(sent, ROOT).stride() == sent.stride()


def test_a_conjugate_view_arrives_as_its_values():
    sent = torch.randn(3, dtype=torch.complex64).conj()
    assert torch.equal(trip(sent, ROOT), sent.resolve_conj())


def test_one_object_is_one_object_again():
    tensor, row = torch.randn(3), [1]
    a, b, c, d = trip([tensor, tensor, row, (row, {"k": row})], ROOT)
    assert a is b
    assert c is d[0] is d[1]["k"]


def test_views_share_memory_again():
    whole = torch.zeros(6, 4)
    got_whole, row, columns = trip((whole, whole[2], whole[:, 1:3]), ROOT)
    row += 1
    columns[0] = 5
    assert got_whole[2].tolist() == [1, 1, 1, 1]
    assert got_whole[0].tolist() == [0, 5, 5, 0]


def test_a_transposed_view_shares_memory_again():
    whole = torch.zeros(3, 4)
    got, turned = trip((whole, whole.T), ROOT)
    turned[1, 2] = 7
    assert got[2, 1] == 7


def test_rows_of_a_large_tensor_do_not_drag_it_along():
    from nbsight.wire.tensors import TensorWriter

    large = torch.randn(2, 1000, 64)
    for rows in ([large[:, -1]], [large[0, 3], large[1, 900]], [large[:, 0], large[:, -1]]):
        writer = TensorWriter()
        for row in rows:
            writer.add(row)
        assert len(writer.finish()[1]) < 3000
        for got, sent in zip(trip(rows, ROOT), rows, strict=True):
            assert torch.equal(got, sent)


def test_a_leaf_that_collects_gradients_does_so_again():
    leaf = torch.randn(3, requires_grad=True)
    (leaf * 2).sum().backward()
    got = trip(leaf, ROOT)
    assert got.requires_grad
    assert got.is_leaf
    assert torch.equal(got.grad, leaf.grad)
    assert not trip(leaf * 2, ROOT).requires_grad  # its graph stays behind
    assert isinstance(trip(torch.nn.Parameter(torch.ones(2)), ROOT), torch.nn.Parameter)


def test_cycles_arrive_as_cycles():
    row: list = [1]
    row.append({"row": row})
    got = trip(row, ROOT)
    assert got[1]["row"] is got


def test_containers_keep_their_kind():
    value = collections.defaultdict(list, a=[1])
    got = trip([value, collections.Counter("aab"), bytearray(b"x"), collections.deque([1], 3)], ROOT)
    assert got[0]["new"] == []
    assert got[1] == {"a": 2, "b": 1}
    assert type(got[1]) is collections.Counter
    assert (got[2], got[3].maxlen) == (bytearray(b"x"), 3)


def test_what_torch_returns_by_name_keeps_its_names():
    got = trip(torch.tensor([3.0, 1.0]).topk(1), ROOT)
    assert got.values.tolist() == [3.0]
    assert got.indices.tolist() == [0]


def test_parts_of_the_model_arrive_as_the_models_own(model):
    sent = [model, model.rest[1], model._module.first, model._module.first.weight, model._module.scale]
    got = trip(sent, model)
    assert all(a is b for a, b in zip(got, sent, strict=True))


@pytest.mark.parametrize(
    "value",
    [torch, torch.nn.functional, math, np, torch.softmax, torch.nn.functional.gelu, torch.Tensor.norm, np.exp,
     math.sqrt, len, dict, torch.nn.Linear, collections.OrderedDict, torch.linalg.norm],
    ids=repr,
)  # fmt: skip
def test_names_arrive_as_what_they_name(value):
    assert trip(value, ROOT) is value


def test_methods_and_partials_arrive_bound_to_what_travelled():
    rows = {"a": 1}
    get, scaled = trip((rows.get, functools.partial(torch.mul, other=torch.tensor(2.0))), ROOT)
    assert get("a") == 1
    assert scaled(torch.tensor(4.0)) == 8.0


def test_a_blocks_output_reads_on_as_one():
    hidden = torch.randn(1, 3, 4)
    got = trip(show_block((hidden, None)), ROOT)
    assert type(got) is BlockOutput
    assert torch.equal(got[0], hidden)
    assert torch.equal(got[:, -1], hidden[:, -1])
    with pytest.raises(Exception, match="only the hidden state travels"):
        got.raw[1] + 1
    bare = trip(show_block(hidden), ROOT)
    assert torch.equal(bare.raw, hidden)


def test_a_models_output_reads_on_as_logits_and_as_the_hugging_face_output():
    from transformers.modeling_outputs import CausalLMOutputWithPast

    logits, states = torch.randn(1, 3, 9), (torch.randn(1, 3, 4), torch.randn(1, 3, 4))
    whole = CausalLMOutputWithPast(logits=logits, hidden_states=states, past_key_values=object())
    got = trip(show_logits(whole), ROOT)
    assert type(got) is LogitsOutput
    assert torch.equal(got[0, -1], logits[0, -1])
    assert type(got.hf) is CausalLMOutputWithPast
    assert all(torch.equal(a, b) for a, b in zip(got.hidden_states, states, strict=True))
    with pytest.raises(Exception, match="save what you need of it in the block"):
        len(got.past_key_values)


def test_a_tokenizers_answer_arrives_as_one():
    from transformers import BatchEncoding

    got = trip(BatchEncoding({"input_ids": torch.tensor([[1, 2]])}), ROOT)
    assert type(got) is BatchEncoding
    assert got.input_ids.tolist() == [[1, 2]]


class Config:
    lr = 0.1


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (Config(), "take what you need of it"),
        (Config, "define it in the block"),
        (torch.nn.Linear(2, 2), "send its tensors"),
        (wrap(torch.nn.Linear(2, 2)), "another model"),
        (pathlib.Path("x"), r"send `str\(path\)`"),
        (pathlib, "import it inside the block"),
        (np.array([object()]), "array of Python objects"),
        (torch.empty(2, device="meta"), "no numbers"),
        (torch.eye(2).to_sparse(), "to_dense"),
        (NotHere("h", "it was not saved."), "it was not saved"),
        (iter([1]), "take what you need of it"),
        (pytest.raises, "installed package `_pytest`"),
        (print.__self__, "import it inside the block"),
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_travel_is_refused_with_advice(value, said):
    with pytest.raises(Unsendable, match=said) as caught:
        trip({"a": [1, value]}, ROOT)
    assert caught.value.place == "value['a'][1]"


def test_a_deeply_nested_value_is_refused():
    deep: list = []
    for _ in range(200):
        deep = [deep]
    with pytest.raises(Unsendable, match="nested more than 100 deep"):
        trip(deep, ROOT)


def test_a_failed_attempt_leaves_nothing_behind():
    from nbsight.wire.encode import Encoder

    encoder = Encoder(ROOT)
    shared = torch.ones(3)
    with pytest.raises(Unsendable):
        encoder.attempt([shared, Config()], "bad")
    code = encoder.attempt([shared], "good")
    assert "$tensor" in code["$list"][0]
    assert len(encoder.tensors) == 1


@pytest.mark.parametrize(
    "record",
    [
        StepRecord(3),
        StepRecord(0, True, 4, [[885], None], [" Paris", None]),
        StepRecord(2, False, 6, [[1, 2]], None),
    ],
)
def test_a_step_of_a_generation_arrives_with_what_is_known_of_it(record):
    every = [StepRecord(at, False) for at in range(record.number)]
    every += [record] if record.is_prompt is not None else []
    step = step_of(record)
    got = trip({"steps": [step, step], "all": steps_of(every)}, ROOT)
    assert [type(one) for one in got["steps"]] == [Step, Step]
    assert got["steps"][0] == record.number
    assert got["steps"][0].record() == record
    assert [one.record() for one in got["all"]] == every
    assert repr(got["all"]).startswith(f"{len(every)} step")
    if record.ids is None:
        with pytest.raises(InputError, match=r"calls of a module|copy of step"):
            got["steps"][1].token_ids


@pytest.mark.parametrize(
    "code",
    [
        {"$step": [0, True]},
        {"$step": [None, True, 4, None, None]},
        {"$step": ["0", True, 4, None, None]},
        {"$step": [0, True, 4, [["x"]], None]},
        {"$steps": 3},
        {"$steps": [[0, 1, None, None, None]]},
    ],
)
def test_a_record_of_a_step_that_is_not_one_is_refused(code):
    _, blob = Encoder(ROOT).tensors.finish()
    decoder = Decoder(ROOT, TensorReader([], bytes(blob)), codes=[code])
    with pytest.raises(RemoteError, match="not well formed"):
        decoder.decode(code)
