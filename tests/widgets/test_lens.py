"""The lens widget on the kernel's side, with the comm as the one thing that is replaced."""

from __future__ import annotations

import base64
import csv
import importlib
import io
import re
from pathlib import Path

import anywidget
import numpy as np
import pytest
import traitlets

from nbsight.analysis.lens import logit_lens
from nbsight.models.language_model import LanguageModel
from nbsight.widgets import base
from nbsight.widgets.base import STILL_MIME
from nbsight.widgets.lens import LensWidget
from tests.widgets.page import Page
from tests.widgets.shared_lens import answer, shared_lens

ROOT = Path(__file__).parents[2]


def test_a_cell_is_answered_with_what_the_model_says():
    page = Page(LensWidget(shared_lens(), detail=answer))
    content, buffers = page.ask("cell", layer=2, position=1, top_k=4)
    assert content == {
        "kind": "reply",
        "id": "r1",
        "ok": True,
        "result": {"tokens": [" 2.1.0", " 2.1.1", " 2.1.2", " 2.1.3"], "ids": [0, 1, 2, 3]},
    }
    np.testing.assert_allclose(np.frombuffer(buffers[0], "<f4"), [1 / 2, 1 / 3, 1 / 4, 1 / 5])


def test_the_lens_brings_its_own_detail():
    page = Page(LensWidget(shared_lens(detail=answer)))
    assert page.widget.header["live"] is True
    assert page.ask("cell", layer=0, position=0, top_k=1)[0]["result"]["tokens"] == [" 0.0.0"]


def fail(layer, position, top_k):
    raise RuntimeError("out of memory, for instance")


@pytest.mark.parametrize(
    ("detail", "command", "params", "kind", "said"),
    [
        (fail, "cell", {"layer": 0, "position": 0, "top_k": 3}, "RuntimeError", "out of memory"),
        (
            answer,
            "cell",
            {"layer": 9, "position": 0, "top_k": 3},
            "IndexError",
            "3 layers, 0 to 2; there is no 9",
        ),
        (answer, "cell", {"layer": 0}, "KeyError", "position"),
        (answer, "patch", {}, "LookupError", "no command 'patch' here; there are: cell, html, inspect"),
        (None, "cell", {"layer": 0, "position": 0, "top_k": 3}, "LookupError", "no model to ask"),
    ],
)
def test_what_goes_wrong_is_replied(detail, command, params, kind, said):
    content, _ = Page(LensWidget(shared_lens(), detail=detail)).ask(command, **params)
    assert content["ok"] is False
    assert content["error"]["type"] == kind
    assert said in content["error"]["message"]
    assert kind in content["error"]["traceback"]


def test_after_an_error_the_next_question_is_answered():
    calls = iter([fail, answer])
    page = Page(LensWidget(shared_lens(), detail=lambda *place: next(calls)(*place)))
    assert page.ask("cell", layer=0, position=0, top_k=1)[0]["ok"] is False
    assert page.ask("cell", "r2", layer=0, position=0, top_k=1)[0]["ok"] is True


def test_a_question_taken_back_is_not_answered():
    import threading

    gate = threading.Event()

    def slow(*place):
        gate.wait(10)
        return answer(*place)

    page = Page(LensWidget(shared_lens(), detail=slow))
    for request in ("a", "b"):
        cell = {"layer": 0, "position": 0, "top_k": 1}
        page.say({"kind": "request", "id": request, "command": "cell", "params": cell})
    page.say({"kind": "cancel", "id": "a"})
    gate.set()
    assert page.replies.get(timeout=10)[0]["id"] == "b"
    assert page.replies.empty()
    assert page.widget._desk.jobs == {}


def test_messages_of_others_are_left_alone():
    page = Page(LensWidget(shared_lens(), detail=answer))
    for message in ("text", {}, {"id": "x", "kind": "anywidget-command"}, {"kind": "cancel", "id": "none"}):
        page.say(message)
    assert page.ask("cell", layer=0, position=0, top_k=1)[0]["ok"] is True


