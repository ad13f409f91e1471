"""Patches that replace a whole state, or take positions from a prompt of another length."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nbsight.errors import EditWarning
from nbsight.models.language_model import LanguageModel
from tests.core.small import run_cell

CLEAN, CORRUPTED = "The Eiffel Tower is in the city of", "The Colosseum is in the city of"
LONG = "The quick brown fox jumps over the lazy dog"
WHOLE = "this edit replaces the whole state after `transformer.h.6` by "


@pytest.fixture(scope="module")
def plain(demo):
    """Logits of a prompt, by the module itself."""

    def run(prompt):
        with torch.no_grad():
            return demo._model(demo.to_tokens(prompt)).logits

    return run


def texts(act) -> list[str]:
    """The texts of the edit warnings that a function gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        act()
    assert all(warning.category is EditWarning for warning in caught)
    return [str(warning.message) for warning in caught]


def cell(source, demo, **names):
    """The names of a cell that was run, and the warnings that it gave."""
    names = {"model": demo, "torch": torch, "clean": CLEAN, "corrupted": CORRUPTED, **names}
    return names, texts(lambda: run_cell(source, names))


def hooked_state(demo, layer, prompt):
    """The state after a block, by a plain hook."""
    seen = []
    handle = demo._model.transformer.h[layer].register_forward_hook(
        lambda module, args, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad():
        demo._model(demo.to_tokens(prompt))
    handle.remove()
    return seen[0]


# -- a whole state ---------------------------------------------------------------------------------

WAYS = {
    "slice": "model.transformer.h[6].output[0][:] = donor",
    "ellipsis": "model.transformer.h[6].output[0][...] = donor",
    "facade": "model.transformer.h[6].output[:] = donor",
    "entry": "model.transformer.h[6].output[0] = donor",
    "copy": "model.transformer.h[6].output[0].copy_(donor)",
    "assignment": "model.transformer.h[6].output = donor",
    "tuple": "model.transformer.h[6].output = (donor,)",
    "rows": "model.transformer.h[6].output[0][0] = donor[0]",
    "position by position": "for p in range(8): model.transformer.h[6].output[0][:, p] = donor[:, p]",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "source", ["model.transformer.h[6].output[0].save()", "model.transformer.h[6].output"]
)
def test_a_patch_of_all_positions_is_said_and_gives_the_donors_logits(demo, plain, way, source):
    names, said = cell(
        f"""
        with model.trace(clean):
            donor = {source}
        with model.trace(corrupted) as tracer:
            {WAYS[way]}
            logits = model.output.logits
        """,
        demo,
    )
    assert torch.equal(names["logits"], plain(CLEAN))
    (text,) = said
    assert text.startswith(WHOLE + "`donor`, so everything later equals the donor's by construction")
    assert "`...output[0][:, -1] = ...[:, -1]`" in text
    assert "\n" not in text
    assert names["tracer"].edits[0].notes == (text,)


def test_one_position_is_not_the_whole_state(demo, plain):
    names, said = cell(
        """
        with model.trace(clean):
            donor = model.transformer.h[6].output[0].save()
        with model.trace(corrupted):
            model.transformer.h[6].output[0][:, -1] = donor[:, -1]
            logits = model.output.logits
        """,
        demo,
    )
    assert said == []
    assert not torch.equal(names["logits"], plain(CLEAN))


def test_the_line_that_patches_in_a_loop_is_said_once(demo):
    names = {"model": demo, "clean": CLEAN, "corrupted": CORRUPTED}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        run_cell(
            """
            for layer in range(12):
                with model.trace(clean):
                    donor = model.transformer.h[layer].output[0].save()
                with model.trace(corrupted):
                    model.transformer.h[layer].output[0][:] = donor
                    logits = model.output
            """,
            names,
        )
    assert [warning.lineno for warning in caught] == [6]


def test_donors_in_a_list_and_in_a_function_are_found(demo):
    def patched(layer, states):
        with demo.trace(CORRUPTED):
            demo.transformer.h[layer].output[0][:] = states[layer]
            return demo.output.logits

    def go():
        with demo.trace(CLEAN):
            states = [block.output[0].save() for block in demo.transformer.h]
        patched(6, states)

    def unsaved():
        with demo.trace(CLEAN):
            donor = demo.transformer.h[6].output[0]
        with demo.trace(CORRUPTED):
            demo.transformer.h[6].output[0][:] = donor
            demo.output

    assert texts(go) == [text for text in texts(go) if text.startswith(WHOLE + "`states[6]`")] != []
    assert [text.startswith(WHOLE + "`donor`") for text in texts(unsaved)] == [True]


def test_a_state_held_by_a_name_and_patched_on_another_line_is_found(demo):
    _, said = cell(
        """
        with model.trace(clean):
            donor = model.transformer.h[6].output[0].save()
        with model.trace(corrupted):
            state = model.transformer.h[6].output[0]
            state[:] = donor
            logits = model.output
        """,
        demo,
    )
    (text,) = said
    assert text.startswith(WHOLE + "the value saved on line 3")


@pytest.mark.parametrize("save", ["", ".save()"])
def test_one_invoke_that_takes_anothers_whole_state_is_said(demo, plain, save):
    names, said = cell(
        f"""
        with model.trace() as tracer:
            with tracer.invoke("The cat sat on the mat"):
                cat = model.transformer.h[6].output[0]{save}
            with tracer.invoke("The dog ran through the park"):
                model.transformer.h[6].output[0][:] = cat
                logits = model.output.logits
        """,
        demo,
    )
    (text,) = said
    assert text.startswith(WHOLE + "`cat`")
    assert torch.allclose(names["logits"], plain("The cat sat on the mat"), atol=1e-4)


STEERING = {
    "added in place": "model.transformer.h[6].output[0][:] += 3 * vector",
    "added by name": "h = model.transformer.h[6].output[0]; h += vector",
    "assigned": "model.transformer.h[6].output = model.transformer.h[6].output + vector",
    "computed and written": "h = model.transformer.h[6].output[0]; new = h + vector; h[:] = new",
    "saved and written": "h = model.transformer.h[6].output[0]; new = (h + vector).save(); h[:] = new",
    "saved and assigned": (
        "new = (model.transformer.h[6].output[0] + vector).save(); model.transformer.h[6].output = new"
    ),
    "an earlier layer of this run": (
        "old = model.transformer.h[3].output[0].save(); model.transformer.h[6].output[0][:] = old"
    ),
    "a buffer": (
        "buffer[:] = model.transformer.h[6].output[0] * 2; model.transformer.h[6].output[0][:] = buffer"
    ),
    "some positions": "model.transformer.h[6].output[0][:, 2:] = donor[:, 2:]",
    "the mean of this and the donor": (
        "model.transformer.h[6].output = (model.transformer.h[6].output + donor) / 2"
    ),
    "an mlp": "model.transformer.h[6].mlp.output = other",
}


@pytest.mark.parametrize("way", STEERING)
def test_edits_that_keep_something_of_the_state_are_not_said(demo, way):
    code = STEERING[way].replace("; ", "\n            ")
    _, said = cell(
        f"""
        with model.trace(clean):
            other = model.transformer.h[6].mlp.output.save()
            donor = model.transformer.h[6].output[0].save()
        vector = donor[:, -1] - donor[:, 0]
        buffer = torch.zeros_like(donor)
        with model.trace(corrupted):
            {code}
            logits = model.output
        """,
        demo,
    )
    assert said == []


def test_a_generation_keeps_what_came_before_in_its_cache(demo):
    names, said = cell(
        """
        with model.trace(clean):
            donor = model.transformer.h[6].output[0].save()
        with model.generate(corrupted, max_new_tokens=2) as tracer:
            model.transformer.h[6].output[0][:] = donor
            ids = tracer.result
        """,
        demo,
    )
    assert said == []
    assert [receipt.step for receipt in names["tracer"].edits] == [0]


def test_a_decoders_state_is_not_the_whole_where_an_encoder_speaks():
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(vocab_size=40, d_model=16, d_kv=4, d_ff=16, num_layers=2, num_heads=4)
    model = LanguageModel(T5ForConditionalGeneration(config).eval())
    ids = torch.arange(5)[None]

    def go():
        with model.trace(input_ids=ids, decoder_input_ids=ids + 1):
            donor = model.decoder.block[0].output[0].save()
        with model.trace(input_ids=ids + 2, decoder_input_ids=ids + 3):
            model.decoder.block[0].output[0][:] = donor
            model.output

    assert texts(go) == []


@given(
    layer=st.integers(0, 11),
    positions=st.sets(st.integers(0, 7), min_size=1),
    saved=st.booleans(),
    receipts=st.sampled_from([None, True]),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_is_said_exactly_where_the_rest_equals_the_donors_run(
    demo, plain, layer, positions, saved, receipts
):
    chosen = sorted(positions)
    names, said = cell(
        f"""
        with model.trace(clean):
            donor = model.transformer.h[layer].output[0]{".save()" if saved else ""}
        with model.trace(corrupted, receipts=receipts) as tracer:
            model.transformer.h[layer].output[0][:, chosen] = donor[:, chosen]
            state = model.transformer.h[layer].output[0].clone()
            logits = model.output.logits
        """,
        demo,
        layer=layer,
        chosen=chosen,
        receipts=receipts,
    )
    whole = torch.equal(names["state"], names["donor"])
    nothing = bool(receipts) and torch.equal(names["state"], hooked_state(demo, layer, CORRUPTED))
    assert len(said) == int(whole or nothing)
    assert all("changed nothing" in text if nothing else "replaces the whole" in text for text in said)
    if whole:
        assert torch.equal(names["logits"], plain(CLEAN))


# -- one vector at all positions -------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "model.transformer.h[6].output[0][:] = 0",
        "model.transformer.h[6].output = torch.zeros(1, 8, 64)",
        "model.transformer.h[6].output[0][:] = torch.arange(64.)",
        "model.transformer.h[6].output[:] = one",
    ],
)
def test_the_same_vector_at_all_positions_is_said(demo, plain, code):
    logits = []
    for prompt in (CLEAN, CORRUPTED):
        names, said = cell(
            f"""
            with model.trace("The"):
                one = model.transformer.h[6].output[0].save()
            with model.trace(prompt):
                {code}
                logits = model.output.logits
            """,
            demo,
            prompt=prompt,
        )
        (text,) = said
        assert text.startswith("this edit leaves the same vector at all 8 positions after `transformer.h.6`")
        logits.append(names["logits"])
    assert torch.equal(*logits)


