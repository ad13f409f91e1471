"""Programs in nnsight's style: `remote="local"`, where a block leaves its place."""

# These programs are written as nnsight's users write them.
# ruff: noqa: B007

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import nbsight as nnsight
from tests.compat.models import OTHER, PROMPT, first, ids_of
from tests.core.small import hooked


def test_a_remote_trace_brings_back_what_was_saved(model):
    with model.trace(PROMPT, remote="local"):
        hidden = model.transformer.h[2].output[0].save()
        norm = nnsight.save(float(hidden.norm()))
        unsaved = hidden * 2
    wanted = first(hooked(model._model, (ids_of(model, PROMPT),))["transformer.h.2.output"][0])
    assert torch.equal(hidden, wanted)
    assert norm == pytest.approx(float(wanted.norm()))
    with pytest.raises(nnsight.NbsightError, match="only saved ones come back"):
        unsaved + 1


def test_options_of_a_server_are_taken(model):
    with model.trace(PROMPT, remote="local", blocking=True, verbose=False):
        logits = model.output.logits.save()
    assert torch.equal(logits, model._model(ids_of(model, PROMPT)).logits)


def test_invokes_travel(model):
    with model.trace(remote="local") as tracer:
        with tracer.invoke(PROMPT):
            a = model.transformer.h[1].output[0].save()
        with tracer.invoke(OTHER):
            b = model.transformer.h[1].output[0].save()
    for value, prompt in ((a, PROMPT), (b, OTHER)):
        wanted = first(hooked(model._model, (ids_of(model, prompt),))["transformer.h.1.output"][0])
        assert torch.allclose(value, wanted, atol=1e-5)


def test_a_generation_travels(model):
    with model.generate(PROMPT, max_new_tokens=2, do_sample=False, remote="local") as tracer:
        seen = nnsight.save([])
        for step in tracer.iter[:]:
            seen.append(model.lm_head.output[0, -1].argmax())
        ids = tracer.result.save()
    assert torch.equal(ids, model.generate(PROMPT, max_new_tokens=2, do_sample=False))
    assert [int(token) for token in seen] == ids[0, -2:].tolist()


def test_a_session_travels_as_one(model):
    with model.session(remote="local"):
        with model.trace(PROMPT):
            donor = model.transformer.h[3].output[0][:, -1]
        with model.trace(OTHER):
            model.transformer.h[3].output[0][:, -1] = donor
            logits = model.output.logits[:, -1].save()
    there = first(hooked(model._model, (ids_of(model, PROMPT),))["transformer.h.3.output"][0])

    def patch(value):
        first(value)[:, -1] = there[:, -1]

    wanted = hooked(model._model, (ids_of(model, OTHER),), edit={"transformer.h.3": patch})[""][0]
    assert torch.allclose(logits, wanted.logits[:, -1], atol=1e-5)


def test_without_a_server_the_error_says_how_to_start_one(model, monkeypatch, tmp_path):
    monkeypatch.setenv("NBSIGHT_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("NBSIGHT_HOST", raising=False)
    with pytest.raises(nnsight.NbsightError, match="none runs on this computer") as caught:
        with model.trace(PROMPT, remote=True):
            model.output.save()
    assert caught.value.__suppress_context__  # how the block was left out is no news
    ours = {"tracer.py", "captured.py"}  # they raise it again
    assert {Path(str(entry.path)).name for entry in caught.traceback} <= {Path(__file__).name, *ours}
