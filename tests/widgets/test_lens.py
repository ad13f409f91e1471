"""The lens widget on the kernel's side, with the comm as the one thing that is replaced."""

from __future__ import annotations

import base64
import io
import queue
from pathlib import Path

import numpy as np
import pytest
import traitlets

from nbsight.widgets import base
from nbsight.widgets.base import STILL_MIME
from nbsight.widgets.lens import LensWidget
from tests.widgets.shared_lens import answer, shared_lens

ROOT = Path(__file__).parents[2]


class Page:
    """The other end of the comm: asks, and waits for the reply."""

    def __init__(self, widget: LensWidget) -> None:
        self.widget = widget
        self.replies: queue.Queue = queue.Queue()
        widget.send = lambda content, buffers=None: self.replies.put((content, buffers))

    def say(self, message) -> None:
        self.widget._handle_custom_msg(message, [])

    def ask(self, command, request="r1", **params):
        self.say({"kind": "request", "id": request, "command": command, "params": params})
        return self.replies.get(timeout=10)


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
        (answer, "patch", {}, "LookupError", "no command 'patch'; it has: cell"),
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
    assert page.widget._jobs == {}


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


def test_the_code_of_a_lens_names_its_prompt_and_top_k():
    code = LensWidget(shared_lens()).header["code"]
    assert "logit_lens(model, 'The Eiffel Tower\\n', top_k=2)" in code
    compile(code, "cell", "exec")


def test_every_widget_has_a_view_of_the_same_name():
    """A widget is one file here and one folder in js/src/widgets."""
    here = {
        file.stem
        for file in (ROOT / "nbsight" / "widgets").glob("*.py")
        if "(Widget)" in file.read_text(encoding="utf-8")
    }
    there = {folder.name for folder in (ROOT / "js" / "src" / "widgets").iterdir() if folder.is_dir()}
    assert here == there
