"""What a user sees for a block's and a model's output, and what may be assigned to them."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutputWithPast

from nbsight.errors import EditError, PathError
from nbsight.models.outputs import (
    BlockOutput,
    LogitsOutput,
    accept_block,
    accept_logits,
    show_block,
    show_logits,
)


def hidden(rows: int = 2, positions: int = 5, width: int = 8) -> torch.Tensor:
    return torch.arange(rows * positions * width, dtype=torch.float32).reshape(rows, positions, width)


WRAPPERS = {
    "tensor": lambda h: h,
    "tuple": lambda h: (h, None, torch.ones(3)),
    "list": lambda h: [h, None],
    "dict": lambda h: {"hidden_states": h, "other": torch.ones(2)},
    "ModelOutput": lambda h: BaseModelOutput(last_hidden_state=h),
}


def inside(value):
    """The hidden state of what a block returned, found by hand."""
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, dict):
        return value.get("hidden_states", value.get("last_hidden_state"))
    return value[0]


@pytest.fixture(params=WRAPPERS)
def returned(request):
    return WRAPPERS[request.param](hidden())


class TestBlockReading:
    def test_zero_is_the_whole_hidden_state_whatever_the_block_returned(self, returned):
        out = show_block(returned)
        assert out[0] is inside(returned)
        assert type(out[0]) is torch.Tensor

    def test_slices_masks_and_tuples_address_the_tensor(self, returned):
        out, h = show_block(returned), hidden()
        mask = h[..., 0] > 10
        rows = torch.tensor([1, 0])
        for key in [
            (slice(None), -1),
            slice(1, 2),
            (0, -1),
            ...,
            None,
            mask,
            rows,
            [1, 0],
            (..., slice(0, 3)),
        ]:
            assert torch.equal(out[key], h[key])
            assert type(out[key]) is torch.Tensor

    @pytest.mark.parametrize("zero", [0, np.int64(0), torch.tensor(0)])
    def test_every_kind_of_zero_is_the_hidden_state(self, zero):
        assert show_block(hidden())[zero].shape == (2, 5, 8)

    @pytest.mark.parametrize("index", [1, -1, 7, np.int64(1), torch.tensor(1)])
    def test_another_integer_is_an_error_that_says_what_to_write(self, returned, index):
        with pytest.raises(PathError, match=r"block\.output\[:, -?\d\]"):
            show_block(returned)[index]
        with pytest.raises(EditError, match=r"block\.output\[:, -?\d\]"):
            show_block(returned)[index] = 0.0

    def test_the_error_names_raw_where_a_block_returned_more(self):
        with pytest.raises(PathError, match=r"block\.output\.raw\[1\]"):
            show_block((hidden(), torch.ones(1)))[1]
        with pytest.raises(PathError) as caught:
            show_block(hidden())[1]
        assert "raw" not in str(caught.value)

    def test_raw_is_exactly_what_the_module_returned(self, returned):
        assert show_block(returned).raw is returned

    def test_unpacking_and_looping_are_refused_since_they_could_mean_two_things(self):
        with pytest.raises(PathError, match="for row in"):
            list(show_block(hidden()))

    def test_torch_functions_give_plain_tensors_with_the_same_numbers(self, returned):
        out, h = show_block(returned), hidden()
        cases = [
            (out + 1, h + 1),
            (1 - out, 1 - h),
            (out @ torch.ones(8, 2), h @ torch.ones(8, 2)),
            (torch.cat([out, out]), torch.cat([h, h])),
            (torch.stack([out, h]), torch.stack([h, h])),
            (out.mean(dim=1), h.mean(dim=1)),
            (out.cpu(), h),
            (out.clone(), h),
            (out.detach(), h),
            (torch.where(out > 3, out, 0), torch.where(h > 3, h, 0)),
            (torch.nn.functional.layer_norm(out, (8,)), torch.nn.functional.layer_norm(h, (8,))),
            (out.mT, h.mT),
            (out.data, h),
        ]
        for got, wanted in cases:
            assert type(got) is torch.Tensor
            assert torch.equal(got, wanted)

    def test_attributes_are_the_tensors(self, returned):
        out, h = show_block(returned), hidden()
        assert out.shape == h.shape
        assert out.dtype == h.dtype
        assert out.device == h.device
        assert len(out) == len(h)
        assert out.ndim == 3
        assert out.tolist() == h.tolist()
        assert isinstance(out, torch.Tensor)

    def test_it_prints_as_the_plain_tensor(self, returned):
        out = show_block(returned)
        assert repr(out) == repr(hidden())
        assert str(out) == str(hidden())
        assert f"{out}" == f"{hidden()}"

    def test_numpy_sees_the_numbers(self, returned):
        assert np.array_equal(np.asarray(show_block(returned)), hidden().numpy())
        assert np.array_equal(show_block(returned).numpy(), hidden().numpy())

    def test_pickle_deepcopy_and_torch_save_keep_numbers_and_meaning(self, returned):
        out = show_block(returned)
        file = io.BytesIO()
        torch.save({"out": out}, file)
        file.seek(0)
        for again in [pickle.loads(pickle.dumps(out)), copy.deepcopy(out), torch.load(file)["out"]]:
            assert isinstance(again, BlockOutput)
            assert torch.equal(again[0], hidden())
            assert again[0].data_ptr() != out[0].data_ptr()

    def test_what_is_no_hidden_state_is_shown_as_it_is(self):
        for value in [None, (), ("text",), {"a": 1}, 3]:
            assert show_block(value) is value

    def test_a_fake_tensor_keeps_its_shape_and_stays_fake(self):
        with FakeTensorMode():
            fake = torch.empty(2, 5, 8)
        out = show_block((fake,))
        assert out[0] is fake
        assert out.shape == (2, 5, 8)
        assert type(out + 1) is type(fake)


class TestBlockEditing:
    def edits():
        def whole(out, x):
            out[0][:] = x

        def add(out, x):
            out[0][:] += x

        def item(out, x):
            out[0] = x

        def item_add(out, x):
            out[0] += x

        def last(out, x):
            out[:, -1] = x[:, -1]

        def itself(out, x):
            out += x

        def method(out, x):
            out.mul_(2)

        def mask(out, x):
            out[out > 20] = 0.0

        return [whole, add, item, item_add, last, itself, method, mask]

    @pytest.mark.parametrize("edit", edits(), ids=lambda edit: edit.__name__)
    def test_in_place_edits_land_in_what_the_module_returned(self, returned, edit):
        by_hand = hidden()
        x = torch.randn(2, 5, 8)
        out = show_block(returned)
        edit(out, x)
        expected = {
            "whole": lambda: x,
            "add": lambda: by_hand + x,
            "item": lambda: x,
            "item_add": lambda: by_hand + x,
            "last": lambda: torch.cat([by_hand[:, :-1], x[:, -1:]], dim=1),
            "itself": lambda: by_hand + x,
            "method": lambda: by_hand * 2,
            "mask": lambda: torch.where(by_hand > 20, 0.0, by_hand),
        }[edit.__name__]()
        assert torch.equal(inside(returned), expected)

    def test_augmented_assignment_keeps_what_the_name_means(self):
        out = show_block(hidden())
        out += 1
        assert isinstance(out, BlockOutput)
        assert torch.equal(out[0], hidden() + 1)

    def test_in_place_edits_are_seen_by_the_version_counter(self):
        h = hidden()
        out = show_block(h)
        before = h._version
        out[0][:] = 0
        assert h._version > before
        assert out._version == h._version

    def test_item_assignment_of_another_shape_names_both_shapes(self):
        with pytest.raises(EditError, match=r"\(2, 5, 8\).*\(2, 4, 8\)"):
            show_block(hidden())[0] = torch.zeros(2, 4, 8)

    def test_item_assignment_of_a_number_fills_the_hidden_state(self):
        h = hidden()
        show_block(h)[0] = 0.0
        assert torch.equal(h, torch.zeros(2, 5, 8))

    def test_gradients_reach_the_tensor_that_the_model_uses(self):
        weight = torch.ones(8, requires_grad=True)
        h = hidden() * weight
        out = show_block((h, None))
        first = out[0]
        first.retain_grad()
        (h**2).sum().backward()  # as the layers after it would
        assert torch.equal(first.grad, 2 * h)
        assert torch.equal(out.grad, 2 * h)

    def test_autograd_grad_takes_the_reading_itself(self):
        h = hidden().requires_grad_()
        out = show_block(h)
        (grad,) = torch.autograd.grad((h * 3).sum(), out)
        assert torch.equal(grad, torch.full_like(h, 3))


class TestBlockAssignment:
    @pytest.mark.parametrize("form", ["tensor", "reading", "tuple", "foreign"])
    def test_every_form_becomes_what_the_module_returns(self, returned, form):
        new = torch.randn(2, 5, 8)
        assigned = {
            "tensor": new,
            "reading": show_block(new),
            "tuple": (new,),
            "foreign": show_block((new, "of another run")),
        }[form]
        result = accept_block(returned, assigned)
        assert type(result) is type(returned)
        assert torch.equal(inside(result), new)
        assert type(inside(result)) is torch.Tensor
        if isinstance(returned, (tuple, list)):
            assert all(a is b for a, b in zip(result[1:], returned[1:], strict=False))
        if isinstance(returned, dict):
            assert result.keys() == returned.keys()

    def test_assigning_the_output_to_itself_changes_nothing(self, returned):
        result = accept_block(returned, show_block(returned))
        assert inside(result) is inside(returned)

    def test_a_tuple_of_the_same_length_replaces_the_other_entries(self):
        extra = torch.zeros(3)
        result = accept_block((hidden(), None, torch.ones(3)), (hidden() + 1, "x", extra))
        assert torch.equal(result[0], hidden() + 1)
        assert result[1] == "x"
        assert result[2] is extra

    def test_a_tuple_of_another_length_says_both_lengths(self):
        with pytest.raises(EditError, match=r"2 entries; this block returns 3"):
            accept_block((hidden(), None, None), (hidden(), torch.ones(1)))
        with pytest.raises(EditError, match="2 entries; this block returns one tensor"):
            accept_block(hidden(), (hidden(), torch.ones(1)))

    def test_none_for_another_entry_keeps_what_the_block_returned(self):
        extra = torch.zeros(3)
        for given in [(hidden(), None, None), (hidden(), None), (hidden(),)]:
            assert accept_block((hidden(), "cache", extra), given)[1:] == ("cache", extra)

    def test_version_4_style_assignment_works_where_the_block_returns_a_tensor(self):
        new = hidden() + 1
        assert accept_block(hidden(), (new, None)) is new

    def test_another_float_dtype_is_converted(self):
        for current, given in [(torch.bfloat16, torch.float32), (torch.float32, torch.float16)]:
            result = accept_block((hidden().to(current),), hidden().to(given))
            assert result[0].dtype is current

    @pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
    def test_a_dtype_of_another_kind_is_an_error_that_names_both(self, dtype):
        with pytest.raises(EditError, match=rf"torch\.float32.*{dtype}.*\.to\(torch\.float32\)"):
            accept_block(hidden(), torch.ones(2, 5, 8).to(dtype))

    def test_another_device_is_converted(self):
        result = accept_block(hidden().to("meta"), hidden())
        assert result.device.type == "meta"

    @pytest.mark.parametrize(
        ("shape", "hint"),
        [
            ((2, 4, 8), "same number of tokens"),
            ((2, 1, 8), "same number of tokens"),
            ((5, 8), r"value\[None\]"),
            ((8,), r"\[:\] = value"),
            ((2, 5, 7), r"\(2, 5, 7\)"),
            ((3, 5, 8), r"\(3, 5, 8\)"),
        ],
    )
    def test_another_shape_is_an_error_that_names_both_and_what_to_write(self, shape, hint):
        with pytest.raises(EditError, match=r"\(2, 5, 8\)") as caught:
            accept_block(hidden(), torch.zeros(shape))
        assert str(tuple(shape)) in str(caught.value)
        caught.match(hint)

    def test_one_row_is_given_to_every_prompt(self):
        one = torch.randn(1, 5, 8)
        assert torch.equal(accept_block(hidden(), one), one.expand(2, 5, 8))

    def test_one_prompt_can_go_on_as_several_rows(self):
        assert accept_block(hidden(1), hidden(3)).shape == (3, 5, 8)

    @pytest.mark.parametrize("value", [None, "text", 3, (), {"a": 1}, ("text",), np.zeros((2, 5, 8))])
    def test_what_is_no_tensor_is_an_error(self, value):
        with pytest.raises(EditError, match=r"\(2, 5, 8\)"):
            accept_block(hidden(), value)


def output(**more) -> CausalLMOutputWithPast:
    return CausalLMOutputWithPast(logits=hidden(), past_key_values=("cache",), **more)


class TestLogits:
    def test_it_indexes_as_the_logits(self):
        out = show_logits(output())
        assert torch.equal(out[0, -1], hidden()[0, -1])
        assert torch.equal(out[0], hidden()[0])
        assert torch.equal(out[-1], hidden()[-1])
        assert out.shape == (2, 5, 8)
        assert torch.equal(torch.softmax(out[0, -1], dim=-1), hidden()[0, -1].softmax(-1))
        assert torch.equal(out.argmax(-1), hidden().argmax(-1))
        assert type(out[0]) is torch.Tensor
        assert type(out + 1) is torch.Tensor
        assert [row.shape for row in out] == [(5, 8)] * 2

    def test_it_reads_as_the_hugging_face_output(self):
        hf = output(loss=torch.tensor(1.5))
        out = show_logits(hf)
        assert out.hf is hf
        assert out.logits is hf.logits
        assert out["logits"] is hf.logits
        assert out.past_key_values == ("cache",)
        assert out.loss is hf.loss
        assert out.hidden_states is None
        assert list(out.keys()) == list(hf.keys())
        assert out.to_tuple() == hf.to_tuple()
        assert "logits" in out
        assert "attentions" not in out
        assert out.get("attentions", 7) == 7
        assert [name for name, _ in out.items()] == list(hf.keys())

    def test_an_unknown_name_says_which_there_are(self):
        out = show_logits(output())
        with pytest.raises(PathError, match=r"'probs'.*logits, past_key_values"):
            out.probs
        with pytest.raises(PathError, match="logits, past_key_values"):
            out["probs"]
        assert not hasattr(out, "nothing")

    def test_in_place_edits_land_in_the_real_output(self):
        hf = output()
        out = show_logits(hf)
        out[0, -1] = 7.0
        out.logits[1, 0] = 8.0
        assert (hf.logits[0, -1] == 7).all()
        assert (hf.logits[1, 0] == 8).all()
        out.logits = torch.zeros(2, 5, 8)
        assert torch.equal(hf.logits, torch.zeros(2, 5, 8))
        out["logits"] = torch.ones(2, 5, 8)
        assert torch.equal(hf.logits, torch.ones(2, 5, 8))
        with pytest.raises(EditError, match=r"model\.output = "):
            out.past_key_values = None

    def test_a_tuple_with_the_loss_first_shows_the_logits(self):
        out = show_logits((torch.tensor(1.0), hidden(), "cache"))
        assert torch.equal(out[0, -1], hidden()[0, -1])

    def test_an_output_without_logits_is_shown_as_it_is(self):
        value = BaseModelOutput(last_hidden_state=hidden())
        assert show_logits(value) is value

    def test_a_tensor_can_be_assigned_and_the_rest_stays(self):
        hf = output()
        new = accept_logits(hf, torch.zeros(2, 5, 8))
        assert type(new) is type(hf)
        assert new.past_key_values == ("cache",)
        assert torch.equal(new.logits, torch.zeros(2, 5, 8))
        assert torch.equal(hf.logits, hidden())

    def test_readings_outputs_and_dicts_can_be_assigned(self):
        hf, other = output(), output(loss=torch.tensor(2.0))
        assert accept_logits(hf, show_logits(hf)) is hf
        assert accept_logits(hf, show_logits(other)).loss is other.loss
        assert accept_logits(hf, other).loss is other.loss
        assert torch.equal(accept_logits(hf, {"logits": hidden() + 1}).logits, hidden() + 1)
        assert accept_logits((hidden(),), hidden() + 1)[0][0, 0, 0] == 1

    @pytest.mark.parametrize("value", [None, "text", torch.zeros(2, 4, 8), torch.zeros(2, 5, 8).long()])
    def test_what_does_not_fit_is_an_error(self, value):
        with pytest.raises(EditError):
            accept_logits(output(), value)

    def test_pickle_and_deepcopy_keep_the_logits(self):
        out = show_logits(output())
        for again in [pickle.loads(pickle.dumps(out)), copy.deepcopy(out)]:
            assert isinstance(again, LogitsOutput)
            assert torch.equal(again.logits, hidden())
            assert torch.equal(again[0, -1], hidden()[0, -1])
