"""Text to ids and back."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from nbsight.errors import InputError
from nbsight.models import demo as shipped
from nbsight.models import tokens
from nbsight.models.tokens import Encoder, describe_lengths, single_token, str_tokens, token_text

TEXTS = ["The capital of France is", " Paris", "", "Über-naïve 東京 🙂\n\t x", "a" * 300, "<|endoftext|>then"]


@pytest.fixture
def tokenizer():
    return AutoTokenizer.from_pretrained(shipped.folder())


@pytest.fixture
def metaspace():
    """A tokenizer that, like SentencePiece, writes a blank as part of the next word."""
    words = ["▁The", "▁cat", "s", "<unk>"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


@pytest.mark.parametrize("text", TEXTS)
def test_the_short_way_gives_what_the_tokenizer_gives(tokenizer, text):
    encoder = Encoder(tokenizer)
    assert encoder._direct  # else this test compares the tokenizer with itself
    assert encoder.encode(text, {}) == dict(tokenizer(text))
    assert encoder.encode(text, {}) == dict(tokenizer(text))  # from the memo


def test_the_short_way_is_not_taken_after_a_call_that_left_truncation_on(tokenizer):
    encoder = Encoder(tokenizer)
    tokenizer("one two three four", truncation=True, max_length=2)
    assert len(encoder.encode("The capital of France is", {})["input_ids"]) == 5
    tokenizer(["a", "The capital of France is"], padding=True)
    assert encoder.encode("The", {}) == dict(tokenizer("The"))


def test_a_tokenizer_with_its_own_way_of_encoding_is_asked_in_its_own_way(tokenizer):
    class Loud(type(tokenizer)):
        def __call__(self, text, **options):
            return super().__call__(text.upper(), **options)

    loud = Loud(tokenizer_object=tokenizer.backend_tokenizer)
    assert Encoder(loud).encode("the capital", {})["input_ids"] == tokenizer("THE CAPITAL")["input_ids"]


def test_a_new_token_is_seen_in_spite_of_the_memo(tokenizer):
    encoder = Encoder(tokenizer)
    before = encoder.encode("wizz bang", {})["input_ids"]
    tokenizer.add_tokens(["wizz"])
    after = encoder.encode("wizz bang", {})["input_ids"]
    assert after != before
    assert after == tokenizer("wizz bang")["input_ids"]


def test_the_memo_stays_small(tokenizer, monkeypatch):
    monkeypatch.setattr(tokens, "MEMO_SIZE", 3)
    encoder = Encoder(tokenizer)
    for number in range(10):
        encoder.encode(f"text {number}", {})
    assert [key[0] for key in encoder._memo] == ["text 7", "text 8", "text 9"]


def test_options_reach_the_tokenizer(tokenizer):
    encoder = Encoder(tokenizer)
    cut = encoder.encode("The capital of France is", {"truncation": True, "max_length": 3})
    assert cut["input_ids"] == tokenizer("The capital of France is")["input_ids"][:3]
    assert len(encoder.encode("The capital of France is", {})["input_ids"]) == 5


def test_text_without_a_tokenizer_is_an_error_that_says_why_and_what_to_write():
    with pytest.raises(InputError, match=r"no files in x.*token ids.*tokenizer="):
        Encoder(None, "no files in x").encode("text", {})


def test_tokens_as_text_put_together_are_the_text(tokenizer):
    for text in ["The Eiffel Tower is in the city of", " Paris and Rome"]:
        assert "".join(str_tokens(tokenizer, tokenizer(text)["input_ids"])) == text


def test_blanks_are_kept_where_the_tokenizer_hides_them(metaspace):
    ids = metaspace("The cat")["input_ids"]
    assert [token_text(metaspace, i) for i in ids] == [" The", " cat"]
    assert metaspace.decode([ids[1]]) == "cat"  # what a plain decode says


def test_a_single_token_is_its_id(tokenizer):
    assert tokenizer.decode([single_token(tokenizer, " Paris")]) == " Paris"


def test_several_tokens_are_an_error_that_shows_them(tokenizer):
    with pytest.raises(InputError, match=r"2 tokens.*'.+', '.+'"):
        single_token(tokenizer, " Paris Rome")
    with pytest.raises(InputError, match=r"'T', 'ow', 'er'.*leading blank.*' Tower'"):
        single_token(tokenizer, "Tower")
    with pytest.raises(InputError, match="0 tokens"):
        single_token(tokenizer, "")


def test_two_lengths_are_described_in_two_lines(tokenizer):
    a, b = tokenizer("The capital of France is")["input_ids"], tokenizer("The capital of")["input_ids"]
    lines = describe_lengths(tokenizer, a, b).splitlines()
    assert lines == [
        "this prompt, 5 tokens: 'The' ' capital' ' of' ' France' ' is'",
        "the value's, 3 tokens: 'The' ' capital' ' of'",
    ]
    assert "701 702" in describe_lengths(None, [701, 702], [1])
    long = describe_lengths(tokenizer, a * 30, b)
    assert "…" in long
    assert len(long) < 1000
