"""The Slurm engine with submitit's own code and a Slurm of four small scripts.

There is no Slurm here: what it does about queues, limits and machines is not tried by this.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from importlib.util import find_spec

import pytest
import torch

from nbsight.models.language_model import LanguageModel
from nbsight.server.settings import RefusedToStart, Settings
from tests.server.running import KEYS, server

PROMPT = "The capital of France is"

_SCRIPTS = {
    # A job is a session of its own; its number is that of its first process.
    "sbatch": """
        setsid env SLURM_JOB_NUM_NODES=1 SLURM_NTASKS=1 SLURM_JOB_NODELIST=here \\
            bash -c 'export SLURM_JOB_ID=$$; exec bash "$0"' "$1" >/dev/null 2>&1 &
        echo "Submitted batch job $!"
        """,
    "srun": """
        while [ "${1#-}" != "$1" ]; do
            case "$1" in --output|--error) shift;; esac
            shift
        done
        export SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0
        exec "$@"
        """,
    "sacct": """
        echo "JobID|State|NodeList"
        for argument in "$@"; do
            case "$argument" in *[!0-9]*|"") continue;; esac
            if kill -0 "$argument" 2>/dev/null; then echo "$argument|RUNNING|here"
            else echo "$argument|COMPLETED|here"; fi
        done
        """,
    "scancel": """
        for argument in "$@"; do
            case "$argument" in *[!0-9]*|"") continue;; esac
            echo "$argument" >> "$0.log"
            kill -TERM -- "-$argument"
        done
        """,
}


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A server whose workers are jobs of Slurm, and the folder of the scripts."""
    if find_spec("submitit") is None:
        pytest.skip("the extra `slurm` is not installed")
    folder = tmp_path_factory.mktemp("bin")
    for name, text in _SCRIPTS.items():
        lines = [line.removeprefix("        ") for line in text.strip("\n").splitlines()]
        (folder / name).write_text("#!/bin/bash\n" + "\n".join(lines) + "\n")
        (folder / name).chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder), prepend=os.pathsep)
        options = ["--engine", "slurm"]
        for option in ("address=127.0.0.1", "slurm_partition=gpu", "timeout_min=30"):
            options += ["--engine-option", option]
        with server(tmp_path_factory.mktemp("slurm"), *options) as running:
            running.scripts = folder
            yield running


def where(model: LanguageModel) -> tuple[int, str]:
    """The process of the worker and its job of Slurm."""
    with model.trace(PROMPT, remote=True):
        import os

        pid, job_id = os.getpid(), os.environ["SLURM_JOB_ID"]
    return pid, job_id


def test_blocks_run_in_allocations_and_survive_them(slurm, model, local_model, monkeypatch):
    monkeypatch.setenv("NBSIGHT_HOST", slurm.url)
    monkeypatch.setenv("NBSIGHT_API_KEY", KEYS["ada"])
    sent = torch.randn(3, 2**20)
    _, job_id = where(model)
    with model.trace(PROMPT, remote=True):
        hidden = model.transformer.h[3].output[0].save()
        back = (sent * 2).save()
    with local_model.trace(PROMPT):
        expected = local_model.transformer.h[3].output[0].save()
    assert torch.equal(hidden, expected)
    assert torch.equal(back, sent * 2)
    scripts = [path.read_text() for path in (slurm.folder / "data" / "slurm").glob("*.sh")]
    assert scripts
    assert all("#SBATCH --partition=gpu" in text for text in scripts)

    with model.trace(PROMPT, remote=True, blocking=False) as job:
        print("begun")
        time.sleep(1)
        again = model.transformer.h[3].output[0].save()
    assert next(event for event in job.client.events(job.id) if event.kind == "log")
    os.killpg(int(job_id), signal.SIGKILL)  # as Slurm does at the end of an allocation's time
    second = job.result(verbose=False)
    assert torch.equal(second["again"], expected)
    assert job.info().attempt == 2
    assert (slurm.scripts / "scancel.log").read_text().split() == [job_id]


def test_the_worker_ends_with_its_server(slurm, model, monkeypatch):
    monkeypatch.setenv("NBSIGHT_HOST", slurm.url)
    monkeypatch.setenv("NBSIGHT_API_KEY", KEYS["ada"])
    pid, _ = where(model)
    slurm.kill()
    slurm.start()
    slurm.wait_ready()
    until = time.monotonic() + 20
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < until:
            os.kill(pid, 0)
            time.sleep(0.1)


def test_what_submitit_does_not_know_is_refused(tmp_path, monkeypatch):
    if find_spec("submitit") is None:
        pytest.skip("the extra `slurm` is not installed")
    from nbsight.server.engines.slurm import SlurmEngine

    settings = Settings(("m",), tmp_path, engine="slurm", engine_options={"cluster": "local", "gpus": "4"})
    with pytest.raises(RefusedToStart, match=r"Slurm cannot be used: .*gpus"):
        SlurmEngine(settings).open()
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    with pytest.raises(RefusedToStart, match="Slurm cannot be used"):
        SlurmEngine(Settings(("m",), tmp_path, engine="slurm")).open()
