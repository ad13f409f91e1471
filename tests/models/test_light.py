"""A forward keeps no cache of keys and values unless the code around the trace speaks of one."""

from __future__ import annotations

import pytest
import torch

from nbsight.errors import PathError
from nbsight.models.language_model import LanguageModel
from nbsight.models.transformers_model import TransformersModel

PROMPT = "The Eiffel Tower is in the city of"


@pytest.fixture(scope="module")
def model():
    return LanguageModel("nbsight/demo")


def output_of(model, **options):
    with model.trace(PROMPT, **options):
        return model.output


def asked_elsewhere(output):
    return output.past_key_values


def length_of(kept):
    """Positions in a cache: an object, and in early 4.x a tuple for each layer."""
    return kept.get_seq_length() if hasattr(kept, "get_seq_length") else kept[0][0].shape[2]


def test_the_model_is_told_to_keep_none(model):
    told = []

    def hook(module, args, kwargs):
        told.append(kwargs.get("use_c" + "ache"))  # in two pieces, so that nothing here speaks of it

    handle = model._model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        output_of(model)
    finally:
        handle.remove()
    assert told == [False]


def test_the_numbers_are_those_of_the_plain_forward(model):
    ids = model.to_tokens(PROMPT)
    with torch.no_grad():
        plain = model._model(ids, output_hidden_states=True)
    states = []
    with model.trace(PROMPT):
        for block in model.transformer.h:
            states.append(block.output[0])
        logits = model.output.logits
    assert torch.equal(logits, plain.logits)
    # The last of transformers' hidden states has gone through the final norm.
    assert all(map(torch.equal, states[:-1], plain.hidden_states[1:-1]))


def test_asking_for_it_in_other_code_says_what_to_write(model):
    output = output_of(model)
    with pytest.raises(PathError, match=r"model\.trace\(prompt, use_cache=True\)"):
        asked_elsewhere(output)


def test_code_that_speaks_of_it_has_it(model):
    with model.trace(PROMPT):
        kept = model.output.past_key_values
    assert length_of(kept) == len(model.to_str_tokens(PROMPT))


def test_it_can_be_asked_for(model):
    assert length_of(asked_elsewhere(output_of(model, use_cache=True))) > 0


def test_saying_no_gives_what_transformers_gives(model):
    assert asked_elsewhere(output_of(model, use_cache=False)) is None


def test_a_kept_edit_that_speaks_of_it_has_it():
    model = LanguageModel("nbsight/demo")
    lengths = []
    with model.edit(inplace=True):
        lengths.append(length_of(model.output.past_key_values))
    output_of(model)
    assert lengths == [len(model.to_str_tokens(PROMPT))]


def test_a_literal_model_is_called_as_it_stands(model):
    literal = TransformersModel(model._model, task="text-generation", tokenizer=model.tokenizer)
    assert length_of(asked_elsewhere(output_of(literal))) > 0


def test_a_call_without_a_block_keeps_it(model):
    assert length_of(asked_elsewhere(model.trace(PROMPT, trace=False))) > 0
