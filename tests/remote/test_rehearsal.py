"""Blocks that are run on shapes before they are sent: mistakes on the user's line, and nothing else."""

from __future__ import annotations

import threading
import time
import warnings

import msgspec
import pytest
import torch

from nbsight import LanguageModel
from nbsight.errors import EditError, OutOfOrderError, PathError
from nbsight.remote import addresses, rehearsal
from nbsight.wire.api import Limits, ModelInfo, ServerInfo
from nbsight.wire.jobs import pack_job
from tests.server.running import KEYS, server

PROMPT = "The capital of France is"


class Rehearsal:
    """A backend that rehearses a block and sends nothing."""

    def run(self, job):
        rehearsal.rehearse(job, pack_job(job))
        return {}


@pytest.fixture(scope="module")
def model():
    return LanguageModel("nbsight/demo")


def line_of(caught) -> str:
    return str(caught.traceback[-1].statement)


def test_a_mistake_of_order_shape_or_name_is_raised_on_its_line(model):
    state = model.transformer.h
    with pytest.raises(OutOfOrderError, match=r"h\.3\.output.*asked for after"):
        with model.trace(PROMPT, remote=Rehearsal(), strict_order=True):
            late = state[5].output[0]
            early = state[3].output[0]
    with pytest.raises(RuntimeError, match=r"Expected size|mat1 and mat2") as caught:
        with model.trace(PROMPT, remote=Rehearsal()):
            hidden = state[5].output[0]
            wrong = hidden @ hidden
    assert any("hidden @ hidden" in str(entry.statement) for entry in caught.traceback)
    with pytest.raises(AttributeError, match="'Tensor' object has no attribute 'sav'"):
        with model.trace(PROMPT, remote=Rehearsal()):
            state[5].output[0].sav()
    with pytest.raises(NameError, match="alpha"):
        with model.trace(PROMPT, remote=Rehearsal()):
            state[5].output[0] * alpha  # noqa: F821
    with pytest.raises(PathError, match="12 entries"):
        with model.trace(PROMPT, remote=Rehearsal()):
            model.transformer.h[50].output
    with pytest.raises(IndexError, match="out of bounds"):
        with model.trace(PROMPT, remote=Rehearsal()):
            state[5].output[0][:, 40]
    vector = torch.zeros(7)
    with pytest.raises((RuntimeError, EditError)):
        with model.trace(PROMPT, remote=Rehearsal()):
            state[5].output[0][:] += vector


def test_mistakes_in_invokes_and_in_the_second_trace_of_a_session_are_found(model):
    with pytest.raises(EditError, match="do not fit"):
        with model.trace(remote=Rehearsal()) as tracer:
            with tracer.invoke(PROMPT):
                hidden = model.transformer.h[5].output[0]
            with tracer.invoke("one two"):
                model.transformer.h[5].output[0][:] = hidden.sum((0, 1))[:3]
    with pytest.raises(RuntimeError):
        with model.session(remote=Rehearsal()):
            with model.trace(PROMPT):
                hidden = model.transformer.h[5].output[0]
            with model.trace("one two"):
                wrong = model.transformer.h[5].output[0] + hidden


def test_what_only_numbers_can_tell_is_left_to_where_it_runs(model):
    with model.trace(PROMPT, remote=Rehearsal()):
        size = model.transformer.h[5].output[0].norm().item()
        chosen = [1, 2, 3][int(size) % 3]
        array = model.transformer.h[6].output[0].detach().numpy()
        if model.output[0, -1].argmax() == 3:
            undefined_but_perhaps_never_reached  # noqa: F821
    with model.generate(PROMPT, max_new_tokens=3, remote=Rehearsal()):
        first = model.output[0, -1]


