"""Half precision: the names hold, donors in float32 are taken, and numbers that do not fit are refused."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from nbsight.errors import EditError
from nbsight.models.compat import with_dtype
from nbsight.models.language_model import LanguageModel
from nbsight.models.standard import verify
from tests.models.standard_cases import TIER_A, TIER_B, saved
from tests.models.test_standard import IDS, assign, by_hand, names_of, read

TIGHT = {"rtol": 0, "atol": 0}


@pytest.fixture(params=[*TIER_A, *TIER_B], ids=str)
def folder(request, tmp_path_factory):
    return request.param, saved(request.param, tmp_path_factory.mktemp)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_name_holds_in_half_precision_and_takes_donors_in_float32(folder, dtype):
    row, path = folder
    model = LanguageModel(str(path), dtype=dtype)
    full = LanguageModel(str(path), dtype=torch.float32)
    assert verify(model).ok
    plain = AutoModelForCausalLM.from_pretrained(path, **with_dtype({}, dtype)).eval()
    for name in names_of(row):
        with full.trace(IDS.flip(1)):
            donor = read(full, name, 0).clone()
        assert donor.dtype is torch.float32
        with model.trace(IDS):
            assign(model, name, 0, donor)
            kept = read(model, name, 0).clone()
            logits = model.logits.clone()
        assert kept.dtype is dtype
        if row.factor == 1.0:
            torch.testing.assert_close(kept, donor.to(dtype), **TIGHT)
        if name != "resid_mid":  # which plain hooks reach only by a rounded difference
            wanted = by_hand(row, plain, name, 0, lambda value, donor=donor: donor.to(value.dtype))
            close = 0.05 * float(wanted.float().abs().max())
            torch.testing.assert_close(logits, wanted, rtol=0, atol=close)


def test_numbers_that_float16_cannot_hold_are_refused_on_the_line():
    model = LanguageModel("nbsight/demo", dtype=torch.float16)
    large = torch.full((1, 5, 64), 1e5)
    prompt = "The Eiffel Tower is in"
    with pytest.raises(
        EditError, match=r"float16.*65504.*320 of the 320 numbers.*up to 1e\+05.*clamp"
    ) as caught:
        with model.trace(prompt):
            model.layers[3].resid_post = large
    assert "dtype=torch.bfloat16" in str(caught.value)
    with pytest.raises(EditError, match="65504"):
        with model.trace(prompt):
            model.transformer.h[3].output = large
    with model.trace(prompt):
        model.layers[3].resid_post = large.clamp(-6e4, 6e4) * 0
        model.layers[4].resid_post = torch.full((1, 5, 64), float("inf"))  # asked for
        kept = model.layers[4].resid_post.clone()
    assert kept.isinf().all()
    wide = LanguageModel("nbsight/demo", dtype=torch.bfloat16)
    with wide.trace(prompt):
        wide.layers[3].resid_post = large
        logits = wide.logits.clone()
    assert logits.isfinite().all()


def test_a_scan_of_such_an_edit_has_no_numbers_to_look_at():
    model = LanguageModel("nbsight/demo", dtype=torch.float16)
    with model.scan("The Eiffel Tower is in"):
        model.layers[3].resid_post = model.layers[2].resid_post.float() * 1e9
        shape = model.logits.shape
    assert shape[1] == 5
