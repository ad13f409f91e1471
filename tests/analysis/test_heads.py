"""A head's score is what its own eager attention pays, counted cell by cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nbsight.analysis.heads import SCORES, head_scores
from nbsight.errors import InputError
from nbsight.models.language_model import LanguageModel


@pytest.fixture(scope="module")
def model():
    return LanguageModel("nbsight/demo", dispatch=True)


@pytest.fixture(scope="module")
def eager():
    return LanguageModel("nbsight/demo", dispatch=True, attn_implementation="eager")


def looked_at(name: str, ids: list[int], query: int) -> list[int]:
    """The same kinds of places in other words."""
    earlier = range(query)
    return {
        "previous": [query - 1] if query else [],
        "duplicate": [key for key in earlier if ids[key] == ids[query]],
        "induction": [key + 1 for key in earlier if ids[key] == ids[query]],
        "first": [0] if query else [],
        "self": [query],
    }[name]


@pytest.mark.parametrize("name", SCORES)
def test_a_score_is_counted_cell_by_cell(model, eager, name):
    text = "one two three one two four one two three"
    found = head_scores(model, text, scores=[name])
    ids = model.to_tokens(text)
    with torch.no_grad():
        patterns = eager._model(ids, output_attentions=True).attentions
    total, count = np.zeros((12, 4)), 0
    for query in range(ids.shape[1]):
        keys = looked_at(name, ids[0].tolist(), query)
        count += bool(keys)
        for layer, pattern in enumerate(patterns):
            total[layer] += pattern[0, :, query, keys].sum(-1).double().numpy()
    assert found.count.tolist() == [count]
    np.testing.assert_allclose(found.of(name), total / count, atol=1e-6)


def test_random_tokens_repeated_find_the_heads_that_do_induction(model, eager):
    found = head_scores(model, rows=4, length=16)
    again = head_scores(model, rows=4, length=16)
    assert found.hash == again.hash
    assert head_scores(model, rows=4, length=16, seed=1).hash != found.hash
    layer, head, score = found.top("induction", 1)[0]
    assert score > 0.4
    # Only the second half has places: 16 positions in each of 4 rows.
    counts = dict(zip(found.scores, found.count.tolist(), strict=True))
    assert counts["duplicate"] == counts["induction"] == 64
    # Silencing that head hurts the second half more than silencing the head that scores lowest.
    worst = np.unravel_index(found.of("induction").argmin(), (12, 4))
    assert loss_without(model, (layer, head)) > loss_without(model, tuple(map(int, worst)))


def loss_without(model, silenced) -> float:
    generator = torch.Generator().manual_seed(5)
    drawn = torch.randint(10, 1800, (4, 16), generator=generator)
    ids = torch.cat([drawn, drawn], 1)
    layer, head = silenced
    with model.trace(ids, grad=False):
        z = model.layers[layer].attn.z.clone()
        z[:, :, head] = 0
        model.layers[layer].attn.z = z
        logits = model.output.logits[:, 16:-1].clone()
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 17:].flatten()))


def test_what_cannot_be_done_is_said(model):
    for options, said in [
        ({"scores": ["inductive"]}, "there is no score 'inductive'; there are previous, duplicate"),
        ({"scores": []}, "`scores` is empty"),
        ({"prompts": []}, "`prompts` is empty"),
        ({"prompts": "one two three", "scores": "induction"}, "no token is repeated"),
        ({"length": 1}, "at least 2 tokens"),
        ({"rows": 0}, "at least 1 row"),
        ({"length": 100}, "the model takes 128; write length=63"),
    ]:
        with pytest.raises(InputError, match=said):
            head_scores(model, **options)
    found = head_scores(model, rows=1, length=4, scores="self")
    with pytest.raises(InputError, match="there is no score 'first' here; there are self"):
        found.of("first")


def test_a_picture_has_a_panel_for_each_score(model):
    found = head_scores(model, rows=2, length=8)
    titles = [axes.get_title(loc="left") for axes in found.plot().axes]
    assert [title for title in titles if title] == list(found.scores)