def test_a_rehearsal_has_no_effects(model, capsys):
    acts, weights = [], torch.zeros(64)
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with model.trace(PROMPT, remote=Rehearsal()):
            print("printed")
            acts.append(model.transformer.h[3].output[0])
            weights += 1
            noise = torch.randn(3)
            hidden = model.transformer.h[5].output[0]
            earlier = model.transformer.h[1].output[0]  # another forward, and a notice of it
    assert acts == []
    assert weights.sum() == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert capsys.readouterr() == ("", "")
    assert "noise" not in locals()
    assert not model._dispatched


def test_a_block_that_could_do_more_than_compute_is_not_rehearsed(model, tmp_path):
    lock, path = threading.Lock(), str(tmp_path / "file")
    with model.trace(PROMPT, remote=Rehearsal()):
        import os

        os.mkdir(path)
    assert not (tmp_path / "file").exists()

    def helper(value):
        open(path, "w").close()
        return value

    with model.trace(PROMPT, remote=Rehearsal()):
        helper(model.transformer.h[5].output[0])
    assert not (tmp_path / "file").exists()


def test_an_endless_loop_ends_the_rehearsal_only(model):
    began = time.monotonic()
    with model.trace(PROMPT, remote=Rehearsal()):
        while True:
            number = 1
    assert rehearsal.LIMIT * 0.9 < time.monotonic() - began < rehearsal.LIMIT + 5


def test_a_block_is_rehearsed_once_for_its_sizes(model, monkeypatch):
    runs = []
    run = rehearsal._run
    monkeypatch.setattr(rehearsal, "_run", lambda *args: (runs.append(1), run(*args)))
    for length in (2, 2, 3, 3):
        ids = torch.ones(1, length, dtype=torch.long)
        with model.trace(ids, remote=Rehearsal()):
            hidden = model.transformer.h[3].output[0]
    assert len(runs) == 2


def test_other_threads_run_as_ever_meanwhile(model):
    loaded = LanguageModel("nbsight/demo", dispatch=True)
    found: list[bool] = []
    stop = threading.Event()

    def others():
        while not stop.is_set():
            with loaded.trace(PROMPT):
                found.append(type(loaded.transformer.h[3].output[0]).__name__ == "FakeTensor")

    thread = threading.Thread(target=others)
    thread.start()
    for length in range(2, 5):
        with loaded.trace(torch.ones(1, length, dtype=torch.long), remote=Rehearsal()):
            hidden = loaded.transformer.h[11].output[0]
    stop.set()
    thread.join()
    assert found
    assert not any(found)


def test_it_is_for_jobs_that_would_wait():
    model = ModelInfo("gpt2", "ready")
    server = ServerInfo("0", "3", "2", "5", 1, [1], "local", True, Limits(), [model])
    assert not rehearsal.would_wait(server, "gpt2")
    assert rehearsal.would_wait(server, "another")
    for other in (ModelInfo("gpt2", "loading"), ModelInfo("gpt2", "ready", queued=2)):
        assert rehearsal.would_wait(msgspec.structs.replace(server, models=[other]), "gpt2")


def test_what_was_rehearsed_is_never_sent(tmp_path, model, monkeypatch):
    monkeypatch.setenv("NBSIGHT_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(addresses, "_clients", {})
    monkeypatch.setattr(addresses, "_chosen", [])
    with server(tmp_path) as running:
        monkeypatch.setenv("NBSIGHT_HOST", running.url)
        monkeypatch.setenv("NBSIGHT_API_KEY", KEYS["ada"])
        with pytest.raises(RuntimeError, match=r"Expected size|mat1 and mat2"):
            with model.trace(PROMPT, remote=True, rehearse=True):
                hidden = model.transformer.h[5].output[0]
                wrong = hidden @ hidden
        assert running.client().jobs() == []
        with model.trace(PROMPT, remote=True, rehearse=True):
            kept = model.transformer.h[5].output[0].save()
    with model.trace(PROMPT, rehearse=True):
        here = model.transformer.h[5].output[0].save()
    assert torch.allclose(kept, here, atol=1e-6)
