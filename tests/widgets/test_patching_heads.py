"""The patching widget by head, with a frozen run beside the other, and with several pairs of prompts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import traitlets

from nbsight.analysis.metrics import logit_difference
from nbsight.analysis.patching import activation_patching
from nbsight.errors import InputError
from nbsight.models.language_model import LanguageModel
from nbsight.results.base import load_result
from nbsight.widgets.patching import PatchingWidget
from tests.widgets.page import Page

CLEAN, CORRUPTED = "The Eiffel Tower is in the city of", "The Colosseum is in the city of"
ANSWERS = (" Paris", " Rome")
PAIRS = (
    ["The Eiffel Tower is in the city of", "The capital of France is"],
    ["The Colosseum is in the city of", "The capital of Italy is"],
)


@pytest.fixture(scope="module")
def model():
    return LanguageModel("nbsight/demo", dispatch=True)


@pytest.fixture
def widget(model):
    return PatchingWidget(model, CLEAN, CORRUPTED, answers=ANSWERS)


def head_hooked(model, layer, head, position=slice(None), prompts=(CLEAN, CORRUPTED)):
    """The last logits with one head's z from the first prompt, by plain hooks on the output matrix."""
    kept = {}
    matrix = model._model.transformer.h[layer].attn.c_proj
    width = model._model.config.n_embd // model._model.config.n_head
    columns = slice(head * width, (head + 1) * width)

    def keep(_, args):
        kept["z"] = args[0][0, position, columns].clone()

    def put(_, args):
        changed = args[0].clone()
        changed[0, position, columns] = kept["z"]
        return (changed, *args[1:])

    for prompt, hook in zip(prompts, (keep, put), strict=True):
        handle = matrix.register_forward_pre_hook(hook)
        with torch.no_grad():
            logits = model._model(model.to_tokens(prompt)).logits[:, -1]
        handle.remove()
    return logits


def asked(widget, command, **params):
    reply, _ = Page(widget).ask(command, **params)
    assert reply["ok"], reply
    return reply["result"]


def measured(model, logits):
    return float(logit_difference(model, *ANSWERS)(logits)[0])


@pytest.mark.parametrize(("source", "where"), [(None, slice(None)), (7, 7)])
def test_a_head_is_patched_as_hooks_do(model, widget, source, where):
    patch = {"layer": 6, "site": "z", "source": source, "target": source, "head": 2}
    said = asked(widget, "patch", patches=[patch], direction="denoise", metric="logit_difference")
    assert said["value"] == pytest.approx(measured(model, head_hooked(model, 6, 2, where)), abs=2e-4)
    assert said["patches"] == [patch]
    names = {"model": model}
    exec(said["code"], names)
    assert names["measured"] == pytest.approx(said["value"], abs=2e-4)


@pytest.mark.parametrize(("position", "where"), [(None, slice(None)), (7, 7)])
def test_a_sweep_by_head_is_what_hooks_give_and_its_code_gives_the_same(model, widget, position, where):
    widget.state = {"site": "z_by_head", "position": position}
    said = asked(
        widget,
        "sweep",
        site="z_by_head",
        direction="denoise",
        metric="logit_difference",
        position=position,
    )
    n_heads = model._model.config.n_head
    assert (said["done"], said["runs"]) == (12 * n_heads, 12 * n_heads)
    found = widget.result.head_values[0, :, 0]
    for layer in (0, 3, 5, 10, 11):
        for head in range(n_heads):
            expected = measured(model, head_hooked(model, layer, head, where))
            assert found[layer, head] == pytest.approx(expected, abs=2e-4)
    names = {"model": model}
    exec(widget.to_code(), names)
    np.testing.assert_allclose(names["patching"].head_values[0, :, 0], found, atol=1e-4)
    table = next(one for one in widget.header["tables"] if one["key"].startswith("z_by_head"))
    place = widget.header["arrays"][table["array"]]
    assert place["shape"] == [12, n_heads]
    sent = np.frombuffer(widget.data, "<f4", 12 * n_heads, place["offset"]).reshape(12, n_heads)
    np.testing.assert_allclose(sent, found, atol=1e-5)
    rows = widget.to_csv().splitlines()
    assert rows[0] == "site,layer,head,token,value,share"
    assert len(rows) == 1 + 12 * n_heads
    assert widget.to_png()[:4] == b"\x89PNG"


