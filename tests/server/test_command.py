"""The `nbsight` command: what it says, keeps, and refuses."""

from __future__ import annotations

import click.testing
import pytest

from nbsight.server import cli
from nbsight.server.access import read_keys
from nbsight.wire.discovery import saved_keys
from tests.server.running import KEYS

PROMPT = "The capital of France is"


def run(*words: str, **options):
    return click.testing.CliRunner().invoke(cli.main, list(words), **options)


def test_jobs_and_status_are_tables(ada, model):
    with model.trace(PROMPT, remote=True, blocking=False) as job:
        x = 1
    job.wait()
    out = run("jobs", "--limit", "1").output.splitlines()
    assert out[0].split() == ["id", "state", "model", "kind", "age", "ran", "result", "block"]
    assert job.id in out[1]
    assert "COMPLETED" in out[1]
    assert "x = 1" in out[1]
    assert "nbsight/demo: ready" in run("status").output


def test_a_job_is_cancelled_from_the_terminal(ada, model):
    with model.trace(PROMPT, remote=True, blocking=False) as job:
        import time

        while True:
            time.sleep(0.01)
    assert job.id in run("jobs", "--cancel", job.id).output
    assert job.wait().state == "CANCELLED"


def test_a_login_is_checked_and_kept(running, model):
    wrong = run("login", running.url, "--key", "wrong")
    assert wrong.exit_code == 1
    assert "does not know this key" in wrong.output
    assert saved_keys() == {}
    right = run("login", running.url, input=f"{KEYS['bob']}\n")
    assert "knows you as bob" in right.output
    assert KEYS["bob"] not in right.output
    with model.trace(PROMPT, remote=running.url, blocking=False) as job:
        x = 1
    assert job.client.whoami() == "bob"


def test_without_a_server_the_command_says_how_to_start_one():
    out = run("status")
    assert out.exit_code == 1
    assert "nbsight serve" in out.output
    assert "Traceback" not in out.output


def test_a_new_key_is_one_that_the_server_takes(tmp_path):
    lines = run("new-key", "ada").output.splitlines()
    key, line = lines[0].split()[-1], lines[1].split(": ", 1)[1]
    (tmp_path / "keys").write_text(line)
    assert list(read_keys(tmp_path / "keys").values()) == ["ada"]
    assert key.startswith("nbs-")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "needs their keys"),
        (["--host", "0.0.0.0", "--tier", "local"], "could read your files"),
        (["--tier", "program", "--loads"], "no others"),
        (["--api-keys", "/nowhere/keys"], "cannot be read"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_the_reason(words, message, tmp_path):
    out = run("serve", *words, "--data", str(tmp_path))
    assert out.exit_code == 1
    assert message in out.output.replace("\n", " ")


def test_the_tier_follows_the_address_and_programs_are_limited(tmp_path):
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "serve", lambda settings, say, *_: seen.append(settings))
        (tmp_path / "keys").write_text("ada 0123456789abcdef")
        run("serve", "--host", "0.0.0.0", "--api-keys", str(tmp_path / "keys"))
        run("serve", "a", "b", "--port", "0", "--workers", "2", "--device-map", "auto", "--memory", "1.5")
    public, own = seen
    assert (public.tier, public.loads, public.limits.memory) == ("program", False, 4 * 2**30)
    assert (own.tier, own.loads, own.models, own.workers) == ("local", True, ("a", "b"), 2)
    assert own.options == {"device_map": "auto"}
    assert own.limits.memory == 3 * 2**29
