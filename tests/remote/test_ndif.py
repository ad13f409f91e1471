"""Blocks on NDIF: a fake one in a process of its own, which reads them with nnsight's own deserialiser."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
import urllib.request

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from nbsight import LanguageModel
from nbsight.core.saving import save
from nbsight.errors import NbsightWarning, RemoteError
from nbsight.remote import addresses, jobs

if importlib.util.find_spec("nnsight") is None:
    pytest.skip('nnsight is not installed: pip install "nbsight[ndif]"', allow_module_level=True)

KEY = "ndif-key"
PROMPT = "The capital of France is"


class Fake:
    """The fake NDIF's address, and how it behaves."""

    def __init__(self, url: str) -> None:
        self.url = url

    def behave(self, **how) -> list[dict]:
        request = urllib.request.Request(f"{self.url}/behave", json.dumps(how).encode(), method="POST")
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["seen"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny GPT-2 with the shipped model's tokenizer, in a folder of its own."""
    path = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    tokenizer = LanguageModel("nbsight/demo").tokenizer
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=4, n_head=4)
    GPT2LMHeadModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def fake(folder):
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.remote.fake_ndif", folder, folder],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert url.startswith("http://"), "the fake NDIF did not start"
    yield Fake(url)
    process.kill()
    process.wait(10)
    process.stdout.close()


