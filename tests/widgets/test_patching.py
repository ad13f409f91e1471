"""The patching widget on the kernel's side: what it runs, says, and writes as code, against plain hooks."""

from __future__ import annotations

import csv
import io
import json
import threading

import numpy as np
import pytest
import torch
import traitlets

from nbsight.analysis.metrics import logit_difference
from nbsight.analysis.patch_runs import Patch, PatchRuns
from nbsight.analysis.patching import activation_patching
from nbsight.core import jobs
from nbsight.errors import InputError
from nbsight.models.language_model import LanguageModel
from nbsight.widgets.base import STILL_MIME
from nbsight.widgets.patching import PatchingWidget
from nbsight.widgets.worker import Job as Request
from nbsight.widgets.worker import worker_for
from tests.widgets.page import Page
from tests.widgets.shared_patching import FIXTURE, as_json, shared_result

CLEAN, CORRUPTED = "The Eiffel Tower is in the city of", "The Colosseum is in the city of"
ANSWERS = (" Paris", " Rome")


@pytest.fixture(scope="module")
def model():
    return LanguageModel("nbsight/demo", dispatch=True)


@pytest.fixture
def widget(model):
    return PatchingWidget(model, CLEAN, CORRUPTED, answers=ANSWERS)


def hooked(model, base, donor, patches):
    """The last logits with blocks' outputs patched, by plain hooks; (layer, source, target) each."""
    kept, handles = {}, []
    module = model._model

    def keep(layer):
        def hook(_, __, out):
            kept[layer] = (out if isinstance(out, torch.Tensor) else out[0]).clone()

        return hook

    def put(layer, source, target):
        def hook(_, __, out):
            (out if isinstance(out, torch.Tensor) else out[0])[0, target] = kept[layer][0, source]

        return hook

    with torch.no_grad():
        for layer, block in enumerate(module.transformer.h):
            handles.append(block.register_forward_hook(keep(layer)))
        module(model.to_tokens(donor))
        for handle in handles:
            handle.remove()
        handles = [
            module.transformer.h[layer].register_forward_hook(put(layer, *places))
            for layer, *places in patches
        ]
        logits = module(model.to_tokens(base)).logits[:, -1]
        for handle in handles:
            handle.remove()
    return logits


def as_patches(places, site="resid_post"):
    return [
        {"layer": layer, "site": site, "source": source, "target": target} for layer, source, target in places
    ]


@pytest.mark.parametrize(
    "places", [[(3, 1, 1)], [(3, 1, 2), (8, 7, 7)], [(8, 7, 7), (3, 1, 2)], [(11, 0, 7)]]
)
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_a_patched_run_is_what_hooks_give(model, widget, places, direction):
    base, donor = (CORRUPTED, CLEAN) if direction == "denoise" else (CLEAN, CORRUPTED)
    expected = hooked(model, base, donor, places)
    reply, _ = Page(widget).ask(
        "patch", patches=as_patches(places), direction=direction, metric="logit_difference"
    )
    said = reply["result"]
    measure = logit_difference(model, *ANSWERS)
    assert said["value"] == pytest.approx(float(measure(expected)[0]), abs=2e-4)
    probs = expected[0].softmax(-1)[said["ids"]]
    np.testing.assert_allclose(said["probs"]["patched"], probs, atol=1e-5)
    assert said["tokens"] == [model.to_string(token) for token in said["ids"]]
    json.dumps(reply)


@pytest.mark.parametrize("metric", ["logit_difference", "probability", "kl"])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize(
    ("site", "places"),
    [
        ("resid_post", [(3, 1, 1)]),
        ("resid_pre", [(5, 1, 2), (2, 2, 2)]),
        ("z", [(6, 7, 7)]),
        ("attn_out", [(4, 1, 1)]),
        ("resid_mid", [(4, 1, 1), (4, 2, 2)]),
        ("mlp_out", [(0, 1, 1)]),
    ],
)
def test_the_code_of_a_patched_run_gives_the_same_numbers(model, widget, site, places, direction, metric):
    patches = as_patches(places, site)
    reply, _ = Page(widget).ask("patch", patches=patches, direction=direction, metric=metric)
    widget.state = {"patches": patches, "direction": direction, "metric": metric, "site": site}
    code = widget.to_code()
    assert code == reply["result"]["code"]
    names = {"model": model}
    exec(code, names)
    assert names["measured"] == pytest.approx(reply["result"]["value"], abs=2e-4)


