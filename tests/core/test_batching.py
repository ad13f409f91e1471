"""Rows: what an invoke sees of a batch, and how its values get back; against plain indexing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nbsight.core.batching import Rows, map_tensors, splice
from nbsight.errors import EditError
from tests.core.small import Mapping, Pair, Record, same


def test_a_tensor_of_the_whole_batch_is_narrowed_to_a_view():
    batch = torch.arange(24.0).reshape(4, 3, 2)
    rows = Rows(1, 2, 4)
    view = rows.narrow(batch)
    assert same(view, batch[1:3])
    view[:] = 0
    assert batch[1:3].eq(0).all()
    assert batch[0].eq(torch.arange(6.0).reshape(3, 2)).all()


def test_a_padded_prompt_sees_its_own_positions():
    batch = torch.arange(2 * 5 * 3.0).reshape(2, 5, 3)
    rows = Rows(1, 1, 2, left_pad=2, length=3, padded=5)
    assert same(rows.narrow(batch), batch[1:2, 2:5])
    pattern = torch.arange(2 * 1 * 5 * 5.0).reshape(2, 1, 5, 5)
    assert same(rows.narrow(pattern), pattern[1:2, :, 2:5, 2:5])


def test_what_has_no_batch_dimension_is_left():
    rows = Rows(0, 1, 4)
    for value in (torch.tensor(3.0), torch.ones(3, 4), "text", None, 5, ()):
        assert rows.narrow(value) is value


@pytest.mark.parametrize(
    "make",
    [
        lambda t: (t, None),
        lambda t: [t, [t]],
        lambda t: {"a": t, 3: t},
        lambda t: Pair(t, t),
        lambda t: Mapping(hidden=t),
        lambda t: Record(t),
        lambda t: (Pair(t, {"deep": [t]}), "text"),
    ],
)
def test_containers_keep_their_kind(make):
    batch = torch.arange(8.0).reshape(4, 2)
    rows = Rows(1, 2, 4)
    narrowed = rows.narrow(make(batch))
    assert type(narrowed) is type(make(batch))
    assert same(narrowed, make(batch[1:3]))


def test_a_container_without_tensors_comes_back_itself():
    for value in ((1, "a"), [None], {"x": 2}, Pair(1, 2)):
        assert map_tensors(value, lambda tensor: tensor * 2) is value


@given(
    heights=st.lists(st.integers(1, 3), min_size=2, max_size=4),
    tail=st.lists(st.integers(1, 3), max_size=2),
    data=st.data(),
)
def test_splicing_is_plain_assignment_of_rows(heights, tail, data):
    total = sum(heights)
    batch = torch.randn(total, *tail)
    want, parts, start = batch.clone(), [], 0
    for height in heights:
        if data.draw(st.booleans()):
            new = torch.randn(height, *tail)
            want[start : start + height] = new
            parts.append((Rows(start, height, total), new))
        start += height
    before = batch.clone()
    assert same(splice(batch, parts), want)
    assert same(batch, before), "splicing is out of place"


@given(left=st.integers(0, 3), right=st.integers(0, 3), length=st.integers(1, 4))
def test_splicing_a_padded_prompt_leaves_the_padding(left, right, length):
    padded = left + length + right
    batch = torch.randn(2, padded, 11)
    rows = Rows(1, 1, 2, left_pad=left, length=length, padded=padded)
    new = torch.randn(1, length, 11)
    want = batch.clone()
    want[1:2, left : left + length] = new
    assert same(splice(batch, [(rows, new)]), want)


def test_a_part_of_the_wrong_shape_or_kind_is_refused():
    batch = torch.zeros(4, 2)
    rows = Rows(0, 2, 4)
    for part in (torch.zeros(3, 2), torch.zeros(2, 3), torch.zeros(1, 2)):
        with pytest.raises(EditError, match=r"\(2, 2\)"):
            splice(batch, [(rows, part)])
    with pytest.raises(EditError, match="str"):
        splice(batch, [(rows, "text")])
    with pytest.raises(EditError, match="2 values"):
        splice((batch, batch), [(rows, (torch.zeros(2, 2),))])


def test_the_whole_batch_may_be_replaced_by_another_shape():
    batch = torch.zeros(4, 2)
    whole = Rows(0, 4, 4)
    assert same(splice(batch, [(whole, torch.ones(1, 9))]), torch.ones(1, 9))


def test_gradients_flow_through_a_splice():
    batch = torch.randn(3, 2, requires_grad=True)
    new = torch.randn(1, 2, requires_grad=True)
    splice(batch * 1, [(Rows(1, 1, 3), new)]).sum().backward()
    assert same(new.grad, torch.ones(1, 2))
    assert same(batch.grad, torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]))
