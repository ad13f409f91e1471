"""The norms widget on the kernel's side: its code gives the numbers on show, its copies hold them."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
import torch
import traitlets

from nbsight.analysis.norms import stream_norms
from nbsight.models.language_model import LanguageModel
from nbsight.widgets.base import STILL_MIME
from nbsight.widgets.norms import NormsWidget
from tests.widgets.shared_norms import FIXTURE, as_json, shared_norms

PROMPT = "The Eiffel Tower is in the city of"


@pytest.fixture(scope="module")
def model():
    return LanguageModel("nbsight/demo", dispatch=True)


@pytest.fixture(scope="module")
def norms(model):
    return stream_norms(model, PROMPT)


@pytest.mark.parametrize("place", [(0, 0), (5, 3), (-1, -1)])
@pytest.mark.parametrize(
    ("what", "component"),
    [("norm", "resid_post"), ("norm", "mlp_out"), ("ratio", "attn_out"), ("cosine", "resid_post")],
)
def test_the_code_gives_the_number_on_show(model, norms, what, component, place):
    widget = NormsWidget(norms, state={"what": what, "component": component})
    widget.selection = place
    *code, last = widget.to_code().splitlines()
    names = {"model": model}
    exec("\n".join(code), names)
    value = eval(last, names)
    kept = {}
    handles = [
        block.register_forward_hook(
            lambda _, args, out, i=i: kept.__setitem__(i, (args[0], out if torch.is_tensor(out) else out[0]))
        )
        for i, block in enumerate(model._model.transformer.h)
    ]
    with torch.no_grad():
        model._model(model.to_tokens(PROMPT))
    for handle in handles:
        handle.remove()
    layer, position = widget.selection
    before, after = (part[0, position] for part in kept[layer])
    if what == "cosine":
        assert float(value) == pytest.approx(float(torch.cosine_similarity(before, after, dim=0)), abs=1e-5)
    elif what == "ratio":
        assert float(value) == pytest.approx(
            float(norms.of("attn_out")[layer, position] / before.norm()), rel=1e-4
        )
    elif component == "resid_post":
        assert float(value) == pytest.approx(float(after.norm()), rel=1e-5)
    else:
        assert float(value) == norms.of(component)[layer, position]


def test_a_place_that_is_not_there_is_named(norms):
    widget = NormsWidget(norms)
    with pytest.raises(traitlets.TraitError, match="12 layers and 8 positions"):
        widget.selection = (12, 0)
    assert widget.to_code().endswith("\nnorms")


def test_the_copies_hold_the_numbers(norms, tmp_path):
    widget = NormsWidget(norms)
    rows = list(csv.DictReader(io.StringIO(widget.to_csv())))
    assert len(rows) == 12 * 8
    assert (rows[0]["layer"], rows[0]["token"]) == ("11", "The")
    assert float(rows[0]["resid_post"]) == pytest.approx(float(norms.of("resid_post")[11, 0]))
    assert widget.to_png(tmp_path / "n.png")[:4] == b"\x89PNG"
    data, _ = widget._repr_mimebundle_()
    assert data[STILL_MIME]["view"] == "norms"
    assert "https://" not in widget.to_html()
    widget.result = shared_norms()
    assert widget.header["model"] == "shared"
    np.testing.assert_array_equal(np.frombuffer(widget.data, "<f4", 60).reshape(5, 3, 4), shared_norms().norm)


def test_the_fixture_of_the_javascript_tests_is_what_python_sends():
    assert FIXTURE.read_text(encoding="utf-8") == as_json(), "python -m tests.widgets.shared_norms writes it"
