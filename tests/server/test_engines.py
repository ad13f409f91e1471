"""The same checks on every engine: processes of this machine, and a real Ray cluster of two machines.

The cluster is of this computer: a head that holds nothing, and two raylets that hold workers, one of
which is taken away in the last test.
"""

from __future__ import annotations

import os
import secrets
import signal
import time
from importlib.util import find_spec

import pytest
import torch

from nbsight.errors import RemoteError
from nbsight.models.language_model import LanguageModel
from tests.server.running import KEYS, RunningServer, server

PROMPT = "The capital of France is"
#: What Ray is told that each machine has: room for one worker.
ROOM = 1_500_000_000


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster; its address and a way to take a machine away."""
    if find_spec("ray") is None:  # not imported: Ray looks at its variables when it is
        pytest.skip("the extra `ray` is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        from ray.cluster_utils import Cluster

        small = {"num_cpus": 0, "object_store_memory": 80 * 2**20}
        head = {**small, "memory": 1, "include_dashboard": False}
        it = Cluster(initialize_head=True, head_node_args=head)
        try:
            it.taken = it.add_node(**small, memory=ROOM)
            it.add_node(**small, memory=ROOM)
            yield it
        finally:
            it.shutdown()


@pytest.fixture(scope="module", params=["local", "ray"])
def two(request, tmp_path_factory):
    """A server of two workers."""
    options = ["--workers", "2", "--engine", request.param, "--timeout", "30"]
    if request.param == "ray":
        address = request.getfixturevalue("cluster").address
        options += ["--engine-option", f"address={address}", "--idle", "0.05"]
        options += ["--engine-option", "worth=0.01"]
    with server(tmp_path_factory.mktemp(request.param), *options) as running:
        running.engine = request.param
        yield running


@pytest.fixture
def there(two, monkeypatch) -> RunningServer:
    """The same, as `remote=True` finds it."""
    monkeypatch.setenv("NBSIGHT_HOST", two.url)
    monkeypatch.setenv("NBSIGHT_API_KEY", KEYS["ada"])
    return two


def slow_job(model: LanguageModel, seconds: float):
    with model.trace(PROMPT, remote=True, blocking=False) as job:
        import os
        import time

        print(os.getpid(), os.getppid())
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.01)
        pid = os.getpid()
        hidden = model.transformer.h[3].output[0].save()
    return job


def pids_of(job) -> list[int]:
    """The worker of a job, once it has begun, and the process that started the worker."""
    for event in job.client.events(job.id):
        if event.kind == "log":
            return [int(word) for word in event.data["text"].split()]
    raise AssertionError(f"{job} printed nothing")


def expected(local_model: LanguageModel) -> torch.Tensor:
    with local_model.trace(PROMPT):
        hidden = local_model.transformer.h[3].output[0].save()
    return hidden


def both_busy(model: LanguageModel, seconds: float = 3.0) -> list:
    """Two jobs that run on two workers; the second worker is started if it must be."""
    jobs = [slow_job(model, seconds) for _ in range(20)]  # more than its load takes

    def running() -> list:
        return [job for job in jobs if job.info().state == "RUNNING"]

    until(lambda: len(running()) == 2)
    busy = running()
    for job in jobs:
        if job not in busy:
            job.cancel()
    assert len(busy) == 2
    return busy


def workers(running: RunningServer) -> int:
    return running.client().info(fresh=True).models[0].workers


def until(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.05)


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_numbers_are_those_of_a_run_here(there, model, local_model):
    with model.trace(PROMPT, remote=True):
        print("printed there")
        hidden = model.transformer.h[3].output[0].save()
    assert torch.equal(hidden, expected(local_model))


def test_large_requests_and_results_arrive_whole(there, model):
    sent = torch.randn(3, 2**20)  # twelve megabytes: three parts
    with model.trace(PROMPT, remote=True):
        back = torch.cat([sent * 2, sent]).save()
    assert torch.equal(back, torch.cat([sent * 2, sent]))


def test_errors_stand_on_the_users_line(there, model):
    with pytest.raises(RuntimeError, match=r"mat1|size|shape"):
        with model.trace(PROMPT, remote=True):
            hidden = model.transformer.h[3].output[0]
            wrong = hidden @ hidden
    with model.trace(PROMPT, remote=True):
        fine = model.output.save()
    assert fine.shape[0] == 1


def test_a_second_worker_comes_when_the_queue_is_worth_it(there, model, monkeypatch):
    jobs = []
    for owner in KEYS:
        monkeypatch.setenv("NBSIGHT_API_KEY", KEYS[owner])
        jobs += [slow_job(model, 1.0) for _ in range(6)]
    pids = {job.result(verbose=False)["pid"] for job in jobs}
    assert len(pids) == 2
    assert {job.info().attempt for job in jobs} == {1}


def test_an_idle_worker_of_a_cluster_ends_but_the_last_one_stays(there):
    if there.engine == "local":
        assert workers(there) == 2  # a process of one's own machine stays
    else:
        until(lambda: workers(there) == 1, 30)
        time.sleep(1)
        assert workers(there) == 1


def test_a_job_that_is_cancelled_ends(there, model):
    job = slow_job(model, 60)
    pid, _ = pids_of(job)
    job.cancel()
    assert job.wait(30).state == "CANCELLED"
    assert is_there(pid)  # the job ended, its worker goes on


def test_a_job_that_will_not_stop_ends_with_its_worker(there, model):
    with model.trace(PROMPT, remote=True, blocking=False, timeout=1.0) as job:
        import contextlib
        import os
        import time

        print(os.getpid(), os.getppid())
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(0.01)
    pid, _ = pids_of(job)
    with pytest.raises(RemoteError, match="longer than it may"):
        job.result(verbose=False)
    until(lambda: not is_there(pid), 20)


def test_jobs_whose_worker_or_agent_is_killed_are_run_again(there, model, local_model):
    jobs = both_busy(model)
    first, second = (pids_of(job) for job in jobs[:2])
    os.kill(first[0], signal.SIGKILL)
    if there.engine == "ray":
        os.kill(second[1], signal.SIGKILL)
        until(lambda: not is_there(second[0]))  # a worker does not outlive its agent
    for job in jobs:
        assert torch.equal(job.result(verbose=False)["hidden"], expected(local_model))
    assert [job.info().attempt for job in jobs[:2]] == ([2, 2] if there.engine == "ray" else [2, 1])


def test_a_server_that_dies_takes_no_job_along(there, model, local_model):
    job = slow_job(model, 1.0)
    worker, _ = pids_of(job)
    there.kill()
    there.start()
    assert torch.equal(job.result(verbose=False)["hidden"], expected(local_model))
    assert job.info().attempt == 2
    until(lambda: not is_there(worker))


def test_a_job_on_a_machine_that_is_lost_is_run_on_another(there, model, local_model, request):
    if there.engine == "local":
        pytest.skip("the local engine has one machine, and this test runs on it")
    jobs = both_busy(model, 10.0)  # Ray takes seconds to end what ran on a lost machine
    cluster = request.getfixturevalue("cluster")
    cluster.remove_node(cluster.taken, allow_graceful=False)
    for job in jobs:
        assert torch.equal(job.result(verbose=False)["hidden"], expected(local_model))
    assert sorted(job.info().attempt for job in jobs[:2]) == [1, 2]
