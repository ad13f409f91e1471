"""Several prompts as one call."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nbsight.core.batching import Rows
from nbsight.errors import InputError, NbsightWarning
from nbsight.models.inputs import Prompt
from nbsight.models.joining import join_prompts, padded_length
from nbsight.models.limits import Limits

NAMES = frozenset({"input_ids", "attention_mask", "position_ids", "labels", "inputs_embeds"})
LIMITS = Limits(None, 100, NAMES, False, frozenset({4, 6}))
CPU = torch.device("cpu")


def prompt(*rows: list[int], **more) -> Prompt:
    lengths = tuple(len(row) for row in rows)
    tensors = [torch.tensor(row) for row in rows]
    ids = torch.stack(tensors) if len(set(lengths)) == 1 else tensors
    return Prompt({"input_ids": ids, **more}, lengths)


def join(*prompts: Prompt, side: str = "right", limits: Limits = LIMITS, **options):
    return join_prompts(prompts, limits, side=side, pad_id=0, device=CPU, **options)


def test_one_prompt_is_passed_on_as_it_is():
    ids = torch.tensor([[1, 2, 3]])
    call, rows = join(Prompt({"input_ids": ids}, (3,), {"use_cache": False}))
    assert call == {"input_ids": ids, "use_cache": False}
    assert call["input_ids"] is ids
    assert rows == [Rows(0, 1, 1)]


def test_equal_prompts_are_stacked_without_padding():
    call, rows = join(prompt([1, 2]), prompt([3, 4], [5, 6]))
    assert call.keys() == {"input_ids"}
    assert call["input_ids"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert rows == [Rows(0, 1, 3), Rows(1, 2, 3)]


def test_right_padding_needs_a_mask_and_no_positions():
    call, rows = join(prompt([1, 2, 3]), prompt([4, 5]))
    assert call["input_ids"].tolist() == [[1, 2, 3], [4, 5, 0]]
    assert call["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert "position_ids" not in call
    assert rows == [Rows(0, 1, 2, 0, 3, 3), Rows(1, 1, 2, 0, 2, 3)]


def test_left_padding_counts_positions_from_the_first_token():
    call, rows = join(prompt([1, 2, 3]), prompt([4, 5]), side="left")
    assert call["input_ids"].tolist() == [[1, 2, 3], [0, 4, 5]]
    assert call["attention_mask"].tolist() == [[1, 1, 1], [0, 1, 1]]
    assert call["position_ids"][0].tolist() == [0, 1, 2]
    assert call["position_ids"][1, 1:].tolist() == [0, 1]
    assert rows == [Rows(0, 1, 2, 0, 3, 3), Rows(1, 1, 2, 1, 2, 3)]


def test_positions_are_given_only_to_a_forward_that_takes_them():
    fewer = replace(LIMITS, arguments=frozenset({"input_ids", "attention_mask"}))
    call, _ = join(prompt([1, 2, 3]), prompt([4, 5]), side="left", limits=fewer)
    assert "position_ids" not in call
    call, _ = join(prompt([1, 2, 3]), prompt([4, 5]), side="left", positions=False)
    assert "position_ids" not in call


def test_the_padded_length_is_no_other_size():
    call, rows = join(prompt([1] * 4), prompt([2] * 3))  # 4 is a size of the model, 5 is free
    assert call["input_ids"].shape == (2, 5)
    assert rows[0].padded == 5
    call, _ = join(*[prompt([1] * n) for n in (3, 3, 3, 3, 2)])  # 3 is free
    assert call["input_ids"].shape == (5, 3)
    call, _ = join(*[prompt([1] * n) for n in (3, 3, 2)])  # 3 rows, 4 a size
    assert call["input_ids"].shape == (3, 5)


@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.frozensets(st.integers(1, 60), max_size=40),
    st.none() | st.integers(60, 70),
)
@settings(deadline=None, max_examples=200)
def test_the_padded_length_is_the_smallest_free_one(longest, total, sizes, positions):
    limits = replace(LIMITS, sizes=sizes, positions=positions)
    free = next(n for n in range(longest, 10_000) if n not in sizes and n != total)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        length = padded_length(longest, total, limits)
    if positions is not None and free > positions:
        assert length == longest
        assert [w.category for w in caught] == [NbsightWarning]
    else:
        assert length == free
        assert not caught


def test_one_list_of_unequal_prompts_is_one_invoke_that_sees_the_padding():
    call, rows = join(prompt([1, 2, 3, 4], [5, 6]), side="left")
    assert call["input_ids"].tolist() == [[1, 2, 3, 4], [0, 0, 5, 6]]  # no wider than the longest
    assert call["position_ids"][1].tolist() == [0, 0, 0, 1]
    assert rows == [Rows(0, 2, 2)]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_list_beside_other_invokes_keeps_its_own_width(side):
    call, rows = join(prompt([1, 2, 3], [5, 6]), prompt([7] * 7), side=side)
    own = rows[0]
    assert (own.length, own.padded, own.left_pad) == (3, 7, 4 if side == "left" else 0)
    seen = call["input_ids"][:2, own.left_pad : own.left_pad + own.length]
    assert seen.tolist() == ([[1, 2, 3], [0, 5, 6]] if side == "left" else [[1, 2, 3], [5, 6, 0]])


def test_a_users_mask_is_kept_and_others_get_ones():
    call, _ = join(prompt([1, 2], attention_mask=torch.tensor([[0, 1]])), prompt([3, 4]))
    assert call["attention_mask"].tolist() == [[0, 1], [1, 1]]
    assert call["position_ids"].tolist() == [[0, 0], [0, 1]]


def test_a_left_padded_encoding_gets_positions():
    ids, mask = torch.tensor([[0, 0, 5]]), torch.tensor([[0, 0, 1]])
    call, _ = join(Prompt({"input_ids": ids, "attention_mask": mask}, (3,)))
    assert call["position_ids"].tolist() == [[0, 0, 0]]
    given = torch.tensor([[7, 7, 7]])
    call, _ = join(Prompt({"input_ids": ids, "attention_mask": mask, "position_ids": given}, (3,)))
    assert call["position_ids"] is given


def test_a_mask_longer_than_the_ids_belongs_to_a_cache_and_is_left_alone():
    mask = torch.tensor([[0, 1, 1, 1]])
    call, _ = join(Prompt({"input_ids": torch.tensor([[5]]), "attention_mask": mask}, (1,)))
    assert call["attention_mask"] is mask
    assert "position_ids" not in call


def test_other_fields_are_joined_and_padded_with_their_own_value():
    call, _ = join(
        prompt([1, 2, 3], labels=torch.tensor([[1, 2, 3]])), prompt([4, 5], labels=torch.tensor([[4, 5]]))
    )
    assert call["labels"].tolist() == [[1, 2, 3], [4, 5, -100]]
    call, _ = join(prompt([1, 2, 3], labels=torch.tensor([[1, 2, 3]])), prompt([4, 5]))
    assert call["labels"].tolist() == [[1, 2, 3], [-100] * 3]
    embeds = [Prompt({"inputs_embeds": torch.ones(1, n, 8)}, (n,)) for n in (3, 2)]
    call, _ = join(*embeds)
    assert call["inputs_embeds"].shape == (2, 3, 8)
    assert call["inputs_embeds"][1, 2].eq(0).all()
    assert call["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


def test_a_decoders_own_sequence_is_padded_by_itself():
    call, _ = join(
        prompt([1, 2, 3], decoder_input_ids=torch.tensor([[1]])),
        prompt([4, 5], decoder_input_ids=torch.tensor([[1, 2, 3, 4, 5]])),
    )
    assert call["decoder_input_ids"].tolist() == [[1, 0, 0, 0, 0], [1, 2, 3, 4, 5]]


def test_generation_gets_a_mask_even_if_nothing_is_masked():
    call, _ = join(prompt([1, 2]), need_mask=True)
    assert call["attention_mask"].tolist() == [[1, 1]]


def test_token_types_that_the_model_does_not_know_are_left_out_of_tokenized_text_only():
    fields = {"input_ids": torch.tensor([[1]]), "token_type_ids": torch.tensor([[0]])}
    assert "token_type_ids" not in join(Prompt(fields, (1,), tokenized=True))[0]
    assert "token_type_ids" in join(Prompt(fields, (1,)))[0]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([prompt([1]), Prompt({"inputs_embeds": torch.ones(1, 1, 4)}, (1,))], "one kind"),
        (
            [Prompt({"input_ids": torch.tensor([[1]])}, (1,), {"use_cache": u}) for u in (True, False)],
            "use_cache",
        ),
        ([prompt([1, 2], position_ids=torch.tensor([[0, 1]])), prompt([1])], "Leave them out"),
        ([prompt([1], pixels=torch.ones(1, 3)), prompt([1])], "`pixels` and others do not"),
        ([prompt([1], pixels=torch.ones(1, n, n)) for n in (3, 4)], "cannot share one forward"),
    ],
)
def test_what_cannot_share_a_forward_is_an_error(prompts, message):
    with pytest.raises(InputError, match=message):
        join(*prompts)