@pytest.fixture(autouse=True)
def ndif(fake, monkeypatch, tmp_path):
    """NDIF is the fake one, and nobody's own files and keys are touched."""
    monkeypatch.setenv("NBSIGHT_DATA_DIR", str(tmp_path))
    for name in ("NBSIGHT_HOST", "NBSIGHT_API_KEY", "NBSIGHT_TRUST_NDIF"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NDIF_HOST", fake.url)
    monkeypatch.setenv("NDIF_API_KEY", KEY)
    monkeypatch.setattr(addresses, "_clients", {})
    monkeypatch.setattr(addresses, "_chosen", [])
    fake.behave()
    return fake


@pytest.fixture(params=[False, True], ids=["bare", "tuples"])
def shapes(request, ndif):
    """Both ways in which the service's blocks may return their state."""
    ndif.behave(as_tuple=request.param)
    return request.param


@pytest.fixture(scope="module")
def model(folder):
    return LanguageModel(folder)


@pytest.fixture(scope="module")
def here(folder):
    """The same model with its weights."""
    return LanguageModel(folder, dispatch=True)


def plain_states(here, prompt=PROMPT):
    """Each block's output and the logits, by plain hooks."""
    states = []
    hooks = [
        block.register_forward_hook(
            lambda module, inputs, output: states.append(output[0] if isinstance(output, tuple) else output)
        )
        for block in here._module.transformer.h
    ]
    with torch.no_grad():
        logits = here._module(**here.tokenizer(prompt, return_tensors="pt")).logits
    for hook in hooks:
        hook.remove()
    return states, logits


def close(one, other):
    return torch.allclose(one, other, atol=1e-5)


def test_what_is_read_there_is_what_a_plain_hook_reads_here(model, here, shapes):
    states, logits = plain_states(here)
    with model.trace(PROMPT, remote="ndif"):
        third = model.transformer.h[2].output[0].save()
        last = model.transformer.h[2].output[:, -1].save()
        shape = save(tuple(model.transformer.h[2].output.shape))
        out = model.output
        top = out[0, -1].argmax().save()
        same = out.logits.save()
    assert third.shape == states[2].shape
    assert close(third, states[2])
    assert close(last, states[2][:, -1])
    assert shape == tuple(states[2].shape)
    assert top == logits[0, -1].argmax()
    assert close(same, logits)


def test_edits_in_place_and_by_assignment_act_there_as_here(model, here, shapes):
    direction = torch.arange(32.0)
    blocks = list(here.transformer.h)
    with here.trace(PROMPT):
        blocks[1].output[0][:, -1] += direction
        here.transformer.h[2].output = here.transformer.h[2].output[0] * 2
        here.transformer.h[3].output += 1
        expected = here.output.logits.save()
    blocks = [model.transformer.h[i] for i in range(4)]
    with model.trace(PROMPT, remote="ndif"):
        blocks[1].output[0][:, -1] += direction
        model.transformer.h[2].output = model.transformer.h[2].output[0] * 2
        model.transformer.h[3].output += 1
        logits = model.output.logits.save()
    assert close(logits, expected)


def test_a_name_for_an_output_answers_both_ways(model, here, shapes):
    with here.trace(PROMPT):
        state = here.transformer.h[1].output
        state[0][:, 0] = 0
        expected = here.output.logits.save()
    with model.trace(PROMPT, remote="ndif"):
        state = model.transformer.h[1].output
        state[0][:, 0] = 0
        logits = model.output.logits.save()
    assert close(logits, expected)


def test_prompts_of_one_block_and_sessions_and_generation_run_there(model, here, ndif):
    with model.trace(remote="ndif") as tracer:
        with tracer.invoke(PROMPT):
            first = model.transformer.h[3].output[0].save()
        with tracer.invoke("The capital of Spain is"):
            second = model.transformer.h[3].output[0].save()
    assert close(first, plain_states(here)[0][3])
    assert close(second, plain_states(here, "The capital of Spain is")[0][3])
    with model.session(remote="ndif"):
        with model.trace(PROMPT):
            state = model.transformer.h[0].output[0]
        with model.trace("The capital of Spain is"):
            twice = (state * 2).save()
    assert close(twice, plain_states(here)[0][0] * 2)
    with model.generate(PROMPT, max_new_tokens=3, do_sample=False, remote="ndif") as tracer:
        ids = tracer.result.save()
    with here.generate(PROMPT, max_new_tokens=3, do_sample=False) as tracer:
        expected = tracer.result.save()
    assert ids.tolist() == expected.tolist()


def test_a_job_is_attached_to_by_its_id_also_from_another_process(model, here, ndif):
    ndif.behave(pause=0.2)
    with model.trace(PROMPT, remote="ndif", blocking=False) as job:
        state = model.transformer.h[1].output[0].save()
        forgotten = model.transformer.h[1].output[0] * 1
    assert job.state == "QUEUED"
    script = (
        "from nbsight.remote import jobs\n"
        f"job = jobs[{job.id[:6]!r}]\nvalues = job.result()\n"
        "print(job.state, tuple(values['state'].shape), 'saved' in repr(values['forgotten']))\n"
    )
    environment = {**os.environ, "NBSIGHT_HOST": "ndif", "OMP_NUM_THREADS": "1"}
    out = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert out.stdout == "COMPLETED (1, 5, 32) True\n", out.stderr
    assert close(job.result()["state"], plain_states(here)[0][1])
    with model.trace(PROMPT, remote="ndif", job_id=job.id):
        state = model.transformer.h[1].output[0].save()
    assert close(state, plain_states(here)[0][1])


def test_statuses_come_in_our_words(model, ndif, monkeypatch):
    ndif.behave(pause=0.5, before=["QUEUED", "PROVISIONING", "DISPATCHED"])
    heard = []
    with model.trace(PROMPT, remote="ndif", blocking=False) as job:
        state = model.transformer.h[1].output[0].save()
    changed = type(job)._changed
    monkeypatch.setattr(
        type(job), "_changed", lambda self, data: (heard.append(data["state"]), changed(self, data))[1]
    )
    job.wait(30)
    assert [state for at, state in enumerate(heard) if heard[at - 1 : at] != [state]] == [
        "QUEUED",
        "LOADING",
        "QUEUED",
        "RUNNING",
        "COMPLETED",
    ]
    monkeypatch.setenv("NBSIGHT_HOST", "ndif")
    assert jobs[0].id == job.id
    assert job.id in repr(jobs)
    with pytest.raises(RemoteError, match="no way to end a job"):
        job.cancel()


def test_an_error_arrives_on_the_users_line(model, ndif):
    with pytest.raises(RuntimeError, match=r"mat1 and mat2|size|shape") as caught:
        with model.trace(PROMPT, remote="ndif", rehearse=False):
            state = model.transformer.h[1].output[0]

            # a comment and an empty line, which unparsing would lose
            wrong = state[0] @ state[0]
    entry = caught.traceback[-1]
    assert entry.path.name == "test_ndif.py"
    assert "state[0] @ state[0]" in str(entry.statement)


def test_a_wrong_key_an_unknown_model_and_an_unknown_job_are_said(model, ndif, monkeypatch, tmp_path):
    monkeypatch.setenv("NDIF_API_KEY", "your_key_here")
    with pytest.raises(RemoteError, match="does not take the key: invalid API key") as caught:
        with model.trace(PROMPT, remote="ndif"):
            state = model.transformer.h[1].output[0].save()
    assert caught.value.code == "unauthorized"
    monkeypatch.setenv("NDIF_API_KEY", KEY)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    other = LanguageModel("nbsight/demo")
    with pytest.raises(RemoteError, match=r'no "nbsight/demo" at work.*TransformersModel'):
        with other.trace(PROMPT, remote="ndif"):
            state = other.transformer.h[1].output[0].save()
    with pytest.raises(RemoteError, match="knows no job"):
        with model.trace(PROMPT, remote="ndif", job_id="3f97"):
            state = model.transformer.h[1].output[0].save()


def test_what_cannot_travel_is_named_before_anything_is_sent(model, ndif):
    before = len(ndif.behave())
    lock = threading.Lock()
    with pytest.raises(RemoteError, match=r"`lock` \(_thread.lock\) cannot travel"):
        with model.trace(PROMPT, remote="ndif"):
            state = model.transformer.h[1].output[0].save()
            lock.acquire()
    third = model.layers[2]
    with pytest.raises(RemoteError, match=r"model.transformer.h\[3\]"):
        with model.trace(PROMPT, remote="ndif"):
            state = third.resid_post.save()
    with pytest.raises(RemoteError, match="sets its own limit"):
        with model.trace(PROMPT, remote="ndif", timeout=3):
            state = model.transformer.h[1].output[0].save()
    assert len(ndif.behave()) == before


def test_a_result_that_could_run_code_is_opened_when_told_to(model, ndif):
    with model.trace(PROMPT, remote="ndif", blocking=False) as job:
        whole = save(model.output.past_key_values)
    with pytest.raises(RemoteError, match=r"runs code that NDIF chooses.*trust=True"):
        job.result()
    assert type(job.result(trust=True)["whole"]).__name__ == "DynamicCache"


def test_a_full_disk_loses_no_job(model, here, ndif, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nbsight.remote.ndif.records.write_private", full)
    with pytest.warns(NbsightWarning, match=r"could not be written down.*No space left"):
        with model.trace(PROMPT, remote="ndif"):
            state = model.transformer.h[1].output[0].save()
    assert close(state, plain_states(here)[0][1])


def test_nothing_of_nnsight_stays_on_objects_or_torch(model, ndif):
    script = (
        "import os, torch, nbsight\nfrom nbsight.remote.ndif.twin import _nnsight\n"
        "backward = torch.Tensor.backward\n_nnsight()\n"
        "print(torch.Tensor.backward is backward, hasattr(object(), 'save'), 'NNSIGHT_CONFIG' in os.environ)"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert out.stdout == "True False False\n", out.stderr


def test_remote_true_means_ndif_where_only_its_key_is_known(model, here, ndif):
    with model.trace(PROMPT, remote=True):
        state = model.transformer.h[1].output[0].save()
    assert close(state, plain_states(here)[0][1])
