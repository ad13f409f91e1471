"""Contrast, components, several lenses and strides of a lens view; every number has a second way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nbsight.analysis.component_lens import component_lens, lens_of_component
from nbsight.analysis.lens import logit_lens
from nbsight.errors import InputError
from nbsight.models.language_model import LanguageModel
from nbsight.widgets.lens import LensWidget
from tests.widgets.page import Page
from tests.widgets.shared_lens import shared_contrast, shared_lens
from tests.widgets.test_lens import decoded

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def model():
    return LanguageModel("nbsight/demo", dispatch=True)


@pytest.fixture(scope="module")
def pair(model):
    return [{"id": model.to_single_token(text), "token": text} for text in (" Paris", " Rome")]


def hooked_logits(model, prompt):
    """Logits of every layer by hooks of plain torch, (layer, position, d_vocab)."""
    plain, kept = model._model, []
    handles = [
        block.register_forward_hook(lambda _, __, out: kept.append(out if torch.is_tensor(out) else out[0]))
        for block in plain.transformer.h
    ]
    with torch.no_grad():
        plain(model.to_tokens(prompt))
        for handle in handles:
            handle.remove()
        return torch.stack([plain.lm_head(plain.transformer.ln_f(one))[0] for one in kept])


def run(code, model, **names):
    names |= {"model": model}
    *lines, last = code.splitlines()
    exec("\n".join(lines), names)
    return eval(last, names), names


def test_a_contrast_is_the_difference_of_two_logits(model):
    lens = logit_lens(model, PROMPT, track=[" Paris", " Rome"])
    logits = hooked_logits(model, PROMPT)
    paris, rome = (model.to_single_token(text) for text in (" Paris", " Rome"))
    np.testing.assert_allclose(
        lens.contrast(" Paris", " Rome"), logits[..., paris] - logits[..., rome], atol=1e-3
    )
    probs = logits.softmax(-1)
    np.testing.assert_allclose(
        lens.contrast(0, 1, what="probability"), probs[..., paris] - probs[..., rome], atol=1e-5
    )


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda lens: lens.contrast(" Paris", " Oslo"), "followed are 0: ' Paris', 1: ' in'"),
        (lambda lens: lens.contrast(" Paris", " in", what="rank"), "differ in logit or probability"),
        (lambda lens: shared_lens().contrast(0, 1), "no tokens were followed"),
    ],
)
def test_a_contrast_that_cannot_be_had_says_why(act, said):
    with pytest.raises(InputError, match=said):
        act(shared_contrast())


@pytest.mark.parametrize("statistic", ["logit_difference", "probability_difference"])
@pytest.mark.parametrize("selection", [None, (-1, 2)])
def test_the_code_of_a_contrast_gives_what_is_on_show(model, pair, statistic, selection):
    widget = LensWidget(logit_lens(model, PROMPT), state={"contrast": pair, "statistic": statistic})
    page = Page(widget)
    reply, _ = page.ask(
        "more", lens="", component="stream", track=[one["id"] for one in pair], statistics=False
    )
    assert reply["ok"], reply
    widget.selection = selection
    shown = decoded(widget)["logits" if statistic.startswith("logit") else "courses"]
    value, _ = run(widget.to_code(), model)
    wanted = shown[..., 0] - shown[..., 1]
    np.testing.assert_allclose(value, wanted if selection is None else wanted[widget.selection], atol=1e-5)


def test_tokens_that_a_lens_was_made_with_need_no_run(model, pair, monkeypatch):
    widget = LensWidget(logit_lens(model, PROMPT, track=[" Paris", " Rome"]))
    assert widget.state["pins"] == pair
    monkeypatch.setattr(type(model), "trace", lambda *_: pytest.fail("the model ran"))
    reply, _ = Page(widget).ask(
        "more", lens="", component="stream", track=[one["id"] for one in pair], statistics=False
    )
    assert reply["ok"], reply
    assert widget.header["followed"] == pair


@pytest.mark.parametrize("component", ["attn_out", "mlp_out", "embed", "head_2"])
def test_a_component_is_read_once_and_its_code_gives_the_same(model, pair, component, monkeypatch):
    widget = LensWidget(logit_lens(model, PROMPT, top_k=4), state={"component": component, "pins": pair[:1]})
    page = Page(widget)
    reply, _ = page.ask("more", lens="", component=component, track=[pair[0]["id"]], statistics=True)
    assert reply["ok"], reply
    assert widget.header["component"] == component
    is_head = component.startswith("head")
    parts = {"components": [], "heads": [2]} if is_head else {"components": [component]}
    whole = component_lens(model, PROMPT, top_k=4, track=[" Paris"], **parts).of(component)
    np.testing.assert_array_equal(widget.result.top_ids, whole.top_ids)
    arrays = decoded(widget)
    np.testing.assert_allclose(arrays["kl"], whole.kl, atol=1e-5)
    np.testing.assert_allclose(arrays["courses"], whole.track_probs, atol=1e-6)
    widget.selection = (-1, -1)
    cell, names = run(widget.to_code(), model)
    np.testing.assert_array_equal(cell.ids, whole.top_ids[-1, -1])
    np.testing.assert_allclose(names["lens"].track_probs, whole.track_probs, atol=1e-6)
    reply, buffers = page.ask("cell", "r2", layer=0, position=1, top_k=7)
    assert len(reply["result"]["tokens"]) == 7
    np.testing.assert_allclose(np.frombuffer(buffers[0], "<f4")[:4], whole.top_probs[0, 1], atol=1e-6)
    for again in ("stream", component):
        with monkeypatch.context() as patched:
            patched.setattr(type(model), "trace", lambda *_: pytest.fail("the model ran"))
            reply, _ = page.ask("more", again, lens="", component=again, track=[], statistics=False)
        assert reply["ok"], reply


def test_a_component_that_a_model_has_not_is_said_and_nothing_moves(model):
    widget = LensWidget(logit_lens(model, PROMPT))
    before = dict(widget.header)
    reply, _ = Page(widget).ask("more", lens="", component="head_99", track=[], statistics=False)
    assert "there is no 99" in reply["error"]["message"]
    assert widget.header == before


def test_the_parts_of_a_component_lens_are_shown_without_a_model(model):
    parts = component_lens(model, PROMPT, heads=[1], positions=[2, 4], top_k=3)
    widget = LensWidget(parts)
    assert widget.header["component"] == "resid_post"
    assert widget.header["components"] == list(parts.components)
    reply, _ = Page(widget).ask("more", lens="", component="head_1", track=[], statistics=False)
    assert reply["ok"], reply
    np.testing.assert_array_equal(widget.result.top_ids, parts.of("head_1").top_ids)
    widget.state = {"component": "head_1"}
    widget.selection = (3, 1)
    cell, _ = run(widget.to_code(), model)
    np.testing.assert_array_equal(cell.ids, parts.of("head_1").top_ids[3, 1])


def test_several_lenses_are_chosen_by_name(model, pair):
    first = logit_lens(model, PROMPT)
    other = lens_of_component(model, PROMPT, "resid_mid")
    lenses = {"logit lens": first, "before the MLP": other}
    widget = LensWidget(lenses)
    assert widget.header["lenses"] == list(lenses)
    assert widget.header["editable"] is False
    ids = [one["id"] for one in pair]
    reply, _ = Page(widget).ask(
        "more", lens="before the MLP", component="stream", track=ids, statistics=False
    )
    assert reply["ok"], reply
    np.testing.assert_array_equal(widget.result.top_ids, other.top_ids)
    widget.state = {"lens": "before the MLP", "contrast": pair, "statistic": "logit_difference"}
    value, _ = run(widget.to_code(), model, lenses=lenses)
    shown = decoded(widget)["logits"]
    np.testing.assert_allclose(value, shown[..., 0] - shown[..., 1], atol=1e-5)
    with pytest.raises(InputError, match="of one prompt"):
        LensWidget({"a": first, "b": logit_lens(model, "Something else")})
    with pytest.raises(InputError, match="dictionary is empty"):
        LensWidget({})
    with pytest.raises(InputError, match="this is a list"):
        LensWidget([first])


@pytest.mark.parametrize(
    ("text", "token"), [(" Paris", " Paris"), ("Paris", "Paris"), ("capital", " capital")]
)
def test_a_token_is_found_by_its_text(model, text, token):
    reply, _ = Page(LensWidget(logit_lens(model, PROMPT))).ask("token", text=text)
    assert reply["result"] == {"id": model.to_single_token(token), "token": token}


def test_what_is_no_token_is_said_as_it_was_typed(model):
    reply, _ = Page(LensWidget(logit_lens(model, PROMPT))).ask("token", text="Paris Rome")
    assert reply["error"]["type"] == "InputError"
    assert "'Paris Rome'" in reply["error"]["message"]


def test_a_click_opens_the_stream_that_a_cell_reads(model):
    page = Page(LensWidget(logit_lens(model, PROMPT)))
    reply, buffers = page.ask("inspect", layer=3, position=2)
    assert reply["ok"], reply
    result = reply["result"]
    assert result["header"]["path"] == "transformer.h.3"
    with model.trace(PROMPT):
        wanted = model.transformer.h[3].output[0].save()
    assert result["selection"] == (0, 2, int(wanted[0, 2].abs().argmax()))
    assert buffers
    *code, _ = f"{result['header']['code']}\nvalue".splitlines()
    names = {"model": model}
    exec("\n".join(code), names)
    torch.testing.assert_close(names["value"], wanted)
    ask = {"rows": 1, "columns": 2, "at": [0, 0, 0], "height": 96, "width": 192}
    reply, tile = page.ask("inspect:tile", "r2", window=[0, 5, 0, 64], **ask)
    np.testing.assert_allclose(np.frombuffer(tile[0], "<f4").reshape(5, 64), wanted[0], atol=1e-5)
    reply, _ = page.ask("inspect", "r3", path="transformer.h.3.mlp")
    assert reply["result"]["header"]["path"] == "transformer.h.3.mlp"
    reply, html = page.ask("inspect:html", "r4")
    assert b"transformer.h.3.mlp" in html[0]


def test_a_picture_has_the_rows_that_are_shown(model):
    widget = LensWidget(logit_lens(model, PROMPT), state={"stride": 5})
    labels = [text.get_text() for text in widget.figure().axes[0].get_yticklabels()]
    assert sorted(labels, key=int) == ["0", "5", "10", "11"]
