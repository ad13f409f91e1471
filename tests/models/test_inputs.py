"""Every form of input that a user may write."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from nbsight.errors import InputError
from nbsight.models import demo as shipped
from nbsight.models.inputs import has_input, read_prompt, refuse_tokenizer_options
from nbsight.models.limits import Limits
from nbsight.models.tokens import Encoder

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
LIMITS = Limits(
    positions=12,
    vocabulary=1825,
    arguments=frozenset({"input_ids", "attention_mask", "position_ids"}),
    takes_more=False,
    sizes=frozenset(),
)
TEXT = "The capital of France is"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(shipped.folder())


@pytest.fixture
def encoder(tokenizer):
    return Encoder(tokenizer)


def read(encoder, *args, **kwargs):
    return read_prompt(args, kwargs, encoder, LIMITS)


def test_one_string_is_what_the_tokenizer_gives(encoder, tokenizer):
    prompt = read(encoder, TEXT)
    wanted = tokenizer(TEXT, return_tensors="pt")
    assert prompt.fields.keys() == wanted.keys()
    assert all(torch.equal(prompt.fields[name], wanted[name]) for name in wanted)
    assert (prompt.size, prompt.width, prompt.options) == (1, 5, {})


def test_equal_strings_are_rows_and_unequal_ones_stay_ragged(encoder, tokenizer):
    level = read(encoder, ["The capital of France is", "The capital of Italy is"])
    assert torch.equal(
        level.fields["input_ids"],
        tokenizer(["The capital of France is", "The capital of Italy is"], return_tensors="pt")["input_ids"],
    )
    ragged = read(encoder, [TEXT, " Paris"])
    assert ragged.lengths == (5, 1)
    assert [row.tolist() for row in ragged.fields["input_ids"]] == tokenizer([TEXT, " Paris"])["input_ids"]


IDS = [5, 6, 7]


@pytest.mark.parametrize(
    "source",
    [
        IDS,
        tuple(IDS),
        [np.int64(i) for i in IDS],
        [torch.tensor(i) for i in IDS],
        np.array(IDS),
        np.array([IDS], dtype=np.int32),
        torch.tensor(IDS),
        torch.tensor([IDS]),
        torch.tensor(IDS, dtype=torch.uint8),
        [IDS],
        [torch.tensor(IDS)],
        [torch.tensor([IDS])],
        {"input_ids": [IDS]},
        {"input_ids": torch.tensor([IDS])},
        {"input_ids": IDS},
    ],
    ids=lambda source: f"{type(source).__name__}",
)
def test_ids_in_every_form_are_the_same_row(encoder, source):
    prompt = read(encoder, source)
    assert prompt.fields["input_ids"].tolist() == [IDS]
    assert prompt.fields.keys() == {"input_ids"}
    assert read(encoder, input_ids=torch.tensor([IDS])).fields["input_ids"].tolist() == [IDS]


def test_lists_of_ids_are_rows(encoder):
    assert read(encoder, [[1, 2], [3, 4]]).fields["input_ids"].tolist() == [[1, 2], [3, 4]]
    ragged = read(encoder, [[1, 2], [3, 4, 5]])
    assert ragged.lengths == (2, 3)
    assert ragged.is_ragged


def test_a_tensor_is_passed_on_itself(encoder):
    ids = torch.tensor([IDS])
    assert read(encoder, ids).fields["input_ids"] is ids


def test_a_batch_encoding_keeps_its_mask(encoder, tokenizer):
    encoded = tokenizer([TEXT, " Paris"], return_tensors="pt", padding=True)
    prompt = read(encoder, encoded)
    assert prompt.lengths == (5, 5)
    assert torch.equal(prompt.fields["attention_mask"], encoded["attention_mask"])
    lists = read(encoder, tokenizer([TEXT, " Paris"]))
    assert lists.lengths == (5, 1)
    assert [row.tolist() for row in lists.fields["attention_mask"]] == [[1] * 5, [1]]


def test_embeddings_are_an_input(encoder):
    embeds = torch.zeros(2, 3, 8)
    assert read(encoder, inputs_embeds=embeds).lengths == (3, 3)
    assert read(encoder, inputs_embeds=embeds[0]).fields["inputs_embeds"].shape == (1, 3, 8)
    with pytest.raises(InputError, match="inputs_embeds"):
        read(encoder, inputs_embeds=torch.zeros(2, 3, 8).long())
    with pytest.raises(InputError, match="inputs_embeds"):
        read(encoder, torch.zeros(2, 3))


def test_fields_and_options_are_told_apart(encoder):
    mask = torch.tensor([[1, 1, 0]])
    prompt = read(encoder, IDS, attention_mask=mask, labels=[1, 2, 3], use_cache=False, max_new_tokens=3)
    assert torch.equal(prompt.fields["attention_mask"], mask)
    assert prompt.fields["labels"].tolist() == [[1, 2, 3]]
    assert prompt.options == {"use_cache": False, "max_new_tokens": 3}


def test_tokenizer_options_are_taken_out_and_max_length_only_with_truncation(encoder):
    cut = read(encoder, "The capital of France is " * 5, truncation=True, max_length=4)
    assert cut.width == 4
    assert cut.options == {}
    assert read(encoder, TEXT, max_length=9).options == {"max_length": 9}


def test_chats_go_through_the_template_with_a_generation_prompt(tokenizer):
    tokenizer = AutoTokenizer.from_pretrained(shipped.folder())
    tokenizer.chat_template = TEMPLATE
    encoder = Encoder(tokenizer)
    limits = Limits(None, None, frozenset(), False, frozenset())
    chat = [{"role": "user", "content": "Hi"}]
    wanted = tokenizer("user: Hi assistant:")["input_ids"]
    assert read_prompt((chat,), {}, encoder, limits).fields["input_ids"].tolist() == [wanted]
    assert read_prompt((chat[0],), {}, encoder, limits).fields["input_ids"].tolist() == [wanted]
    two = read_prompt(([chat, [*chat, *chat]],), {}, encoder, limits)
    assert two.lengths[0] == len(wanted) < two.lengths[1]
    plain = read_prompt((chat,), {"add_generation_prompt": False}, encoder, limits)
    assert plain.fields["input_ids"].tolist() == [tokenizer("user: Hi ")["input_ids"]]


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (("",), {}, "empty.*bos_token"),
        (([],), {}, "empty list"),
        (([[]],), {}, "empty"),
        (([TEXT, ""],), {}, "row 1 of the input is empty"),
        ((torch.zeros(0, dtype=torch.long),), {}, "empty"),
        ((torch.zeros(0, 3, dtype=torch.long),), {}, "empty"),
        ((torch.zeros(1, 2, 3, dtype=torch.long),), {}, r"\(1, 2, 3\)"),
        ((torch.zeros(2, 3, dtype=torch.bool),), {}, "integers"),
        ((TEXT * 5,), {}, r"\d+ tokens.*at most 12.*truncation=True, max_length=12"),
        (([1] * 13,), {}, "13 tokens.*at most 12"),
        (([1825],), {}, r"1825 is outside the vocabulary.*0 to 1824"),
        (([-1, 3],), {}, "-1 is outside"),
        ((["a", 1],), {}, "int, str"),
        ((3,), {}, "is a int"),
        ((object(),), {}, "is a object"),
        (([["a", "b"]],), {}, "holds str"),
        (({"ids": [1]},), {}, "with ids; it needs `input_ids`"),
        (({},), {}, "nothing in it"),
        (("a", "b"), {}, r"got 2.*model\.trace\(\[a, b\]\)"),
        ((TEXT,), {"input_ids": [1]}, "given twice"),
        (([[1, 2]],), {"attention_mask": [[1, 1], [1, 1]]}, "2 rows and the input has 1"),
        (([{"role": "user", "content": "Hi"}],), {}, "no chat template"),
        (([{"role": "user"}],), {}, "'role' and 'content'"),
    ],
)
def test_bad_input_is_an_error_that_says_what_to_write(encoder, args, kwargs, message):
    with pytest.raises(InputError, match=f"(?s){message}"):
        read_prompt(args, kwargs, encoder, LIMITS)


def test_a_string_that_gives_unknown_ids_is_an_error(encoder):
    small = Limits(12, 700, frozenset(), False, frozenset())
    with pytest.raises(InputError, match="outside the vocabulary"):
        read_prompt((TEXT,), {}, encoder, small)


def test_chats_without_a_tokenizer_are_an_error():
    with pytest.raises(InputError, match="no tokenizer"):
        read(Encoder(None), [{"role": "user", "content": "Hi"}])


def test_what_counts_as_an_input():
    assert has_input(("",), {})
    assert has_input((), {"input_ids": [1]})
    assert not has_input((), {})
    assert not has_input((None,), {})
    assert not has_input((), {"max_new_tokens": 3, "labels": [1]})


def test_tokenizer_options_for_a_whole_batch_are_refused():
    with pytest.raises(InputError, match=r"tracer\.invoke\(prompt, truncation="):
        refuse_tokenizer_options({"truncation": True})
    refuse_tokenizer_options({"max_length": 3})