def test_a_result_by_head_shows_the_heads_of_each_position(model, tmp_path):
    result = activation_patching(model, CLEAN, CORRUPTED, answers=ANSWERS, sites=["z"], layers=[3, 5])
    view = PatchingWidget(result)
    assert (view.state["site"], view.state["position"]) == ("z_by_head", 0)
    view.state = {"position": 7}
    np.testing.assert_array_equal(view.result.head_values[0, :, 0], result.head_values[0, :, 7])
    saved = PatchingWidget(load_result(result.save(tmp_path / "heads")))
    assert saved.header["sites"] == ["z_by_head"]
    assert "sites" in saved.to_html()


def test_a_head_that_is_not_there_is_named(widget):
    for patch, said in [
        ({"layer": 6, "site": "z", "source": 1, "target": 1, "head": 99}, "there is no 99"),
        ({"layer": 6, "site": "mlp_out", "source": 1, "target": 1, "head": 0}, "has no heads"),
        ({"layer": 6, "site": "z", "source": None, "target": 1, "head": 0}, "as many tokens"),
    ]:
        reply, _ = Page(widget).ask("patch", patches=[patch], direction="denoise", metric="kl")
        assert said in reply["error"]["message"]


def test_all_positions_need_prompts_of_one_length(model):
    widget = PatchingWidget(model, CLEAN, "The Colosseum is in the", answers=ANSWERS)
    patch = {"layer": 6, "site": "z", "source": None, "target": None, "head": 0}
    reply, _ = Page(widget).ask("patch", patches=[patch], direction="denoise", metric="kl")
    assert "as many tokens" in reply["error"]["message"]


# -- frozen ------------------------------------------------------------------------------------


def one(layer, position, site="resid_post"):
    return {"layer": layer, "site": site, "source": position, "target": position}


@pytest.mark.parametrize("metric", ["logit_difference", "probability", "kl"])
@pytest.mark.parametrize(("patches", "direction"), [([one(3, 1)], "denoise"), ([], "noise")])
def test_a_frozen_run_stands_beside_the_other(model, widget, metric, patches, direction):
    frozen = {"patches": [one(8, 7, "attn_out")], "direction": "denoise"}
    said = asked(widget, "patch", patches=patches, direction=direction, metric=metric, frozen=frozen)
    alone = asked(widget, "patch", patches=frozen["patches"], direction="denoise", metric=metric)
    assert said["frozen"]["value"] == alone["value"]
    place = {token: index for index, token in enumerate(alone["ids"])}
    shared = [index for index, token in enumerate(said["ids"]) if token in place]
    assert len(shared) > 3
    for index in shared:
        assert said["probs"]["frozen"][index] == alone["probs"]["patched"][place[said["ids"][index]]]


@pytest.mark.parametrize("metric", ["logit_difference", "kl"])
@pytest.mark.parametrize("patches", [[one(3, 1), one(5, 7, "mlp_out")], []])
def test_the_code_of_a_comparison_gives_both_numbers(model, widget, metric, patches, capsys):
    frozen = {"patches": [one(8, 7, "attn_out")], "direction": "denoise"}
    said = asked(widget, "patch", patches=patches, direction="denoise", metric=metric, frozen=frozen)
    widget.state = {"patches": patches, "frozen": frozen, "metric": metric}
    names = {"model": model}
    exec(widget.to_code(), names)
    assert names["frozen"] == pytest.approx(said["frozen"]["value"], abs=2e-4)
    assert names["measured"] == pytest.approx(said["value"], abs=2e-4)
    difference = said["value"] - said["frozen"]["value"]
    assert f"difference {difference:.3f}" in capsys.readouterr().out


