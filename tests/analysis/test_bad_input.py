"""What goes wrong is said on one screen: what was asked, what is there, what to write instead."""

from __future__ import annotations

import pytest
import torch

import nbsight
from nbsight import activation_patching, align, logit_lens, stream_norms
from nbsight.analysis.component_lens import component_lens
from nbsight.analysis.lens import lens_cell
from nbsight.models.language_model import LanguageModel
from tests.models.architectures import AVAILABLE, make

CLEAN, CORRUPTED = "The Eiffel Tower is in the city of", "The Colosseum is in the city of"
TWICE = "Rome is Rome, and Rome is not Paris"


def patch(model, clean=CLEAN, corrupted=CORRUPTED, answers=(" Paris", " Rome"), **options):
    return activation_patching(model, clean, corrupted, answers=answers, progress=False, **options)


def in_trace(model, code):
    with model.trace(CLEAN):
        return code(model)


BAD = {
    "a string that occurs twice": (
        lambda m: m.tokens(TWICE).position("Rome"),
        ["'Rome' occurs 3 times in", "0: position 0", "Write more of the text", "`occurrence=0`"],
    ),
    "a string that never occurs": (
        lambda m: m.tokens(CLEAN).position("louvre"),
        ["'louvre' does not occur in", "Its tokens are The ·Eiffel"],
    ),
    "a string in other letters": (
        lambda m: m.tokens(CLEAN).position("eiffel tower"),
        ["does not occur", "Written 'Eiffel Tower' it does"],
    ),
    "a string that occurs twice, in one prompt of a batch": (
        lambda m: m.tokens([CLEAN, TWICE]).position("is"),
        ["prompt 1: 'is' occurs"],
    ),
    "a string to patch that is in neither prompt": (
        lambda m: patch(m, positions=["Louvre"]),
        ["'Louvre' does not occur in", "Its tokens are"],
    ),
    "a string to patch that occurs twice": (
        lambda m: patch(m, TWICE, TWICE.replace("Paris", "Berlin"), positions={"here": "Rome"}),
        ["'Rome' occurs 3 times in"],
    ),
    "a position outside": (lambda m: m.tokens(CLEAN).position(8), ["has 8 tokens, 0 to 7; there is no 8"]),
    "a position that is no number": (lambda m: m.tokens(CLEAN).positions(1.5), ["not float"]),
    "an answer of several tokens": (
        lambda m: patch(m, answers=(" Colosseum", " Rome")),
        ["' Colosseum' is 2 tokens, not one: ' Colos', 'seum'"],
    ),
    "an answer without its blank": (
        lambda m: m.single_token("Eiffel"),
        ["not one", "With a leading blank it is one: write ' Eiffel'"],
    ),
    "a tracked token of several": (
        lambda m: logit_lens(m, CLEAN, track=[" Colosseum"]),
        ["2 tokens, not one"],
    ),
    "a tracked id that is none": (
        lambda m: logit_lens(m, CLEAN, track=[10**7]),
        ["there is no token 10000000"],
    ),
    "prompts of unequal length to align": (
        lambda m: align(*m.tokens([CLEAN, "Rome is in the city of"])),
        ["8 and 6 tokens", "spans=", 'how="diff"'],
    ),
    "prompts with nothing in common": (
        lambda m: align(*m.tokens([" a", " cat is"]), how="diff"),
        ["no token in common"],
    ),
    "prompts of unequal length to patch": (
        lambda m: patch(m, corrupted="Rome is in the city of"),
        ["prompts of equal length", "8 tokens: 'The' ' Eiffel'", "6 tokens:"],
    ),
    "a layer outside": (lambda m: patch(m, layers=[12]), ["12 layers, 0 to 11; there is no 12"]),
    "a layer of the names outside": (
        lambda m: in_trace(m, lambda m: m.layers[12].resid_post),
        ["`model.layers` has 12 entries, 0 to 11", "`model.layers[-1]`"],
    ),
    "a layer of the lens outside": (
        lambda m: lens_cell(m, CLEAN, 12, 0),
        ["12 layers, 0 to 11; there is no 12"],
    ),
    "a head outside": (lambda m: patch(m, sites=["z"], heads=[4]), ["4 heads, 0 to 3; there is no 4"]),
    "a head of the lens outside": (lambda m: component_lens(m, CLEAN, heads=[4]), ["4 heads, 0 to 3"]),
    "a site that is none": (
        lambda m: patch(m, sites=["resid"]),
        ["there is no site 'resid'; there are resid_pre"],
    ),
    "a name that is none": (
        lambda m: in_trace(m, lambda m: m.std.resid),
        ["the standard names are layers,", "there is no 'resid'"],
    ),
    "several prompts to the lens": (
        lambda m: logit_lens(m, [CLEAN, CORRUPTED]),
        ["reads one prompt and was given 2", "for prompt in prompts"],
    ),
    "several prompts to the norms": (
        lambda m: stream_norms(m, [CLEAN, CORRUPTED]),
        ["norms are of one prompt"],
    ),
}


@pytest.fixture(scope="module")
def demo():
    return LanguageModel("nbsight/demo", dispatch=True)


def on_one_screen(text: str) -> None:
    lines = text.splitlines()
    assert len(lines) <= 20
    assert sum(1 + len(line) // 100 for line in lines) <= 24
    assert "0x" not in text  # no address of an object stands for its name


@pytest.mark.parametrize(("call", "said"), BAD.values(), ids=list(BAD))
def test_bad_input_is_named_on_one_screen(demo, call, said):
    with pytest.raises(nbsight.NbsightError) as caught:
        call(demo)
    text = str(caught.value)
    for part in said:
        assert part in text
    on_one_screen(text)


def added_to(forward):
    """A forward that adds what no name tells of."""

    def longer(*args, **kwargs):
        out = forward(*args, **kwargs)
        return out + 0.5 if isinstance(out, torch.Tensor) else (out[0] + 0.5, *out[1:])

    return longer


def test_an_architecture_that_fails_its_check_is_refused_and_its_own_paths_work():
    module = make(next(one for one in AVAILABLE if one.name == "gpt2"))
    for block in module.transformer.h:
        block.forward = added_to(block.forward)
    model = LanguageModel(module)
    for call in (
        lambda: in_ids(model, lambda: model.layers[0].attn_out),
        lambda: stream_norms(model, [5, 6, 7]),
        lambda: component_lens(model, [5, 6, 7]),
        lambda: activation_patching(
            model, [5, 6, 7], [5, 9, 7], answers=(1, 2), sites=["attn_out"], progress=False
        ),
    ):
        with pytest.raises(nbsight.UnknownArchitectureError) as caught:
            call()
        text = str(caught.value)
        assert "is refused on GPT2LMHeadModel: on random tokens `resid_post = resid_pre + attn_out" in text
        assert "it works as ever" in text
        assert "`nbsight.verify(model)` shows the whole table" in text
        on_one_screen(text)
    table = nbsight.verify(model)
    assert not table.ok
    assert table["attn_out"].status == "refused"
    with model.trace([5, 6, 7]):
        assert model.transformer.h[0].attn.output[0].shape[-1] == 48


def in_ids(model, code):
    with model.trace([5, 6, 7]):
        return code()
