"""What is ended with `kill -9`, at each state of a job, loses nothing that was accepted."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import threading

import pytest
import torch

from nbsight.errors import RemoteError
from nbsight.models.language_model import LanguageModel
from nbsight.remote import addresses
from nbsight.remote.job import RemoteJob
from tests.server.running import KEYS, server

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def mortal(tmp_path_factory):
    """A server to be killed, for all tests of this file."""
    with server(tmp_path_factory.mktemp("mortal")) as running:
        yield running


@pytest.fixture
def there(mortal, monkeypatch):
    """The same, up and with its model loaded, as `remote=True` finds it."""
    assert mortal.process is not None
    if mortal.process.poll() is not None:
        mortal.start()
    mortal.wait_ready()
    monkeypatch.setenv("NBSIGHT_HOST", mortal.url)
    monkeypatch.setenv("NBSIGHT_API_KEY", KEYS["ada"])
    return mortal


def slow_job(model: LanguageModel, seconds: float = 1.0) -> RemoteJob:
    with model.trace(PROMPT, remote=True, blocking=False) as job:
        import time

        print("begun")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.01)
        hidden = model.transformer.h[3].output[0].save()
    return job


def until_it_runs(job: RemoteJob) -> None:
    for event in job.client.events(job.id):
        if event.kind == "log":
            return
    raise AssertionError(f"{job} printed nothing")


def expected(local_model: LanguageModel) -> torch.Tensor:
    with local_model.trace(PROMPT):
        hidden = local_model.transformer.h[3].output[0].save()
    return hidden


def test_a_job_whose_worker_dies_is_run_again(there, model, local_model):
    job = slow_job(model)
    until_it_runs(job)
    for pid in there.workers():
        os.kill(pid, signal.SIGKILL)
    assert torch.equal(job.result()["hidden"], expected(local_model))
    assert job.info().attempt == 2


def test_a_job_that_ends_its_workers_is_given_up(there, model):
    with model.trace(PROMPT, remote=True, blocking=False) as job:
        import os

        os._exit(1)
    with pytest.raises(RemoteError, match="its worker ended while the job ran, 2 times") as caught:
        job.result()
    assert caught.value.code == "lost_worker"
    assert caught.value.retryable


def test_a_server_that_dies_takes_no_job_along(there, model, local_model):
    done = slow_job(model, 0).wait()
    running = slow_job(model, 2.0)
    until_it_runs(running)
    waiting = slow_job(model, 0)
    waiting_seen = waiting.info().state
    pids = there.workers()
    # The one who waits for the running job hears nothing of it.
    results: dict = {}
    waiter = threading.Thread(target=lambda: results.update(running.result(verbose=False)))
    waiter.start()
    there.kill()
    there.start()
    waiter.join(90)
    assert waiting_seen == "QUEUED"
    assert torch.equal(results["hidden"], expected(local_model))
    assert running.info().attempt == 2
    assert torch.equal(waiting.result()["hidden"], expected(local_model))
    assert torch.equal(RemoteJob(done.client, done.id).result()["hidden"], expected(local_model))
    for pid in pids:  # the old server's workers have ended with it
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_cancelled_job_stays_cancelled_when_the_server_dies_before_it_has_stopped(there, model):
    with model.trace(PROMPT, remote=True, blocking=False) as job:
        import time

        print("begun")
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(0.01)
    until_it_runs(job)
    job.cancel()
    there.kill()
    there.start()
    there.wait_ready()
    assert job.info().state == "CANCELLED"


def test_a_job_that_will_not_stop_is_ended_with_its_worker(there, model):
    with model.trace(PROMPT, remote=True, blocking=False, timeout=0.5) as job:
        import time

        while True:
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(0.01)
    with pytest.raises(RemoteError, match="longer than it may"):
        job.result()
    assert slow_job(model, 0).wait().state == "COMPLETED"


def test_the_same_idempotency_key_is_the_same_job(there, model):
    from nbsight.remote.client import _events
    from nbsight.wire.jobs import pack_job
    from nbsight.wire.messages import frame

    class Keep:
        def run(self, job):
            self.data = frame(*pack_job(job)[:2])
            return {}

    keep, other = Keep(), Keep()
    with model.trace(PROMPT, remote=keep):
        x = 1
    with model.trace(PROMPT, remote=other):
        x = 2
    client = there.client()
    headers = {"Idempotency-Key": "once", "Accept": "text/event-stream"}
    ids = []
    for _ in range(2):
        response = client._send("POST", "/v1/jobs", data=keep.data, headers=headers, stream=True)
        ids.append(next(_events(response, client.url)).data["id"])
        response.close()
    assert ids[0] == ids[1]
    with pytest.raises(RemoteError, match="used for job") as caught:
        client._send("POST", "/v1/jobs", data=other.data, headers=headers)
    assert caught.value.code == "key_reused"


def test_events_go_on_after_the_last_one_that_was_heard(there, model):
    job = slow_job(model, 0).wait()
    every = [event for event in job.client.events(job.id) if event.seq]
    assert [event.seq for event in every] == list(range(1, len(every) + 1))
    for event in every:
        later = [item for item in job.client.events(job.id, event.seq) if item.seq]
        assert later == every[event.seq :]


def test_a_second_server_does_not_take_the_folder(there, tmp_path):
    import subprocess
    import sys

    command = [
        sys.executable,
        "-m",
        "nbsight.server",
        "serve",
        "--port",
        "0",
        "--data",
        str(there.folder / "data"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "another server holds" in done.stderr
    assert "--data FOLDER" in done.stderr


def test_the_file_of_jobs_is_for_its_owner_alone(there):
    data = there.folder / "data"
    assert (data / "jobs.sqlite").stat().st_mode & 0o077 == 0
    with sqlite3.connect(data / "jobs.sqlite") as db:
        states = {state for (state,) in db.execute("SELECT state FROM jobs")}
    assert states <= {"COMPLETED", "FAILED", "CANCELLED"}
    db.close()


def test_a_local_server_is_found_without_being_named(tmp_path, monkeypatch, local_model):
    import subprocess
    import sys

    monkeypatch.setenv("NBSIGHT_DATA_DIR", str(tmp_path))
    command = [sys.executable, "-m", "nbsight.server", "serve", "--port", "0"]
    # The same number of threads there and here: otherwise sums are added up in another order.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    process.stdout.readline()
    model = LanguageModel("nbsight/demo")
    with model.trace(PROMPT, remote=True):
        hidden = model.transformer.h[3].output[0].save()
    (file,) = tmp_path.glob("nbsight-*.json")
    mode = file.stat().st_mode & 0o777
    process.send_signal(signal.SIGINT)
    process.wait(20)
    process.stdout.close()
    assert torch.equal(hidden, expected(local_model))
    assert mode == 0o600
    assert not file.exists()
    monkeypatch.setattr(addresses, "_clients", {})
    with pytest.raises(RemoteError, match="none runs on this computer"):
        addresses.find_client(True)
