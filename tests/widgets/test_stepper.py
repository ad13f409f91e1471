"""The stepper on the kernel's side: a run held open on the worker, changed, gone back with, and as code."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from nbsight.analysis.lens import logit_lens
from nbsight.models.language_model import LanguageModel
from nbsight.widgets.stepper import StepperWidget
from tests.widgets.page import Page
from tests.widgets.shared_stepper import FIXTURE, as_json

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def model():
    return LanguageModel("nbsight/demo", dispatch=True)


@pytest.fixture
def page(model):
    page = Page(StepperWidget(model, PROMPT))
    yield page
    page.widget.close()


def ask(page, command, **params):
    reply, _ = page.ask(command, **params)
    assert reply["ok"], reply
    return page.widget.header


def hooked(model, changes):
    """The last logits with blocks' outputs multiplied, by plain hooks; (block, positions, factor) each."""

    def change(positions, factor):
        def hook(_, __, out):
            (out if isinstance(out, torch.Tensor) else out[0])[:, positions] *= factor

        return hook

    blocks = model._model.transformer.h
    handles = [blocks[block].register_forward_hook(change(*rest)) for block, *rest in changes]
    with torch.no_grad():
        logits = model._model(model.to_tokens(PROMPT)).logits[:, -1]
    for handle in handles:
        handle.remove()
    return logits


def test_a_run_goes_block_by_block_and_shows_what_each_would_say(model, page):
    assert ask(page, "step")["at"]["path"] == "transformer.h.0.output"
    header = ask(page, "until", block=7)
    assert header["at"]["block"] == 7
    lens = logit_lens(model, PROMPT)
    assert header["words"][7] == list(lens.top_tokens[7, :, 0])
    assert header["words"][3] == [""] * 5  # passed without a stop
    probs = np.frombuffer(page.widget.data, "<f4", 60, header["arrays"]["probs"]["offset"]).reshape(12, 5)
    np.testing.assert_allclose(probs[[0, 7]], lens.top_probs[[0, 7], :, 0], atol=1e-5)
    assert np.isnan(probs[3]).all()
    assert ask(page, "step", into=True)["at"]["path"].startswith("transformer.h.8.")


def test_a_change_acts_on_the_rest_of_the_run(model, page):
    ask(page, "until", block=4)
    ask(page, "edit", positions=[3, 1], factor=0.0)
    ask(page, "until", block=8)
    ask(page, "edit", positions=[4], factor=-2.0)
    header = ask(page, "finish")
    assert header["ended"] is True
    expected = hooked(model, [(4, [1, 3], 0.0), (8, [4], -2.0)])
    torch.testing.assert_close(page.widget.result.logits[:, -1], expected, atol=1e-4, rtol=1e-4)
    probs = header["tops"]["probs"]
    np.testing.assert_allclose(probs["this run"], expected[0].softmax(-1)[header["tops"]["ids"]], atol=1e-5)
    np.testing.assert_allclose(
        probs["plain"], hooked(model, [])[0].softmax(-1)[header["tops"]["ids"]], atol=1e-5
    )
    assert header["actions"] == [
        "run to transformer.h.4.output",
        "multiply positions 1, 3 by 0",
        "run to transformer.h.8.output",
        "multiply position 4 by -2",
        "finish",
    ]


@pytest.mark.parametrize(
    "steps",
    [
        [("until", {"block": 4}), ("edit", {"positions": [1, 3], "factor": 0.0}), ("finish", {})],
        [("step", {}), ("step", {"into": True}), ("edit", {"positions": [2], "factor": 3.0}), ("finish", {})],
        [
            ("until", {"block": 2}),
            *[("step", {"into": True})] * 3,
            ("edit", {"positions": [4], "factor": 0.5}),
            ("finish", {}),
        ],
    ],
)
def test_the_code_of_a_run_gives_the_same_numbers(model, page, steps):
    for command, params in steps:
        ask(page, command, **params)
    names = {"model": model}
    exec(page.widget.to_code(), names)
    torch.testing.assert_close(names["output"].logits, page.widget.result.logits, atol=1e-5, rtol=1e-5)
    plain = hooked(model, [])
    assert not torch.allclose(names["output"].logits[:, -1], plain, atol=1e-3)


def test_the_code_of_an_open_run_stands_where_it_stands(model, page, capsys):
    ask(page, "until", block=3)
    names = {"model": model}
    exec(page.widget.to_code(), names)
    assert names["run"].here.path == "transformer.h.3"
    assert "block 4 of 12" in capsys.readouterr().out
    names["run"].close()


def test_going_back_takes_the_last_thing_back(model, page):
    ask(page, "until", block=4)
    ask(page, "edit", positions=[1], factor=0.0)
    ask(page, "finish")
    header = ask(page, "back")
    assert (header["ended"], header["at"]["path"]) == (False, "transformer.h.4.output")
    header = ask(page, "back")
    assert header["actions"] == ["run to transformer.h.4.output"]
    ask(page, "finish")
    torch.testing.assert_close(page.widget.result.logits[:, -1], hooked(model, []), atol=1e-4, rtol=1e-4)
    assert ask(page, "back", all=True)["actions"] == []


def test_what_cannot_be_done_is_said_and_the_run_stays(page):
    for command, params, said in [
        ("edit", {"positions": [1], "factor": 0}, "has not begun"),
        ("edit", {"positions": [], "factor": 0}, "no position is chosen"),
    ]:
        reply, _ = page.ask(command, **params)
        assert said in reply["error"]["message"]
    ask(page, "until", block=5)
    reply, _ = page.ask("until", block=2)
    assert reply["ok"] is False
    assert page.widget.header["at"]["block"] == 5
    ask(page, "finish")
    reply, _ = page.ask("step")
    assert "has ended" in reply["error"]["message"]


def test_cells_use_the_model_while_the_run_waits(model, page):
    ask(page, "until", block=6)
    with model.trace(PROMPT):
        model.transformer.h[6].output[0][:, -1] *= 2
        model.transformer.h[7].output.save()
    assert threading.current_thread() is threading.main_thread()
    ask(page, "finish")
    torch.testing.assert_close(page.widget.result.logits[:, -1], hooked(model, []), atol=1e-4, rtol=1e-4)


def test_copies_hold_what_was_seen(page, tmp_path):
    ask(page, "until", block=6)
    rows = page.widget.to_csv().splitlines()
    assert len(rows) == 1 + 5
    assert rows[1].startswith("6,0,The,")
    assert page.widget.to_png(tmp_path / "s.png")[:4] == b"\x89PNG"
    assert "block 7 of 12" in page.widget.still_text()
    page.widget.selection = (-1, -1)
    assert page.widget.selection == (11, 4)


def test_the_fixture_of_the_javascript_tests_is_what_python_sends():
    assert FIXTURE.read_text(encoding="utf-8") == as_json(), (
        "python -m tests.widgets.shared_stepper writes it"
    )
