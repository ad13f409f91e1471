"""Jobs of a server: waited for, cancelled, attached to, told apart by owner; errors that name the cause."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings

import pytest
import requests
import torch

import nbsight
from nbsight.errors import RemoteError
from nbsight.models.language_model import LanguageModel
from nbsight.remote import connect, jobs, listed
from nbsight.remote.client import Client, Unreachable
from nbsight.remote.job import RemoteJob
from tests.server.running import KEYS

PROMPT = "The capital of France is"


def hooked(model, layer):
    """A hidden state by a plain hook."""
    found = []
    handle = model._model.transformer.h[layer].register_forward_hook(lambda _, __, out: found.append(out))
    with torch.no_grad():
        model._model(torch.tensor([model.tokenizer(PROMPT)["input_ids"]]))
    handle.remove()
    return found[0] if isinstance(found[0], torch.Tensor) else found[0][0]


# -- values ----------------------------------------------------------------------------------------


def test_a_model_without_weights_gets_the_numbers_of_one_with_them(ada, model, local_model):
    with model.trace(PROMPT, remote=True):
        hidden = model.transformer.h[3].output[0].save()
    assert not model._dispatched
    assert torch.equal(hidden, hooked(local_model, 3))


def test_an_address_names_the_server_too(running, model, local_model, monkeypatch):
    monkeypatch.setenv("NBSIGHT_API_KEY", KEYS["ada"])
    with model.trace(PROMPT, remote=running.url):
        hidden = model.transformer.h[3].output[0].save()
    assert torch.equal(hidden, hooked(local_model, 3))


def test_a_kept_edit_acts_on_the_server_and_is_gone_afterwards(ada, model, local_model):
    scale = 3.0
    with model.edit() as edited:
        model.transformer.h[3].output[0][:] *= scale
    with edited.trace(PROMPT, remote=True):
        hidden = model.transformer.h[3].output[0].save()
    with model.trace(PROMPT, remote=True):
        plain = model.transformer.h[3].output[0].save()
    assert torch.equal(plain, hooked(local_model, 3))
    assert torch.equal(hidden, plain * scale)


def test_an_edit_of_the_model_itself_and_other_names_travel(ada, local_model):
    model = LanguageModel("nbsight/demo", rename={"transformer.h": "blocks"})
    with model.edit(inplace=True):
        model.blocks[3].output[0][:] = 0
    with model.trace(PROMPT, remote=True):
        hidden = model.blocks[3].output[0].save()
    assert torch.equal(hidden, torch.zeros_like(hooked(local_model, 3)))


def test_a_class_that_shows_literal_values_shows_them_there_too(ada, local_model):
    model = nbsight.TransformersModel("nbsight/demo", task="text-generation")
    with model.trace(PROMPT, remote=True):
        logits = model.output.logits.save()
    with local_model.trace(PROMPT):
        wanted = local_model.output.save()
    assert torch.equal(logits, torch.as_tensor(wanted))


def test_a_scan_needs_no_server(model):
    with model.scan(PROMPT, remote=True):
        shape = tuple(model.transformer.h[3].output[0].shape)
    assert shape == (1, 5, 64)


def test_a_result_of_many_megabytes_arrives_whole(ada, model):
    with model.trace(PROMPT, remote=True):
        large = torch.arange(10_000_000, dtype=torch.float32).save()
    assert torch.equal(large, torch.arange(10_000_000, dtype=torch.float32))


# -- what a block prints ---------------------------------------------------------------------------


def test_what_a_block_prints_is_printed_here(ada, model, capsys):
    with model.trace(PROMPT, remote=True):
        print("shape", tuple(model.transformer.h[3].output[0].shape))
        hidden = model.transformer.h[3].output[0].mean().save()
    assert capsys.readouterr().out == "shape (1, 5, 64)\n"


def test_a_bar_is_progress_and_not_output(ada, model, capsys):
    with model.trace(PROMPT, remote=True, blocking=False) as job:
        import time

        from tqdm import tqdm

        for _ in tqdm(range(5), desc="layers"):
            time.sleep(0.02)
        hidden = model.transformer.h[3].output[0].mean().save()
    texts = [event.data["text"] for event in job.client.events(job.id) if event.kind == "progress"]
    job.wait()
    assert any("layers" in text and "5/5" in text for text in texts)
    assert "layers" not in capsys.readouterr().out


def test_a_generation_says_how_many_tokens_there_are(ada, model):
    options = {"max_new_tokens": 40, "min_new_tokens": 40, "do_sample": False}
    with model.generate(PROMPT, **options, remote=True, blocking=False) as job:
        import time

        for _ in job.iter[:]:
            time.sleep(0.02)
    job.wait()
    told = [event.data for event in job.client.events(job.id) if event.kind == "progress"]
    assert len(told) >= 3
    assert all(data["text"] == f"token {data['done']} of 40" for data in told)
    assert [data["done"] for data in told] == sorted({data["done"] for data in told})


def test_a_warning_of_the_run_is_given_here_on_the_users_line(ada, model):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with model.trace(PROMPT, remote=True):
            late = model.transformer.h[5].output[0].save()
            early = model.transformer.h[2].output[0].save()
    (warning,) = [item for item in caught if item.category is nbsight.OrderNotice]
    assert warning.filename == __file__


# -- jobs ------------------------------------------------------------------------------------------


def test_a_job_goes_on_by_itself_and_is_found_by_its_id(ada, model, local_model):
    with model.trace(PROMPT, remote=True, blocking=False) as job:
        print("hello")
        hidden = model.transformer.h[3].output[0].save()
        changed = 3
    assert isinstance(job, RemoteJob)
    assert job.result()["changed"] == 3
    assert job.state == "COMPLETED"
    assert job.log == "hello\n"
    attached = jobs[job.id[:6]]
    assert torch.equal(attached.result()["hidden"], hooked(local_model, 3))
    assert jobs[0].id == job.id
    assert job.id in repr(jobs)
    with model.trace(PROMPT, remote=True, job_id=job.id):
        hidden = None
    assert torch.equal(hidden, hooked(local_model, 3))


def test_sent_jobs_are_listed_with_others_and_followed_to_their_end(ada, model, monkeypatch):
    from nbsight.core import jobs as rows

    monkeypatch.setattr(listed, "PAUSE", 0.1)
    heard = []
    monkeypatch.setattr(rows, "listeners", [heard.append])
    with model.trace(PROMPT, remote=True):
        print("one")
        print("two")
        hidden = model.transformer.h[3].output[0].save()
    waited = heard[-1]
    assert (waited.kind, waited.model, waited.state) == ("remote", "nbsight/demo", "done")
    assert list(waited.log) == ["one", "two"]
    assert not waited.is_detached
    with model.trace(PROMPT, remote=True, blocking=False) as job:
        hidden = model.transformer.h[3].output[0].mean().save()
    row = heard[-1]
    assert row.is_detached
    deadline = time.monotonic() + 20
    while not row.is_over and time.monotonic() < deadline:
        time.sleep(0.05)
    assert row.state == "done"  # nobody has waited for it
    names: dict = {}
    exec(row.code, names)
    assert torch.equal(names["result"]["hidden"], job.result()["hidden"])


def test_a_listed_job_is_cancelled_on_its_server(ada, model, monkeypatch):
    from nbsight.core import jobs as rows

    heard = []
    monkeypatch.setattr(rows, "listeners", [heard.append])
    with model.trace(PROMPT, remote=True, blocking=False) as job:
        import time

        time.sleep(2)
        hidden = model.transformer.h[3].output[0].save()
    heard[-1].cancel()
    with pytest.raises(RemoteError, match="cancelled"):
        job.result()
    assert heard[-1].state == "stopped"


def test_another_process_gets_the_result(ada, model):
    with model.trace(PROMPT, remote=True, blocking=False) as job:
        hidden = model.transformer.h[3].output[0].save()
        rows = [1, 2]
    program = f"""
        from nbsight.remote import jobs
        found = jobs[{job.id!r}].result()
        print(tuple(found["hidden"].shape), found["rows"])
    """
    environment = {**os.environ, "NBSIGHT_HOST": ada.url, "NBSIGHT_API_KEY": KEYS["ada"]}
    command = [sys.executable, "-c", textwrap.dedent(program)]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60).stdout
    assert out == "(1, 5, 64) [1, 2]\n"


def test_a_failed_job_tells_its_error_again_when_it_is_attached_to(ada, model):
    with model.trace(PROMPT, remote=True, blocking=False) as job:
        x = {}["missing"]
    for found in (job, jobs[job.id]):
        with pytest.raises(KeyError, match="missing"):
            found.result()


def test_a_cancelled_job_stops_and_the_worker_goes_on(ada, model):
    pids = ada.workers()
    with model.trace(PROMPT, remote=True, blocking=False) as job:
        import time

        print("begun")
        while True:
            time.sleep(0.01)
    while not any(event.kind == "log" for event in job.client.events(job.id) if event.kind != "job"):
        pass
    job.cancel().wait()
    assert job.state == "CANCELLED"
    with pytest.raises(RemoteError, match="cancelled"):
        job.result()
    with model.trace(PROMPT, remote=True):
        fine = model.transformer.h[3].output[0].mean().save()
    assert ada.workers() == pids


def test_a_waiting_job_is_cancelled_at_once(ada, model):
    with model.trace(PROMPT, remote=True, blocking=False) as first:
        import time

        time.sleep(1)
    with model.trace(PROMPT, remote=True, blocking=False) as second:
        x = 1
    assert second.cancel().state == "CANCELLED"
    assert first.wait().state == "COMPLETED"


def test_an_endless_loop_meets_the_time_limit(ada, model):
    began = time.monotonic()
    with pytest.raises(RemoteError, match="longer than it may") as caught:
        with model.trace(PROMPT, remote=True, timeout=0.5):
            while True:
                pass
    assert caught.value.code == "time_limit"
    assert time.monotonic() - began < 5


def test_an_interrupt_lets_the_job_go_on_and_a_second_one_cancels_it(ada):
    program = """
        from nbsight.models.language_model import LanguageModel
        model = LanguageModel("nbsight/demo")
        for seconds in (1, 15):
            try:
                with model.trace("The capital of France is", remote=True):
                    import time
                    print("begun", flush=True)
                    for _ in range(100 * seconds):
                        time.sleep(0.01)
                    done = 1
            except KeyboardInterrupt:
                print("stopped", flush=True)
    """
    path = ada.folder / "interrupted.py"
    path.write_text(textwrap.dedent(program))
    environment = {**os.environ, "NBSIGHT_HOST": ada.url, "NBSIGHT_API_KEY": KEYS["ada"]}
    process = subprocess.Popen(
        [sys.executable, str(path)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    for interrupts in (1, 2):
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        while "goes on without this cell" not in process.stderr.readline():
            pass
        if interrupts == 2:
            process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "stopped\n"
    process.communicate(timeout=20)
    newest = [RemoteJob(ada.client(), info.id).wait().state for info in ada.client().jobs(2)]
    assert newest == ["CANCELLED", "COMPLETED"]


# -- owners and keys -------------------------------------------------------------------------------


def test_nobody_sees_the_jobs_of_another_owner(ada, model):
    with model.trace(PROMPT, remote=True, blocking=False) as job:
        secret = 1
    job.wait()
    bob = ada.client("bob")
    assert bob.whoami() == "bob"
    assert job.id not in [info.id for info in bob.jobs()]
    for ask in (bob.job, bob.cancel, bob.delete, bob.result, lambda id_: list(bob.events(id_))):
        with pytest.raises(RemoteError, match="you have no job") as caught:
            ask(job.id)
        assert caught.value.code == "unknown_job"
    assert job.info().state == "COMPLETED"


ROUTES = [
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/v1/openapi.json"),
    ("GET", "/v1/info"),
    ("GET", "/v1/whoami"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/nbsight/demo"),
    ("POST", "/v1/models/nbsight/demo/load"),
    ("POST", "/v1/jobs"),
    ("GET", "/v1/jobs"),
    ("GET", "/v1/jobs/abcd"),
    ("DELETE", "/v1/jobs/abcd"),
    ("GET", "/v1/jobs/abcd/events"),
    ("GET", "/v1/jobs/abcd/result"),
    ("POST", "/v1/jobs/abcd/cancel"),
]


@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "Bearer ", "Basic key-of-ada-0123456789"])
def test_every_route_wants_a_known_key(running, authorization):
    headers = {} if authorization is None else {"Authorization": authorization}
    for method, path in ROUTES:
        answer = requests.request(method, running.url + path, headers=headers, timeout=5)
        assert (method, path, answer.status_code) == (method, path, 401)
        assert answer.json()["error"]["code"] == "unauthorized"


def test_those_are_all_the_routes(tmp_path):
    from nbsight.server.app import make_app
    from nbsight.server.settings import Settings

    app = make_app(Settings(("m",), tmp_path), None)
    there = {(method, route.path) for route in app.routes for method in route.methods - {"HEAD"}}
    asked = {
        (method, path.replace("abcd", "{job}").replace("nbsight/demo", "{model:path}"))
        for method, path in ROUTES
    }
    assert there == asked


def test_a_page_of_another_site_is_not_answered(running):
    headers = {"Authorization": f"Bearer {KEYS['ada']}"}
    for more in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}):
        assert requests.get(f"{running.url}/v1/info", headers=headers | more, timeout=5).status_code == 403


def test_a_wrong_key_is_said_before_anything_is_sent(running, model, monkeypatch):
    monkeypatch.setenv("NBSIGHT_API_KEY", "wrong")
    with pytest.raises(RemoteError, match="does not know this key") as caught:
        with model.trace(PROMPT, remote=running.url):
            x = 1
    assert caught.value.code == "unauthorized"
    monkeypatch.delenv("NBSIGHT_API_KEY")
    with pytest.raises(RemoteError, match="wants a key, and none is known here"):
        with model.trace(PROMPT, remote=running.url):
            x = 1


# -- what cannot be sent ---------------------------------------------------------------------------


def test_a_host_that_nobody_answers_at_is_named(model):
    with pytest.raises(
        Unreachable, match=r"http://127.0.0.1:9: nobody listens there. `nbsight serve` starts one"
    ):
        with model.trace(PROMPT, remote="http://127.0.0.1:9"):
            x = 1


def test_without_a_server_it_is_said_how_to_start_one(model):
    with pytest.raises(RemoteError, match=r"none runs on this computer\. Start one with `nbsight serve`"):
        with model.trace(PROMPT, remote=True):
            x = 1


def test_another_program_at_the_address_is_no_server(model):
    import http.server

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *_):
            pass

    other = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    with pytest.raises(RemoteError, match="is no nbsight server"):
        connect(f"http://127.0.0.1:{other.server_port}", "some-key")
    other.shutdown()
    other.server_close()


def test_what_cannot_travel_is_named_and_nothing_is_sent(ada, model):
    before = len(ada.client().jobs(10_000))
    lock = threading.Lock()
    with pytest.raises(
        RemoteError, match=r"`lock` \(_thread.lock\) cannot travel.*\n  line \d+: lock.locked\(\)"
    ):
        with model.trace(PROMPT, remote=True):
            lock.locked()
    assert len(ada.client().jobs(10_000)) == before


def test_a_model_that_the_server_cannot_load_is_said_with_the_reason(ada, tmp_path):
    model = LanguageModel("nbsight/demo")
    model._name = str(tmp_path / "nowhere")
    with pytest.raises(nbsight.NbsightError, match="nowhere") as caught:
        with model.trace(PROMPT, remote=True):
            x = 1
    assert type(caught.value).__name__ == "ModelLoadError"


def test_another_tree_under_the_same_name_is_shown_as_a_difference(ada, model):
    del model._module.transformer.h[11]
    with pytest.raises(RemoteError, match=r"other modules on the server.*\n  only there: transformer.h.11"):
        with model.trace(PROMPT, remote=True):
            x = 1


def test_a_module_of_the_users_is_refused_with_what_to_do(ada, local_model):
    model = LanguageModel(local_model._module, tokenizer=local_model.tokenizer)
    with pytest.raises(RemoteError, match="Open it by name"):
        with model.trace(PROMPT, remote=True):
            x = 1


def test_no_path_of_the_senders_is_in_the_parcel(ada, model):
    from nbsight.core import backend
    from nbsight.wire.jobs import pack_job

    def helper(x):
        return x * 2

    class Look:
        def run(self, job):
            self.parcel = pack_job(job)
            return {}

    look = Look()
    with model.trace(PROMPT, remote=look):
        h = helper(model.transformer.h[3].output[0]).save()
    assert os.path.dirname(__file__).encode() not in look.parcel.header
    assert look.parcel.files == {os.path.basename(__file__): __file__}
    assert backend is not None


def test_a_result_over_the_limit_is_refused_with_its_size(ada, model):
    with pytest.raises(
        RemoteError, match=r"the result has [\d,]+ bytes, and 214,748,364 are the most"
    ) as caught:
        with model.trace(PROMPT, remote=True):
            large = torch.zeros(60_000_000).save()
    assert caught.value.code == "result_too_large"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's address space")
@pytest.mark.parametrize("block", ["torch.zeros(10**12)", '"a" * 10**12', "torch.ones(30_000, 30_000)"])
def test_more_memory_than_allowed_is_an_error_and_the_worker_goes_on(ada, model, block):
    pids = ada.workers()
    path = ada.folder / "greedy.py"
    path.write_text(f"def go(model):\n    with model.trace({PROMPT!r}, remote=True):\n        x = {block}\n")
    names = {"torch": torch}
    exec(compile(path.read_text(), str(path), "exec"), names)
    with pytest.raises((MemoryError, RuntimeError)):
        names["go"](model)
    assert ada.workers() == pids


def test_a_jobs_gradients_do_not_reach_the_next_job(ada, model):
    for _ in range(2):
        with model.trace(PROMPT, remote=True):
            before = model.transformer.wte.weight.grad is None
            model.output[0, -1].logsumexp(-1).backward()
    assert before is True


def test_the_numbers_of_the_server_are_told(ada):
    text = requests.get(
        f"{ada.url}/metrics", headers={"Authorization": f"Bearer {KEYS['ada']}"}, timeout=5
    ).text
    assert 'nbsight_jobs{state="COMPLETED"}' in text
    assert 'nbsight_workers{state="' in text
    assert Client(ada.url, KEYS["ada"]).describe().startswith(ada.url)