@pytest.mark.parametrize("metric", ["logit_difference", "probability", "kl"])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_the_code_of_a_sweep_gives_the_same_numbers(model, widget, direction, metric):
    widget.state = {"direction": direction, "metric": metric, "site": "attn_out"}
    reply, buffers = Page(widget).ask("sweep", site="attn_out", direction=direction, metric=metric)
    assert reply["result"]["done"] == 96
    names = {"model": model}
    exec(widget.to_code(), names)
    np.testing.assert_allclose(names["patching"].values, widget.result.values, atol=1e-4)
    table = np.frombuffer(buffers[0], "<f4").reshape(12, 8)
    np.testing.assert_allclose(table, widget.result.values[0, 0], atol=1e-4)


def test_a_cell_of_the_map_is_the_single_run(model, widget):
    page = Page(widget)
    page.ask("sweep", site="resid_post", direction="denoise", metric="logit_difference")
    for layer, position in ((0, 1), (5, 2), (11, 7)):
        reply, _ = page.ask(
            "patch",
            patches=as_patches([(layer, position, position)]),
            direction="denoise",
            metric="logit_difference",
        )
        assert reply["result"]["value"] == pytest.approx(
            widget.result.values[0, 0, layer, position], abs=2e-4
        )
        assert reply["result"]["share"] == pytest.approx(
            widget.result.recovered[0, 0, layer, position], abs=2e-4
        )


def test_a_sweep_tells_what_it_knows_stops_and_goes_on(widget, monkeypatch):
    monkeypatch.setattr("nbsight.widgets.desk.PAUSE", 0)
    monkeypatch.setattr(PatchingWidget, "_batch", lambda self, site: 10)
    page = Page(widget)
    ask = {"site": "resid_post", "direction": "denoise", "metric": "logit_difference"}
    first = threading.Event()
    get = page._get

    def stop_after_the_first(content, buffers=None):
        get(content, buffers)
        if content["kind"] == "progress" and not first.is_set():
            page.say({"kind": "cancel", "id": "s"})
            first.set()

    widget.send = stop_after_the_first
    page.say({"kind": "request", "id": "s", "command": "sweep", "params": ask})
    assert first.wait(30)
    reply, _ = page.ask(
        "patch", "after", patches=[], direction="denoise", metric="kl"
    )  # behind it in the queue
    assert reply["id"] == "after"
    done = int(np.isfinite(widget.result.values).sum())
    assert 10 <= done < 96
    assert not widget.result.is_complete
    reply, _ = page.ask("sweep", "again", **ask)
    assert reply["result"]["done"] == 96
    counts = [content["result"]["done"] for content, _ in page.progress]
    assert counts == sorted(set(counts))  # nothing was run twice
    full = activation_patching(widget._model, CLEAN, CORRUPTED, answers=ANSWERS)
    np.testing.assert_allclose(widget.result.values, full.values, atol=1e-4)


def test_a_single_patch_has_its_turn_while_a_sweep_runs(widget, monkeypatch):
    monkeypatch.setattr(PatchingWidget, "_batch", lambda self, site: 1)
    page = Page(widget)
    ask = {"site": "resid_post", "direction": "denoise", "metric": "logit_difference"}
    page.say({"kind": "request", "id": "sweep", "command": "sweep", "params": ask})
    reply, _ = page.ask("patch", "one", patches=as_patches([(3, 1, 1)]), direction="denoise", metric="kl")
    assert reply["id"] == "one"
    assert page.replies.get(timeout=60)[0]["id"] == "sweep"


