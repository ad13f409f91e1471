"""What opens beside the notebook: widgets of values and modules, closed with their tabs."""

from __future__ import annotations

import gc
import json
import weakref

import torch

from nbsight.notebook import extension, looking
from tests.notebook.test_sidebar import PROMPT, TRACE, loaded, model, run, section

__all__ = ["loaded", "model"]  # fixtures


def opened(notebook, **what):
    """The reply to `open`, and the widget that it opened."""
    reply = notebook.comm.ask("open", **what)
    assert reply["ok"], reply
    json.dumps(reply)  # JSON knows all of it
    session = extension._loaded[id(notebook)].session
    return reply["result"], session.opened.get(reply["result"].get("view"))


def test_a_saved_value_opens_in_the_inspector(notebook, model):
    run(notebook, TRACE)
    key = next(row["id"] for row in section(notebook, "saved") if row["name"] == "hidden")
    shown, widget = opened(notebook, value=key)
    value = notebook.user_ns["hidden"]
    assert type(widget).__name__ == "InspectorWidget"
    assert shown["data"]["application/vnd.jupyter.widget-view+json"]["model_id"] == shown["view"]
    assert torch.equal(widget.result, value)
    assert widget.header["tokens"] == list(model.tokens(PROMPT).strings)
    assert widget.header["axes"] == ["batch", "position", "d_model"]
    assert widget.to_code() == "value = hidden\nvalue"


def test_a_tab_that_is_closed_lets_go_of_its_value(notebook, model):
    run(notebook, TRACE)
    key = next(row["id"] for row in section(notebook, "saved") if row["name"] == "hidden")
    shown, widget = opened(notebook, value=key)
    assert notebook.comm.ask("close-view", view=shown["view"])["ok"]
    assert widget.comm is None
    assert notebook.comm.ask("close-view", view=shown["view"])["ok"]  # again: nothing to do
    assert notebook.comm.ask("close-view", view=["x"])["ok"]
    value = weakref.ref(notebook.user_ns["hidden"])
    del widget
    run(notebook, "del hidden")
    gc.collect()
    assert value() is None


def test_a_module_opens_with_what_it_gave_for_the_last_prompt(notebook, model):
    key = section(notebook, "models")[0]["id"]
    _, widget = opened(notebook, model=key, path="transformer.h.3.mlp.c_fc")
    weight = model._model.transformer.h[3].mlp.c_fc.weight
    assert widget.header["entries"][0]["path"] == "weight"
    torch.testing.assert_close(widget.result, weight.detach())
    names = dict(notebook.user_ns)
    *code, last = widget.to_code().splitlines()
    exec("\n".join(code), names)
    torch.testing.assert_close(eval(last, names), weight.detach())
    run(notebook, TRACE)
    shown, widget = opened(notebook, model=key, path="transformer.h.3")
    torch.testing.assert_close(widget.result, notebook.user_ns["hidden"])
    assert PROMPT in widget.to_code()
    assert shown["title"] == "transformer.h.3"
    _, widget = opened(notebook, model=key, path="transformer.h.3.attn.attn_dropout")
    assert widget is None  # fused attention never calls it, and it has no weights


def test_what_the_cursor_is_on_opens_the_same_way(notebook, model):
    run(notebook, TRACE)
    _, widget = opened(notebook, expression="hidden")
    assert torch.equal(widget.result, notebook.user_ns["hidden"])
    _, widget = opened(notebook, expression="kept['logits']")
    assert torch.equal(widget.result, notebook.user_ns["kept"]["logits"])
    _, widget = opened(notebook, expression="model.transformer.h[3]")
    torch.testing.assert_close(widget.result, notebook.user_ns["hidden"])
    run(notebook, f"import nbsight\nlens = nbsight.logit_lens(model, {PROMPT!r})")
    _, widget = opened(notebook, expression="lens")
    assert type(widget).__name__ == "LensWidget"


def test_unloading_closes_what_was_opened(notebook, model):
    run(notebook, TRACE)
    _, widget = opened(notebook, expression="hidden")
    extension.unload_ipython_extension(notebook)
    assert widget.comm is None


def test_a_saved_tensor_shows_itself_and_others_stay_text(notebook, model, monkeypatch):
    monkeypatch.setattr("IPython.get_ipython", lambda: notebook)
    run(notebook, TRACE)
    names = notebook.user_ns
    shown = notebook.display_formatter.format
    live = "application/vnd.jupyter.widget-view+json"
    for value in (names["hidden"], {"a": names["hidden"]}):
        data, _ = shown(value)
        assert live in data
        assert data["text/plain"] == notebook.display_formatter.formatters["text/plain"](value)
    for value in (
        names["hidden"] * 1,
        {"a": 1},
        {},
        {"a": names["hidden"], "b": 2},
        names["hidden"][0, 0, :3],
    ):
        assert live not in shown(value)[0]


def test_a_value_without_a_widget_is_summed_up(notebook, model):
    run(notebook, TRACE + "\nimport torch\nodd = hidden.to(torch.complex64)\nempty = hidden[:0]")
    shown, widget = opened(notebook, expression="odd")
    assert widget is None
    text = shown["data"]["text/plain"]
    assert str(tuple(notebook.user_ns["odd"].shape)) in text
    assert opened(notebook, expression="empty")[1] is None


def test_a_name_from_a_prompt_is_text_in_the_summary(notebook, model):
    run(
        notebook,
        f"evil = {{'<script>alert(1)</script>': None}}\nwith model.trace({PROMPT!r}):\n"
        "    evil['<script>alert(1)</script>'] = model.lm_head.output.save()",
    )
    (row,) = [row for row in section(notebook, "saved") if "script" in (row["name"] or "")]
    shown, widget = opened(notebook, value=row["id"])
    assert "text/html" not in shown["data"]
    *code, _ = widget.to_code().splitlines()
    names = dict(notebook.user_ns)
    exec("\n".join(code), names)
    assert names["value"] is names["evil"]["<script>alert(1)</script>"]
    value = row | {"name": "<script>alert(1)</script>"}
    summary, _, _ = looking.bundle_of_value(torch.zeros(2, dtype=torch.complex64), value)
    assert "<script" not in summary["text/html"]
