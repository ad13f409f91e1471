"""`kill -9` while a model is being loaded, and of who sent a job: what was accepted is run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from nbsight.remote.job import RemoteJob
from nbsight.wire.messages import frame
from tests.server.attacking import a_parcel
from tests.server.running import RunningServer

SENDER = """
import sys, time
from tests.server.attacking import a_parcel
from tests.server.running import KEYS
from nbsight.remote.client import Client
from nbsight.wire.messages import frame
parcel = a_parcel()
stream = Client(sys.argv[1], KEYS["ada"]).submit(frame(parcel.header, parcel.blob))
print(next(stream).data["id"], flush=True)
time.sleep(100)
"""


@pytest.fixture
def starting(tmp_path):
    """A server that has just begun to load its model."""
    server = RunningServer(tmp_path).start()
    yield server
    server.stop()


def submitted(server: RunningServer) -> RemoteJob:
    parcel = a_parcel()
    client = server.client()
    return RemoteJob(client, next(client.submit(frame(parcel.header, parcel.blob))).data["id"])


def loading(server: RunningServer) -> list[int]:
    until = time.monotonic() + 20
    while not server.workers() and time.monotonic() < until:
        time.sleep(0.01)
    return server.workers()


def test_a_job_that_waits_for_its_model_outlives_the_worker_that_loads_it(starting):
    job = submitted(starting)
    pids = loading(starting)
    assert job.info().state in ("QUEUED", "LOADING")
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert job.wait(90, verbose=False).state == "COMPLETED"
    assert job.info().attempt == 1


def test_a_job_outlives_who_sent_it(starting):
    command = [sys.executable, "-c", SENDER, starting.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sender:
        assert sender.stdout is not None
        name = sender.stdout.readline().strip()
        sender.kill()
    assert RemoteJob(starting.client(), name).wait(90, verbose=False).state == "COMPLETED"