def test_what_a_reader_must_know_is_said(widget):
    page = Page(widget)

    def badges(patches):
        reply, _ = page.ask("patch", patches=patches, direction="denoise", metric="logit_difference")
        return " ".join(reply["result"]["badges"])

    assert "by construction" in badges(as_patches([(4, p, p) for p in range(8)]))
    assert "Nothing changed" in badges(as_patches([(4, 0, 0)]))
    assert "another position" in badges(as_patches([(4, 1, 2)]))
    assert badges(as_patches([(4, 1, 1)])) == ""


def test_other_prompts_replace_the_first_and_bad_ones_leave_them(widget):
    page = Page(widget)
    page.ask("sweep", site="resid_post", direction="denoise", metric="kl")
    reply, _ = page.ask("prompts", clean="", corrupted=CORRUPTED)
    assert reply["ok"] is False
    assert widget.header["clean"]["prompt"] == CLEAN
    reply, _ = page.ask("prompts", clean="The capital of France is", corrupted="The capital of Italy is")
    assert reply["ok"] is True
    assert widget.header["clean"]["tokens"] == ["The", " capital", " of", " France", " is"]
    assert widget.header["tables"] == []
    assert widget.result is None
    names = {"model": widget._model}
    exec(widget.to_code(), names)
    assert list(names["patching"].clean_prompts) == ["The capital of France is"]


def test_prompts_of_unequal_length_can_be_patched_place_by_place(model):
    widget = PatchingWidget(model, "The capital of France is", CORRUPTED, answers=ANSWERS)
    places = [(6, 4, 7)]
    reply, _ = Page(widget).ask("patch", patches=as_patches(places), direction="denoise", metric="kl")
    names = {"model": model}
    exec(reply["result"]["code"], names)
    assert names["measured"] == pytest.approx(reply["result"]["value"], abs=2e-4)
    expected = hooked(model, CORRUPTED, "The capital of France is", places)
    np.testing.assert_allclose(
        reply["result"]["probs"]["patched"], expected[0].softmax(-1)[reply["result"]["ids"]], atol=1e-5
    )
    reply, _ = Page(widget).ask("sweep", site="resid_post", direction="denoise", metric="kl")
    assert "equal length" in reply["error"]["message"]


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        (Patch(99, "resid_post", 0, 0), "12 layers, 0 to 11; there is no 99"),
        (Patch(0, "resid", 0, 0), "no site 'resid'"),
        (Patch(0, "mlp_out", 0, 0, head=1), "has no heads"),
        (Patch(0, "mlp_out", 8, 0), "the clean prompt has 8 positions, 0 to 7; there is no 8"),
        (Patch(0, "mlp_out", 0, -1), "the corrupted prompt has 8 positions"),
    ],
)
def test_a_place_that_is_not_there_is_named(model, patch, said):
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        PatchRuns(model, CLEAN, CORRUPTED, answers=ANSWERS).run([patch])


def test_one_head_is_patched_and_no_other(model):
    runs = PatchRuns(model, CLEAN, CORRUPTED, answers=ANSWERS)
    result = activation_patching(model, CLEAN, CORRUPTED, answers=ANSWERS, sites=["z"])
    measure = logit_difference(model, *ANSWERS)
    for head in range(model.std.n_heads):
        value = float(measure(runs.run([Patch(8, "z", 7, 7, head)]))[0])
        assert value == pytest.approx(result.head_values[0, 8, 7, head], abs=2e-4)


def test_a_result_goes_on_live_and_a_saved_one_is_shown(model, tmp_path):
    result = activation_patching(model, CLEAN, CORRUPTED, answers=ANSWERS)
    widget = PatchingWidget(result)
    assert widget.header["live"] is True
    assert widget.result.values == pytest.approx(result.values)
    reply, _ = Page(widget).ask("patch", patches=as_patches([(3, 1, 1)]), direction="denoise", metric="kl")
    assert reply["ok"]
    saved = type(result).load(result.save(tmp_path / "r"))
    widget = PatchingWidget(saved)
    assert widget.header["live"] is False
    np.testing.assert_array_equal(widget.result.values, result.values)
    reply, _ = Page(widget).ask("patch", patches=[], direction="denoise", metric="kl")
    assert "without its model" in reply["error"]["message"]


