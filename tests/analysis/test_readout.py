"""Entropy, divergence and ranks are those of whole distributions, though only parts are in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from nbsight.analysis import readout, unembedding
from nbsight.analysis.lens import logit_lens
from nbsight.analysis.readout import read_layers
from nbsight.models.language_model import LanguageModel
from tests.models.architectures import AVAILABLE, make

PROMPT = "The capital of France is"


def by_hand(logits, tracked):
    """The same from all logits at once, in float64: (layer, position, d_vocab)."""
    logs = logits.double().log_softmax(-1)
    probs = logs.exp()
    entropy = -(probs * logs).sum(-1)
    kl = (probs[-1] * (logs[-1] - logs)).sum(-1)
    own = logits[..., list(tracked)]
    ranks = (logits[..., None, :] > own[..., None]).sum(-1)
    return entropy, kl, probs[..., list(tracked)], ranks


@pytest.mark.parametrize(("cells", "rows"), [(10**9, 1024), (700, 8), (50, 1)])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_chunks_change_nothing(monkeypatch, cells, rows, scale):
    torch.manual_seed(0)
    way = unembedding.Unembedding((nn.LayerNorm(16),), nn.Linear(16, 3000))
    with torch.no_grad():
        way.head.weight.mul_(scale)
    stream = torch.randn(4, 6, 16)
    monkeypatch.setattr(unembedding, "_CELLS", cells)
    monkeypatch.setattr(readout, "_ROWS", rows)
    tracked = [0, 1500, 2999]
    with torch.no_grad():
        got = read_layers(way, stream, tracked)
        want = by_hand(way.head(way.chain[0](stream)), tracked)
    for name, value in zip(("entropy", "kl", "probs", "ranks"), want, strict=True):
        own = getattr(got, name).double()
        if name == "ranks":
            assert (own - value).abs().max() <= 1  # neighbours that differ in the last bit
            assert (own == value).double().mean() > 0.95
        else:
            np.testing.assert_allclose(own, value, rtol=2e-3, atol=2e-4)


def test_a_head_that_is_no_matrix_is_called():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(8, 50)

        def forward(self, x):
            return self.inner(x).tanh() * 4

    way = unembedding.Unembedding((), Odd())
    stream = torch.randn(3, 2, 8)
    with torch.no_grad():
        got = read_layers(way, stream, [7])
        want = by_hand(way.head(stream), [7])
    np.testing.assert_allclose(got.kl, want[1], atol=1e-4)
    assert torch.equal(got.ranks, want[3])


@pytest.mark.parametrize("architecture", AVAILABLE[:6], ids=str)
def test_the_lens_of_a_model_has_them(architecture):
    model = LanguageModel(make(architecture))
    ids = [7, 8, 9, 10]
    lens = logit_lens(model, ids, track=[3, 50], statistics=True)
    with torch.no_grad():
        last = model._model(torch.tensor([ids])).logits
    entropy, _, probs, ranks = by_hand(last, [3, 50])
    np.testing.assert_allclose(lens.entropy[-1], entropy[0], rtol=1e-3)
    np.testing.assert_allclose(lens.track_probs[-1], probs[0], rtol=1e-3)
    assert np.abs(lens.track_ranks[-1] - ranks[0].numpy()).max() <= 1
    np.testing.assert_allclose(lens.kl[-1], 0, atol=1e-5)
    assert (lens.kl[:-1] > 0).all()


def test_the_answers_course_through_the_layers_of_the_shipped_model():
    model = LanguageModel("nbsight/demo")
    lens = logit_lens(model, PROMPT, track=[" Paris", " is"], statistics=True)
    assert lens.tracked == (" Paris", " is")
    assert lens.track_ranks[-1, -1, 0] == 0
    assert lens.track_probs[-1, -1, 0] == pytest.approx(lens.top_probs[-1, -1, 0], abs=1e-5)
    assert lens.track_probs[0, -1, 0] < 0.01
    assert lens.kl[0, -1] > lens.kl[-2, -1] >= 0
    plain = logit_lens(model, PROMPT)
    assert plain.entropy is None
    assert plain.track_probs is None
    assert np.array_equal(plain.top_ids, lens.top_ids)
    table = lens.to_xarray()
    assert table["tracked_rank"].dims == ("layer", "position", "tracked")
    assert table["kl"].attrs["unit"] == "nats"
