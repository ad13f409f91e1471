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
from tests.widgets.page import Page
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


@pytest.mark.parametrize("component", ["resid_pre", "attn_out", "mlp_out", "resid_post"])
def test_a_click_opens_the_activation_whose_norm_it_is(model, norms, component):
    widget = NormsWidget(norms)
    page = Page(widget)
    reply, buffers = page.ask("inspect", layer=3, position=2, component=component)
    assert reply["ok"], reply
    header = reply["result"]["header"]
    assert (header["path"], header["model"]) == (f"{component} · layer 3", "nbsight/demo")
    assert [entry["path"] for entry in header["entries"]] == [
        f"{part} · layer 3" for part in norms.components
    ]
    names = {"model": model}
    exec(header["code"], names)
    value = names["value"]
    assert float(value[0, 2].norm()) == pytest.approx(float(norms.of(component)[3, 2]), rel=1e-5)
    assert reply["result"]["selection"] == (0, 2, int(value[0, 2].abs().argmax()))
    count = int(np.prod(header["arrays"]["peak"]["shape"]))
    np.testing.assert_allclose(np.frombuffer(buffers[0], "<f4", count).reshape(8, 64), value[0], atol=1e-5)
    reply, _ = page.ask("inspect", "r2", path="resid_mid · layer 3")
    assert reply["result"]["header"]["path"] == "resid_mid · layer 3"


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"layer": 99, "position": 0, "component": "mlp_out"}, "12 layers and 8 positions"),
        ({"layer": 0, "position": 0, "component": "q"}, "no 'q' here"),
        ({"path": "mlp_out"}, "no activation is open"),
    ],
)
def test_what_is_not_there_is_not_opened(norms, params, said):
    reply, _ = Page(NormsWidget(norms)).ask("inspect", **params)
    assert said in reply["error"]["message"]


def test_norms_without_a_model_say_so():
    widget = NormsWidget(shared_norms())
    assert widget.header["live"] is False
    reply, _ = Page(widget).ask("inspect", layer=0, position=0, component="mlp_out")
    assert "no model to ask" in reply["error"]["message"]