def test_a_metric_of_the_users_own_is_used(model):
    def margin(logits):
        return logits.amax(-1) - logits.mean(-1)

    widget = PatchingWidget(model, CLEAN, CORRUPTED, metric=margin)
    assert widget.state["metric"] == "custom"
    reply, _ = Page(widget).ask(
        "patch", patches=as_patches([(3, 1, 1)]), direction="denoise", metric="custom"
    )
    expected = float(margin(hooked(model, CORRUPTED, CLEAN, [(3, 1, 1)]))[0])
    assert reply["result"]["value"] == pytest.approx(expected, abs=2e-4)
    names = {"model": model, "metric": margin}
    exec(reply["result"]["code"], names)
    assert names["measured"] == pytest.approx(expected, abs=2e-4)


def test_selection_and_state_are_checked(widget):
    widget.selection = (-1, -8)
    assert widget.selection == (11, 0)
    with pytest.raises(traitlets.TraitError, match="12 layers and 8 positions"):
        widget.selection = (12, 0)
    with pytest.raises(traitlets.TraitError, match="has no 'sight'; it holds"):
        widget.state = {"sight": "z"}
    widget.state = {"cone": False}
    assert widget.state["site"] == "resid_post"


def test_the_copies_hold_the_numbers(widget, tmp_path):
    page = Page(widget)
    page.ask("sweep", site="resid_post", direction="denoise", metric="logit_difference")
    rows = list(csv.DictReader(io.StringIO(widget.to_csv())))
    assert len(rows) == 96
    last = rows[-1]
    assert (last["layer"], last["position"], last["token"]) == ("11", "7", " of")
    assert float(last["share"]) == pytest.approx(1, abs=1e-3)
    assert widget.to_png(tmp_path / "p.png")[:4] == b"\x89PNG"
    assert "<svg" in widget.to_svg(tmp_path / "p.svg")
    html = widget.to_html(tmp_path / "p.html")
    assert (tmp_path / "p.html").read_text(encoding="utf-8") == html
    assert "https://" not in html
    data, _ = widget._repr_mimebundle_()
    assert data[STILL_MIME]["view"] == "patching"
    assert data[STILL_MIME]["header"]["live"] is False


def test_the_view_is_stale_when_the_model_is_not_what_it_was(model):
    from nbsight.widgets.staleness import check

    widget = PatchingWidget(model, CLEAN, CORRUPTED, answers=ANSWERS)
    check(widget)
    assert widget.stale == ""
    weight = model._model.transformer.h[0].mlp.c_fc.bias
    with torch.no_grad():
        weight.add_(0)
    check(widget)
    assert "weights have changed" in widget.stale


def test_prompts_are_edited_while_a_cell_runs_and_neither_is_disturbed(model, widget):
    """Two threads on one model: each number is what it is alone."""
    page = Page(widget)
    with model.trace(CLEAN):
        alone = model.transformer.h[6].output[0].save()
    pairs = [("The capital of France is", "The capital of Italy is"), (CLEAN, CORRUPTED)]
    ended, wrong, values = threading.Event(), [], {}

    def cells():
        while not ended.is_set():
            with model.trace(CLEAN):
                model.transformer.h[2].output[0][:, 0] *= 1
                seen = model.transformer.h[6].output[0].save()
            if not torch.allclose(seen, alone, atol=1e-5):
                wrong.append(float((seen - alone).abs().max()))

    thread = threading.Thread(target=cells)
    thread.start()
    try:
        for turn in range(30):
            clean, corrupted = pairs[turn % 2]
            assert page.ask("prompts", f"p{turn}", clean=clean, corrupted=corrupted)[0]["ok"]
            places = [(3, 1, 1)]
            reply, _ = page.ask(
                "patch",
                f"r{turn}",
                patches=as_patches(places),
                direction="denoise",
                metric="logit_difference",
            )
            first = values.setdefault(clean, reply["result"]["value"])
            assert reply["result"]["value"] == pytest.approx(first, abs=1e-4)
    finally:
        ended.set()
        thread.join()
    assert wrong == []
    measure = logit_difference(model, *ANSWERS)
    for clean, corrupted in pairs:
        value = float(measure(hooked(model, corrupted, clean, [(3, 1, 1)]))[0])
        assert values[clean] == pytest.approx(value, abs=2e-4)