def test_a_mean_over_an_mlp_is_nobodys_business(demo):
    _, said = cell(
        """
        with model.trace(clean):
            model.transformer.h[6].mlp.output[:] = 0
            model.transformer.h[7].mlp.output[:] = torch.ones(64)
            logits = model.output
        """,
        demo,
    )
    assert said == []


# -- a donor from a prompt of another length -------------------------------------------------------


@pytest.mark.parametrize("place", ["1", "4", "1:4", "position"])
def test_a_position_taken_from_a_prompt_of_another_length_is_said(demo, place):
    _, said = cell(
        f"""
        position = 3
        with model.trace(long):
            donor = model.transformer.h[6].output[0].save()
        with model.trace(corrupted):
            model.transformer.h[6].output[0][:, {place}] = donor[:, {place}]
            logits = model.output
        """,
        demo,
        long=LONG,
    )
    other, own = len(demo.to_str_tokens(LONG)), len(demo.to_str_tokens(CORRUPTED))
    assert other != own
    (text,) = said
    where = {"1": "position 1", "4": "position 4", "1:4": "positions 1 to 3", "position": "position 3"}[place]
    assert (
        f"takes {where} from the same place of `donor`, whose prompt has {other} tokens and not {own}" in text
    )


@pytest.mark.parametrize(
    "code",
    [
        "model.transformer.h[6].output[0][:, -1] = donor[:, -1]",
        "model.transformer.h[6].output[0][:, 2] = donor[:, 5]",
        "model.transformer.h[6].output[0][:, 0] = donor[:, 0]",  # both prompts begin with `The`
        "model.transformer.h[6].output[0][:, 1:] += donor.mean(1)",
    ],
)
def test_positions_that_are_chosen_on_each_side_are_not_said(demo, code):
    _, said = cell(
        f"""
        with model.trace(long):
            donor = model.transformer.h[6].output[0].save()
        with model.trace(corrupted):
            {code}
            logits = model.output
        """,
        demo,
        long=LONG,
    )
    assert said == []


def test_an_assigned_donor_that_was_cut_to_fit_is_said(demo):
    _, said = cell(
        """
        with model.trace(long):
            donor = model.transformer.h[6].mlp.output.save()
            state = model.transformer.h[7].output[0].save()
        with model.trace(corrupted) as tracer:
            model.transformer.h[6].mlp.output = donor[:, :8]
            model.transformer.h[7].output = state[:, :8]
            logits = model.output
        """,
        demo,
        long=LONG,
    )
    other = len(demo.to_str_tokens(LONG))
    assert len(said) == 2
    assert (
        f"`transformer.h.6.mlp.output` is the value saved on line 3 cut to fit: its prompt has {other}"
        in said[0]
    )
    assert said[1].startswith("this edit replaces the whole state after `transformer.h.7` by the value saved")
