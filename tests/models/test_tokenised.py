"""Tokens as a result: exact texts, offsets, positions by number, slice and string, alignments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from nbsight.errors import InputError
from nbsight.models.language_model import LanguageModel
from nbsight.results.alignment import align
from nbsight.results.base import load_result
from nbsight.results.tokens import Token, Tokens
from tests.models.architectures import AVAILABLE, make

TEXT = "The Eiffel Tower is in\n Paris, café 🙂"


@pytest.fixture(scope="module")
def with_bos():
    """A model whose tokenizer puts a token before every text, and knows few words."""
    words = ["<unk>", "<s>", "</s>", "the", "cat", "sat", "on", "mat", "Cat"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    return LanguageModel(make(AVAILABLE[0]), tokenizer=tokenizer)


# --- what they are --------------------------------------------------------------------------------


def test_texts_ids_and_offsets_are_the_tokenizers_own(demo):
    tokens = demo.tokens(TEXT)
    encoded = demo.tokenizer(TEXT, return_offsets_mapping=True)
    assert tokens.ids.tolist() == encoded["input_ids"]
    assert tokens.offsets.tolist() == [list(pair) for pair in encoded["offset_mapping"]]
    assert tokens.strings == tuple(demo.to_str_tokens(TEXT))
    assert tokens.text == TEXT
    assert "".join(tokens.strings[:9]) == TEXT[:32]
    for token in tokens:
        if "\ufffd" not in token.text:
            assert TEXT[token.start : token.end] == token.text


def test_a_trace_runs_on_these_ids(demo):
    tokens = demo.tokens(TEXT)
    with demo.trace(TEXT):
        hidden = demo.layers[0].resid_post
    assert hidden.shape[1] == len(tokens)
    assert torch.equal(demo.to_tokens(TEXT)[0], torch.tensor(tokens.ids))


def test_blanks_are_on_show(demo):
    text = repr(demo.tokens(TEXT))
    assert text.startswith("18 tokens of 'The Eiffel Tower")
    assert "·Eiffel" in text
    assert "⏎" in text
    assert "no BOS" in text
    assert str(demo.single_token(" Paris")) in text


def test_a_long_prompt_breaks_into_lines_that_fit(demo):
    lines = repr(demo.tokens(TEXT * 4)).splitlines()
    assert len(lines) > 6
    assert max(map(len, lines)) <= 100


def test_ids_and_chats_have_the_text_of_their_tokens(demo):
    ids = demo.tokens(TEXT).ids.tolist()
    tokens = demo.tokens(ids)
    assert isinstance(tokens, Tokens)
    assert tokens.ids.tolist() == ids
    assert tokens.text == "".join(tokens.strings)
    assert tokens.position("Eiffel Tower") == 2


def test_a_tokenizer_that_gives_no_offsets_is_helped():
    model = LanguageModel(
        make(AVAILABLE[0]),
        tokenizer=ByT5Tokenizer(extra_ids=0),  # one token a byte, written in Python
    )
    tokens = model.tokens("AB BAB", add_special_tokens=False)
    assert tokens.strings == tuple("AB BAB")
    assert tokens.positions("BAB") == (3, 4, 5)


def test_one_token_is_a_record(demo):
    assert demo.tokens("The Eiffel Tower")[-1] == Token(2, demo.single_token(" Tower"), " Tower", 10, 16)


def test_a_result_like_others(demo, tmp_path):
    tokens = demo.tokens(TEXT)
    table = tokens.to_dataframe()
    assert list(table["token"]) == list(tokens.strings)
    again = load_result(tokens.save(tmp_path / "tokens"))
    assert again.strings == tokens.strings
    assert again.hash == tokens.hash
    assert again.position("Paris") == tokens.position("Paris")


# --- the token before the text --------------------------------------------------------------------


def test_a_token_before_the_text_is_position_0_and_said(with_bos):
    tokens = with_bos.tokens("the cat sat")
    assert tokens.has_bos
    assert tokens.strings[0] == "<s>"
    assert tokens.special.tolist() == [True, False, False, False]
    assert tokens.position("cat") == 2
    assert tokens.position(0) == 0
    assert "begins with BOS <s>" in repr(tokens)
    bare = with_bos.tokens("the cat sat", add_special_tokens=False)
    assert not bare.has_bos
    assert bare.position("cat") == 1
    assert "no BOS" in repr(bare)


# --- positions ------------------------------------------------------------------------------------


def test_positions_by_number_slice_and_string(demo):
    tokens = demo.tokens(TEXT)
    assert tokens.position(-1) == len(tokens) - 1
    assert tokens.positions(slice(1, 4)) == (1, 2, 3)
    assert tokens.position("Eiffel Tower") == 2
    assert tokens.position("Eiffel Tower", which="first") == 1
    assert tokens.positions("Eiffel Tower") == (1, 2)
    assert tokens.positions([0, "Tower", slice(-2, None)]) == (0, 2, 16, 17)
    assert tokens.span("Eiffel Tower") == slice(1, 3)
    assert tokens.position(np.int64(3)) == 3


@pytest.mark.parametrize("text", ["Eiffel", " Eiffel", "Eiffel ", " Eiffel ", "iffe"])
def test_blanks_around_a_string_and_parts_of_a_token_mean_that_token(demo, text):
    assert demo.tokens(TEXT).positions(text) == (1,)


def test_a_character_of_several_tokens_is_all_of_them(demo):
    tokens = demo.tokens(TEXT)
    face = tokens.positions("🙂")
    assert demo.to_string([int(tokens.ids[place]) for place in face]).strip() == "🙂"
    assert len(tokens.positions("é")) == 2


def test_a_string_that_occurs_twice_lists_where(demo):
    tokens = demo.tokens("Paris is Paris, and Rome is Rome")
    with pytest.raises(InputError, match="'Paris' occurs twice") as error:
        tokens.position("Paris")
    first, second = tokens.occurrences("Paris")
    assert f"position {second[0]}" in str(error.value)
    assert "occurrence=0" in str(error.value)
    assert tokens.position("Paris", occurrence=1) == second[-1]
    assert tokens.position("Paris", occurrence=-2) == first[-1]
    with pytest.raises(InputError, match="no occurrence 2"):
        tokens.position("Paris", occurrence=2)


def test_a_string_that_never_occurs_shows_the_tokens(demo):
    with pytest.raises(InputError, match="'Rome' does not occur") as error:
        demo.tokens(TEXT).position("Rome")
    assert "·Eiffel" in str(error.value)
    with pytest.raises(InputError, match="Written 'Eiffel' it does"):
        demo.tokens(TEXT).position("eiffel")


def test_positions_that_are_not_there(demo):
    tokens = demo.tokens("The Eiffel Tower")
    for ask in (lambda: tokens.position(3), lambda: tokens.positions([0, -4])):
        with pytest.raises(InputError, match="has 3 tokens, 0 to 2"):
            ask()
    with pytest.raises(InputError, match="selects none"):
        tokens.positions(slice(5, 9))
    with pytest.raises(InputError, match="not float"):
        tokens.position(1.0)
    with pytest.raises(InputError, match='"first" or "last", not'):
        tokens.position("Tower", which="middle")


# --- batches --------------------------------------------------------------------------------------

BATCH = ["The Eiffel Tower is in", "The Colosseum is in the city of"]


def test_positions_in_every_prompt_of_a_batch(demo):
    batch = demo.tokens(BATCH)
    assert [len(one) for one in batch] == [5, 8]
    assert batch.position(-1) == (4, 7)
    assert batch.position("is") == (3, 3)
    assert batch.positions(slice(0, 2)) == ((0, 1), (0, 1))
    with pytest.raises(InputError, match="prompt 1: 'Eiffel' does not occur"):
        batch.position("Eiffel")
    assert "tokens of 2 prompts" in repr(batch)
    with demo.trace() as tracer:
        with tracer.invoke(BATCH[0]):
            first = demo.layers[2].resid_post[:, batch[0].position("Tower")].save()
        with tracer.invoke(BATCH[1]):
            demo.layers[2].resid_post
    with demo.trace(BATCH[0]):
        alone = demo.layers[2].resid_post[:, 2]
    torch.testing.assert_close(first, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_columns_of_prompts_that_are_one_input(demo, side):
    model = LanguageModel(demo._model, tokenizer=demo.tokenizer, tokenizer_kwargs={})
    before, model.tokenizer.padding_side = model.tokenizer.padding_side, side
    try:
        columns = model.tokens(BATCH).column("is")
        with model.trace(BATCH):
            both = model.layers[2].resid_post
    finally:
        model.tokenizer.padding_side = before
    for row, (text, column) in enumerate(zip(BATCH, columns, strict=True)):
        with model.trace(text):
            alone = model.layers[2].resid_post[0, 3]
        torch.testing.assert_close(both[row, column], alone, rtol=1e-5, atol=1e-5)


def test_one_prompt_in_a_list_is_a_batch(demo):
    assert len(demo.tokens([TEXT])) == 1
    assert demo.tokens([TEXT])[0].position(-1) == 17


# --- one token ------------------------------------------------------------------------------------


def test_a_text_that_is_one_token(demo):
    assert demo.single_token(" Paris") == demo.to_single_token(" Paris")
    with pytest.raises(InputError, match="2 tokens, not one"):
        demo.single_token(" Colosseum")


# --- two prompts ----------------------------------------------------------------------------------


def test_prompts_of_one_length_line_up_one_by_one(demo):
    clean, corrupted = demo.tokens("The Eiffel Tower is in"), demo.tokens("The Colosseum is in")
    found = align(clean, corrupted)
    assert found.pairs == tuple((i, i) for i in range(5))
    assert found.differing == ((1, 1), (2, 2))
    assert found.only_first == found.only_second == ()
    assert found.partner(-1) == 4
    assert "2 differ" in repr(found)
    assert "≠" in repr(found)


def test_prompts_of_unequal_length_are_refused_with_a_way_out(demo):
    with pytest.raises(InputError, match="have 5 and 3 tokens") as error:
        align(demo.tokens("The Eiffel Tower is in"), demo.tokens("Rome is in"))
    assert "spans=" in str(error.value)
    with pytest.raises(InputError, match="tokens of two prompts"):
        align("a", "b")


def test_spans_that_stand_for_each_other(demo):
    first, second = (
        demo.tokens("The Eiffel Tower is in Paris"),
        demo.tokens("The Colosseum in Rome is in Rome"),
    )
    with pytest.raises(InputError, match="occurs twice"):
        align(first, second, spans={"Paris": "Rome"})
    first, second = demo.tokens("The Eiffel Tower is in"), demo.tokens("The city of Rome is in")
    found = align(first, second, spans={"Eiffel Tower": "city of Rome"})
    # The last tokens of the spans correspond, and all around them.
    assert found.pairs == ((0, 0), (1, 2), (2, 3), (3, 4), (4, 5))
    assert found.only_second == (1,)
    assert found.differing == ((1, 2), (2, 3))
    assert found.how == "span"
    i, j = found.index
    assert i.tolist() == [0, 1, 2, 3, 4]
    assert j.tolist() == [0, 2, 3, 4, 5]
    with pytest.raises(InputError, match="around the spans"):
        align(first, demo.tokens("Rome is in"), spans=[("Eiffel Tower", "Rome")])


def test_what_two_prompts_have_in_common(demo):
    first, second = demo.tokens("The Eiffel Tower is in"), demo.tokens("Rome is in the city of")
    found = align(first, second, how="diff")
    assert [first.strings[i] for i, _ in found] == [second.strings[j] for _, j in found] == [" is", " in"]
    assert found.only_first == (0, 1, 2)
    assert found.only_second == (0, 3, 4, 5)
    same = align(first, demo.tokens("The Colosseum is in"), how="diff")
    assert same.differing == ((1, 1), (2, 2))
    with pytest.raises(InputError, match="no token in common"):
        align(demo.tokens("Paris"), demo.tokens(" is in"), how="diff")
    with pytest.raises(InputError, match="not 'best'"):
        align(first, second, how="best")