# -- several pairs -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(model):
    return activation_patching(
        model, *PAIRS, answers=[ANSWERS, ANSWERS], positions={"last": -1}, sites=["resid_post"]
    )


def test_each_pair_can_be_chosen_from_the_page_and_from_python(model):
    widget = PatchingWidget(model, *PAIRS, answers=ANSWERS)
    assert widget.header["pairs"] == PAIRS[0]
    assert widget.header["clean"]["prompt"] == PAIRS[0][0]
    widget.selection, widget.state = (3, 1), {"patches": [one(3, 1)]}
    asked(widget, "pair", pair=1)
    assert (widget.state["pair"], widget.state["patches"], widget.selection) == (1, [], None)
    assert widget.header["clean"]["prompt"] == PAIRS[0][1]
    assert widget.header["clean"]["tokens"] == list(model.tokens(PAIRS[0][1]).strings)
    asked(widget, "sweep", site="resid_post", direction="denoise", metric="logit_difference")
    expected = activation_patching(model, PAIRS[0][1], PAIRS[1][1], answers=ANSWERS)
    np.testing.assert_allclose(widget.result.values, expected.values, atol=1e-5)
    names = {"model": model}
    exec(widget.to_code(), names)
    np.testing.assert_allclose(names["patching"].values, expected.values, atol=1e-5)
    widget.state = {"pair": 0}
    assert widget.header["corrupted"]["prompt"] == PAIRS[1][0]
    assert widget.result is None
    widget.state = {"pair": 1}  # what was swept is still known
    np.testing.assert_allclose(widget.result.values, expected.values, atol=1e-5)
    with pytest.raises(traitlets.TraitError, match="there are 2 pairs"):
        widget.state = {"pair": 2}


def test_a_result_of_several_pairs_shows_each(model):
    prompts = [PAIRS[0][0], "The Louvre Museum is in the city of"], [PAIRS[1][0], PAIRS[1][0]]
    lengths = {model.to_tokens(prompt).shape[1] for side in prompts for prompt in side}
    if len(lengths) > 1:  # they have to have one axis of positions
        prompts = [PAIRS[0][0], PAIRS[1][0]], [PAIRS[1][0], PAIRS[0][0]]
    result = activation_patching(model, *prompts, answers=ANSWERS)
    view = PatchingWidget(result)
    for number in (1, 0):
        view.state = {"pair": number}
        np.testing.assert_array_equal(view.result.values[0, 0], result.values[number, 0])
        assert view.header["corrupted"]["prompt"] == prompts[1][number]


def test_editing_the_prompts_of_one_pair_leaves_the_others(model):
    widget = PatchingWidget(model, *PAIRS, answers=ANSWERS)
    asked(widget, "pair", pair=1)
    asked(widget, "prompts", clean="The capital of Spain is", corrupted=PAIRS[1][1])
    assert widget.header["clean"]["prompt"] == "The capital of Spain is"
    assert widget.header["pairs"] == [PAIRS[0][0], "The capital of Spain is"]
    widget.state = {"pair": 0}
    assert widget.header["clean"]["prompt"] == PAIRS[0][0]


def test_lists_that_are_no_pairs_are_refused(model, many):
    with pytest.raises(InputError, match="give pairs"):
        PatchingWidget(model, PAIRS[0], PAIRS[1][:1], answers=ANSWERS)
    with pytest.raises(InputError, match="no pair 5"):
        PatchingWidget(model, *PAIRS, answers=ANSWERS, state={"pair": 5})
    view = PatchingWidget(many, state={"pair": 1})  # spans by name have no place among tokens
    assert view.header["tables"] == []