def test_a_selection_is_a_place_counted_from_zero_or_none():
    widget = LensWidget(shared_lens())
    assert widget.selection is None
    widget.selection = (-1, -4)
    assert widget.selection == (2, 0)
    widget.set_state({"selection": [1, 3]})  # as it comes from the page
    assert widget.selection == (1, 3)
    widget.set_state({"selection": None})
    assert widget.selection is None
    with pytest.raises(traitlets.TraitError, match="4 positions, 0 to 3; there is no 4"):
        widget.selection = (0, 4)


def test_another_result_replaces_the_first():
    widget = LensWidget(shared_lens(), detail=answer)
    widget.selection = (1, 1)
    other = shared_lens()
    object.__setattr__(other, "model", "other")
    widget.result = other
    assert widget.result is other
    assert widget.header["model"] == "other"
    assert widget.header["live"] is False
    assert widget.selection is None


def test_a_notebook_keeps_the_view_its_data_a_picture_and_text():
    from PIL import Image

    widget = LensWidget(shared_lens(), detail=answer)
    data, _ = widget._repr_mimebundle_()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == widget.model_id
    assert data[STILL_MIME]["header"] == {**widget.header, "live": False}
    assert base64.b64decode(data[STILL_MIME]["data"]) == widget.data
    picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert picture.width > picture.height > 100
    assert data["text/plain"] == repr(shared_lens())
    assert "text/html" not in data  # it would be taken before the picture and lose its colours


def test_a_very_large_lens_is_kept_as_its_picture_only(monkeypatch):
    monkeypatch.setattr(base, "STILL_LIMIT", 10)
    data, _ = LensWidget(shared_lens())._repr_mimebundle_()
    assert data[STILL_MIME] == {"view": "lens"}
    assert data["image/png"]


def test_without_the_built_page_the_widget_says_how_to_build_it(monkeypatch, tmp_path):
    monkeypatch.setattr(base, "STATIC", tmp_path)
    widget = LensWidget(shared_lens())
    assert "python3 dev.py install" in widget._esm
    assert widget._esm.startswith("export default")


def test_the_page_of_its_own_holds_the_data_and_cannot_be_broken_out_of():
    lens = shared_lens()
    object.__setattr__(lens, "prompt", "</script><script>alert(1)</script>")
    page = LensWidget(lens).to_html()
    assert page.count("</script>") == 2
    assert "http://" not in page
    assert "https://" not in page
    assert base64.b64encode(LensWidget(lens).data).decode() in page


@pytest.fixture(scope="module")
def model():
    return LanguageModel("nbsight/demo", dispatch=True)


def test_the_code_of_a_lens_names_its_prompt_and_top_k():
    code = LensWidget(shared_lens()).to_code()
    assert "logit_lens(model, 'The Eiffel Tower\\n', top_k=2)" in code
    compile(code, "cell", "exec")


@pytest.mark.parametrize("statistic", ["top", "entropy", "kl"])
@pytest.mark.parametrize("prompt", ["The capital of France is", "costs $more \\ 'it' is", 'a\n"b" $0'])
def test_the_code_of_a_lens_gives_the_same_numbers(model, prompt, statistic):
    lens = logit_lens(model, prompt, top_k=3)
    paris = model.to_single_token(" Paris")
    widget = LensWidget(lens, state={"statistic": statistic, "pins": [{"id": paris, "token": " Paris"}]})
    widget.selection = (-1, -1)
    reply, _ = Page(widget).ask("more", track=[paris], statistics=statistic != "top")
    assert reply["ok"], reply
    names = {"model": model}
    *code, last = widget.to_code().splitlines()
    exec("\n".join(code), names)
    again, cell = names["lens"], eval(last, names)
    np.testing.assert_array_equal(again.top_ids, lens.top_ids)
    np.testing.assert_allclose(again.top_probs, lens.top_probs, atol=1e-6)
    np.testing.assert_array_equal(cell.ids, lens.top_ids[-1, -1])
    arrays = decoded(widget)
    np.testing.assert_allclose(arrays["courses"], again.track_probs, atol=1e-6)
    np.testing.assert_array_equal(arrays["ranks"], again.track_ranks)
    if statistic != "top":
        np.testing.assert_allclose(arrays[statistic], getattr(again, statistic), atol=1e-4)


