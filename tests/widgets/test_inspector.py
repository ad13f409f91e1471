"""The inspector on the kernel's side: tiles on demand, modules traced, code that reads the same number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import traitlets

from nbsight.errors import InputError
from nbsight.models.language_model import LanguageModel
from nbsight.widgets.base import STILL_LIMIT
from nbsight.widgets.inspector import InspectorWidget
from tests.widgets.page import Page
from tests.widgets.shared_inspector import FIXTURE, as_json, shared_inspector, shared_value

PROMPT = "The Eiffel Tower is in"


@pytest.fixture(scope="module")
def model():
    return LanguageModel("nbsight/demo", dispatch=True)


def read(buffer, shape):
    return np.frombuffer(buffer, "<f4").reshape(shape)


def test_a_tile_is_that_part_of_the_tensor():
    value = torch.randn(2, 3, 40, 50, generator=torch.Generator().manual_seed(0))
    page = Page(InspectorWidget(value))
    ask = {"rows": 1, "columns": 3, "at": [1, 0, 7, 0], "height": 10, "width": 100}
    reply, buffers = page.ask("tile", window=[0, 3, 20, 50], **ask)
    assert reply["result"]["size"] == (1, 1)
    np.testing.assert_array_equal(read(buffers[0], reply["result"]["shape"]), value[1, :, 7, 20:50])
    reply, _ = page.ask("tile", "r2", window=[0, 3, 0, 50], **{**ask, "columns": 1})
    assert "two of the axes" in reply["error"]["message"]


def test_a_large_tensor_is_never_sent_whole():
    value = torch.randn(1, 512, 24_576)
    widget = InspectorWidget(value)
    assert value.numel() * 4 > 50e6
    assert len(widget.data) < STILL_LIMIT / 10
    assert len(widget.header) < 30
    reply, buffers = Page(widget).ask(
        "tile", rows=1, columns=2, at=[0, 0, 0], window=[0, 512, 0, 24_576], height=10**6, width=10**6
    )
    assert sum(map(len, buffers)) <= 2 * 4 * 512 * 512
    assert reply["result"]["size"] == (1, 48)


@pytest.mark.parametrize("path", ["transformer.h.3", "transformer.h.3.mlp", "transformer.wte", "lm_head"])
def test_a_module_is_traced_and_the_code_reads_the_same_number(model, path):
    kept = {}
    module = model._model.get_submodule(path)
    handle = module.register_forward_hook(
        lambda _, __, out: kept.__setitem__("out", out if torch.is_tensor(out) else out[0])
    )
    with torch.no_grad():
        model._model(model.to_tokens(PROMPT))
    handle.remove()
    widget = InspectorWidget(model, PROMPT)
    reply, _ = Page(widget).ask("open", path=path)
    assert reply["ok"], reply
    torch.testing.assert_close(widget.result, kept["out"], atol=1e-5, rtol=1e-5)
    assert widget.header["path"] == path
    assert widget.header["axes"][:2] == ["batch", "position"]
    place = (0, 2, 5)
    widget.selection = place
    *code, last = widget.to_code().splitlines()
    names = {"model": model}
    exec("\n".join(code), names)
    assert float(eval(last, names)) == pytest.approx(float(kept["out"][place]), abs=1e-5)


@pytest.mark.parametrize("shape", [(), (6,), (3, 4), (2, 3, 4), (2, 2, 3, 4)])
def test_the_code_of_a_tensor_reads_the_same_number(shape):
    value = torch.randn(shape)
    widget = InspectorWidget({"a 'b'": value})
    widget.selection = tuple(-1 for _ in widget.header["shape"])
    *code, last = widget.to_code().splitlines()
    names = {"activations": {"a 'b'": value}}
    exec("\n".join(code), names)
    assert float(eval(last, names)) == float(value.reshape(-1)[-1])


def test_a_model_lists_its_modules_and_what_is_at_hand(model):
    widget = InspectorWidget(model, PROMPT, path="transformer.h.1.mlp")
    entries = {entry["path"]: entry for entry in widget.header["entries"]}
    assert set(entries) == {path for path, _ in model._model.named_modules() if path}
    assert [path for path, entry in entries.items() if entry["saved"]] == ["transformer.h.1.mlp"]
    assert entries["transformer.wte"]["bytes"] == model._model.transformer.wte.weight.numel() * 4
    assert widget.header["tokens"][1] == " Eiffel"


def test_another_tensor_of_a_dictionary_is_opened():
    widget = shared_inspector()
    widget.state = {"at": [1, 0, 0]}
    Page(widget).ask("open", path="other")
    assert widget.header["shape"] == [1, 6]
    assert widget.state == {"path": "other", "rows": 0, "columns": 1, "at": [0, 0]}
    reply, _ = Page(widget).ask("open", path="nothing")
    assert "there is no 'nothing'" in reply["error"]["message"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({}, "the dictionary is empty"),
        ({"a": "text"}, "`a` is a str"),
        ({"a": torch.zeros(0, 3)}, "`a` is empty"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "`a` is complex"),
    ],
)
def test_what_cannot_be_shown_is_refused(source, said):
    with pytest.raises(InputError, match=said):
        InspectorWidget(source)


def test_a_model_needs_a_prompt_and_a_module_that_is_there(model):
    with pytest.raises(InputError, match="shows its values for a prompt"):
        InspectorWidget(model)
    with pytest.raises(InputError, match=r"no module 'transformer.h.99'"):
        InspectorWidget(model, PROMPT, path="transformer.h.99")


def test_odd_numbers_are_counted_and_copies_made(tmp_path):
    widget = shared_inspector()
    assert widget.header["statistics"]["NaN"] == 1
    widget.state = {"at": [1, 0, 0]}
    rows = widget.to_csv().splitlines()
    assert rows[0] == "position,channel,value"
    assert len(rows) == 1 + 3 * 4
    assert rows[1] == "0,0,89.0"
    assert widget.to_png(tmp_path / "i.png")[:4] == b"\x89PNG"
    assert "NaN 1" in widget.still_text()
    with pytest.raises(traitlets.TraitError, match=r"shape \(2, 3, 4\); there is no \(2, 0, 0\)"):
        widget.selection = (2, 0, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64, torch.bool])
def test_every_dtype_is_shown(dtype):
    widget = InspectorWidget(torch.ones(2, 3).to(dtype))
    assert widget.header["statistics"]["mean"] == 1
    assert widget.header["dtype"] == str(dtype).removeprefix("torch.")


def test_the_fixture_of_the_javascript_tests_is_what_python_sends():
    text = "python -m tests.widgets.shared_inspector writes it"
    assert FIXTURE.read_text(encoding="utf-8") == as_json(), text
    assert shared_value().shape == (2, 3, 4)
