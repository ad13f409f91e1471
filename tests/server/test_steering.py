"""Steering where the model is elsewhere: its block is one that every server runs."""

from __future__ import annotations

import pytest
import torch

from tests.server.running import KEYS

PROMPTS = ["The Eiffel Tower is in the city of", "Lily saw a"]


@pytest.mark.parametrize("tier", ["running", "program_server"])
def test_a_steered_run_on_a_server_is_the_one_here(tier, request, monkeypatch, model, local_model):
    server = request.getfixturevalue(tier)
    monkeypatch.setenv("NBSIGHT_HOST", server.url)
    monkeypatch.setenv("NBSIGHT_API_KEY", KEYS["ada"])
    vector = torch.randn(64, generator=torch.Generator().manual_seed(1))
    for positions in ("all", "last", [0, -1], slice(1, None)):
        with local_model.steer(vector, layer=6, strength=3, positions=positions):
            with local_model.trace(PROMPTS):
                wanted = local_model.output.logits
            with local_model.generate(PROMPTS[1], max_new_tokens=4, do_sample=False) as tracer:
                wanted_ids = tracer.result
        with model.steer(vector, layer=6, strength=3, positions=positions):
            with model.trace(PROMPTS, remote=True):
                logits = model.output.logits.save()
            with model.generate(PROMPTS[1], 4, do_sample=False, remote=True) as tracer:
                ids = tracer.result.save()
        assert torch.allclose(logits, wanted, atol=1e-5)
        assert torch.equal(ids, wanted_ids)
    assert not model.dispatched
