"""Several workers of one model, and models that come and go."""

from __future__ import annotations

import itertools

import pytest

from nbsight.models.language_model import LanguageModel
from tests.server.running import KEYS, server

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A server with two workers, for one job of each owner at a time."""
    with server(tmp_path_factory.mktemp("two"), "--workers", "2", "--max-running", "1") as running:
        yield running


def slow(model: LanguageModel, address: str, seconds: float):
    with model.trace(PROMPT, remote=address, blocking=False) as job:
        import time

        time.sleep(seconds)
    return job


def test_two_owners_run_side_by_side_and_one_waits_for_himself(two, monkeypatch):
    model, jobs = LanguageModel("nbsight/demo"), {}
    for owner, count in (("ada", 3), ("bob", 1)):
        monkeypatch.setenv("NBSIGHT_API_KEY", KEYS[owner])
        jobs[owner] = [slow(model, two.url, 0.3) for _ in range(count)]
    slow_worker = [job.wait().info() for owner in jobs for job in jobs[owner]]
    assert all(info.state == "COMPLETED" for info in slow_worker)
    ada = [job.info() for job in jobs["ada"]]
    for first, second in itertools.pairwise(ada):
        assert second.started >= first.ended
    (bob,) = [job.info() for job in jobs["bob"]]
    assert bob.started < ada[-1].started
    assert len(two.workers()) == 2