def decoded(widget):
    return {
        name: np.frombuffer(
            widget.data, place["dtype"], int(np.prod(place["shape"])), place["offset"]
        ).reshape(place["shape"])
        for name, place in widget.header["arrays"].items()
    }


def test_the_check_of_the_last_row_is_on_show(model):
    lens = logit_lens(model, "The capital of France is")
    assert LensWidget(lens).header["check"] == lens.check < 1e-4


def test_statistics_once_asked_for_stay_when_tokens_are_followed(model):
    widget = LensWidget(logit_lens(model, "The capital of France is"))
    page = Page(widget)
    page.ask("more", track=[], statistics=True)
    page.ask("more", "r2", track=[1, 2], statistics=False)
    assert {"entropy", "kl", "courses", "ranks"} <= set(widget.header["arrays"])
    assert [pin["id"] for pin in widget.header["followed"]] == [1, 2]


def test_another_prompt_is_read_and_a_bad_one_leaves_the_first(model):
    widget = LensWidget(logit_lens(model, "The capital of France is", top_k=3))
    widget.selection = (0, 0)
    page = Page(widget)
    assert page.ask("prompts", prompt="")[0]["ok"] is False
    assert widget.result.prompt == "The capital of France is"
    assert page.ask("prompts", "r2", prompt="The capital of Italy is")[0]["ok"] is True
    expected = logit_lens(model, "The capital of Italy is", top_k=3)
    np.testing.assert_array_equal(widget.result.top_ids, expected.top_ids)
    assert widget.selection is None
    assert "Italy" in widget.to_code()
    assert Page(LensWidget(shared_lens())).ask("prompts", prompt="x")[0]["error"]["type"] == "LookupError"


def test_a_lens_in_a_table_has_every_number():
    text = LensWidget(shared_lens()).to_csv()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 3 * 4 * 2
    assert (rows[0]["layer"], rows[0]["prediction"]) == ("2", " is")
    assert float(rows[0]["probability"]) == pytest.approx(0.7)


WIDGETS = {
    file.stem: file
    for file in (ROOT / "nbsight" / "widgets").glob("*.py")
    if "(Widget)" in file.read_text(encoding="utf-8")
}


def test_every_widget_has_a_view_of_the_same_name():
    """A widget is one file here and one folder in js/src/widgets."""
    there = {folder.name for folder in (ROOT / "js" / "src" / "widgets").iterdir() if folder.is_dir()}
    assert set(WIDGETS) == there
    kept = (ROOT / "js" / "src" / "widgets" / "views.ts").read_text(encoding="utf-8")
    assert set(re.findall(r"^  (\w+): kept", kept, re.M)) == there


def fields_of(file, interface):
    text = (ROOT / "js" / "src" / file).read_text(encoding="utf-8")
    body = re.search(rf"export interface {interface}\b[^{{]*\{{(.*?)^\}}", text, re.S | re.M)[1]
    return set(re.findall(r"^  (\w+)\??:", body, re.M))


def test_python_and_typescript_agree_on_the_traits():
    common = set(base.Widget.class_trait_names(sync=True)) - set(anywidget.AnyWidget.class_trait_names())
    assert fields_of("shared/mount.ts", "Traits") == {name for name in common if not name.startswith("_")}


@pytest.mark.parametrize("name", sorted(WIDGETS))
def test_python_and_typescript_agree_on_the_state(name):
    classes = vars(importlib.import_module(f"nbsight.widgets.{name}")).values()
    widget = next(one for one in classes if isinstance(one, type) and getattr(one, "view", "") == name)
    assert fields_of(f"widgets/{name}/types.ts", "State") == set(widget.defaults)