def test_the_fixture_of_the_javascript_tests_is_what_python_sends():
    assert FIXTURE.read_text(encoding="utf-8") == as_json(), (
        "python -m tests.widgets.shared_patching writes it"
    )


def test_a_result_whose_spans_have_names_still_makes_a_view(model):
    result = activation_patching(
        model, CLEAN, CORRUPTED, answers=ANSWERS, positions={"landmark": [1, 2]}, layers=[3, 4]
    )
    widget = PatchingWidget(result)
    assert widget.header["tables"] == []
    assert "Patching" in widget.still_text()
    assert shared_result().best()[0] == "resid_post"


# -- sweeps as jobs ----------------------------------------------------------------------------


@pytest.fixture
def listed():
    """The jobs of this test."""
    jobs._jobs.clear()
    yield jobs.jobs
    jobs._jobs.clear()


SWEEP = {"site": "mlp_out", "direction": "denoise", "metric": "kl"}


def test_a_sweep_of_the_view_is_a_job_with_its_result(widget, listed):
    reply, _ = Page(widget).ask("sweep", **SWEEP)
    (job,) = listed()
    assert (job.title, job.model, job.state) == ("patching mlp_out", "nbsight/demo", "done")
    assert job.done == job.total == reply["result"]["runs"]
    widget.state = {"site": "mlp_out", "metric": "kl"}
    assert job.result is widget.result


def test_a_sweep_that_is_stopped_from_the_list_answers_with_what_it_has_and_goes_on(widget, listed):
    def stop(job):
        if 0 < job.done < job.total:
            job.cancel()

    jobs.listeners.append(stop)
    try:
        reply, _ = Page(widget).ask("sweep", **SWEEP)
    finally:
        jobs.listeners.remove(stop)
    part = reply["result"]
    assert 0 < part["done"] < part["runs"]
    (job,) = listed()
    assert (job.state, job.done) == ("stopped", part["done"])
    reply, _ = Page(widget).ask("sweep", **SWEEP)
    assert reply["result"]["done"] == part["runs"]
    assert [job.state for job in listed()] == ["stopped", "done"]
    again = activation_patching(widget._model, CLEAN, CORRUPTED, metric="kl", sites=["mlp_out"])
    widget.state = {"site": "mlp_out", "metric": "kl"}
    np.testing.assert_allclose(widget.result.values, again.values, atol=1e-6)


def test_a_sweep_that_the_page_takes_back_is_over_for_the_list(widget, listed):
    page = Page(widget)
    worker = worker_for(widget._model)
    heard = threading.Event()

    def take_back(job):
        if job.done and not heard.is_set():
            heard.set()
            page.say({"kind": "cancel", "id": "r1"})

    jobs.listeners.append(take_back)
    try:
        page.say({"kind": "request", "id": "r1", "command": "sweep", "params": SWEEP})
        assert heard.wait(30)
        over = threading.Event()
        worker.submit(over.set, Request())
        assert over.wait(30)
    finally:
        jobs.listeners.remove(take_back)
    (job,) = listed()
    assert job.state == "stopped"
    assert 0 < job.done < job.total


def test_a_sweep_that_fails_says_so_in_the_list(model, listed):
    def bad(logits):
        raise ValueError("no such metric today")

    widget = PatchingWidget(model, CLEAN, CORRUPTED, answers=ANSWERS)
    widget._pair.runs.metric = bad
    reply, _ = Page(widget).ask("sweep", site="resid_post", direction="denoise", metric="custom")
    assert not reply["ok"]
    (job,) = listed()
    assert (job.state, job.error) == ("failed", "ValueError: no such metric today")
