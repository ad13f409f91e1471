"""`nbsight serve --doctor` says what would keep a server from working, and the log what it did."""

from __future__ import annotations

import functools
import json
import logging
import os
import socket
import subprocess
import sys

import click.testing
import pytest
import requests

from nbsight.server import cli, doctor
from nbsight.server.logs import JsonLines
from nbsight.server.settings import Settings
from tests.server.running import KEYS, RunningServer


def findings(settings: Settings) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for finding in doctor.examine(settings):
        found.setdefault(finding.name, set()).add(finding.verdict)
    return found


def text_of(settings: Settings, name: str) -> str:
    return "\n".join(finding.what for finding in doctor.examine(settings) if finding.name == name)


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(("nbsight/demo",), tmp_path / "data")


def test_a_server_that_can_start_is_told_so(settings):
    found = findings(settings)
    assert found.keys() == doctor._LOOKS.keys()
    assert "fail" not in set().union(*found.values())
    assert not settings.data.exists()  # nothing was changed
    assert "of weights" in text_of(settings, "models")


def test_a_port_that_is_taken_is_named(settings):
    from dataclasses import replace

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        taken = replace(settings, port=port)
        assert findings(taken)["port"] == {"fail"}
        assert str(port) in text_of(taken, "port")
    assert findings(taken)["port"] == {"ok"}


def test_what_a_tier_cannot_keep_is_named(tmp_path):
    open_to_all = Settings(("nbsight/demo",), tmp_path, host="0.0.0.0", tier="local")
    found = findings(open_to_all)
    assert found["tier"] == {"fail"}
    assert found["keys"] == {"fail"}
    assert "could read your files" in text_of(open_to_all, "tier")


def test_a_program_server_without_a_limit_of_memory_is_warned(tmp_path):
    assert "warn" in findings(Settings(("nbsight/demo",), tmp_path, tier="program"))["tier"]


def test_a_folder_that_cannot_be_written_or_is_open_to_others_is_named(tmp_path, settings):
    os.chmod(tmp_path, 0o755)
    assert "warn" in findings(Settings((), tmp_path))["folder"]
    (tmp_path / "file").write_text("")
    assert findings(Settings((), tmp_path / "file" / "data"))["folder"] == {"fail"}


def test_a_full_disk_and_a_small_machine_are_named(settings, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: _Usage(10**6))
    assert findings(settings)["folder"] == {"fail"}
    monkeypatch.setattr(doctor, "_memory", lambda: 10**6)
    assert "warn" in findings(settings)["models"]


class _Usage:
    def __init__(self, free: int) -> None:
        self.free = free


def test_a_model_that_nobody_knows_is_no_reason_to_fail(tmp_path):
    assert findings(Settings((str(tmp_path),), tmp_path))["models"] == {"warn"}


def test_an_engine_that_is_not_installed_is_named(settings, monkeypatch):
    from dataclasses import replace

    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert findings(replace(settings, engine="ray"))["engine"] == {"fail"}
    assert findings(settings)["engine"] == {"ok"}


def test_a_check_that_breaks_has_found_something(settings, monkeypatch):
    def broken(settings):
        raise ValueError("broken")
        yield

    monkeypatch.setitem(doctor._LOOKS, "devices", broken)
    assert findings(settings)["devices"] == {"fail"}


def test_the_command_prints_a_table_and_ends_as_it_should(tmp_path):
    run = click.testing.CliRunner().invoke
    fine = run(cli.main, ["serve", "--doctor", "--port", "0", "--data", str(tmp_path / "data")])
    assert fine.exit_code == 0, fine.output
    assert "the server can start" in fine.output
    wrong = run(cli.main, ["serve", "--doctor", "--host", "0.0.0.0", "--tier", "local", "--port", "0"])
    assert wrong.exit_code == 1
    assert "fail  tier" in wrong.output
    assert "would keep the server from working" in wrong.output


# -- the log ---------------------------------------------------------------------------------------


def test_a_record_is_one_line_of_json():
    try:
        raise ValueError("a\nb")
    except ValueError:
        record = logging.getLogger("nbsight.server").makeRecord(
            "nbsight.server", logging.ERROR, "f", 1, "it is %s", ("so",), sys.exc_info(), extra={"job": "3f"}
        )
    text = JsonLines().format(record)
    assert "\n" not in text
    line = json.loads(text)
    assert (line["level"], line["message"], line["job"]) == ("error", "it is so", "3f")
    assert line["time"].endswith("Z")
    assert "ValueError: a" in line["trace"]


def test_a_server_writes_json_about_its_requests_and_no_key(tmp_path, monkeypatch):
    running = RunningServer(tmp_path, "--logs", "json")
    log = (tmp_path / "log").open("w+")
    monkeypatch.setattr(subprocess, "Popen", functools.partial(subprocess.Popen, stderr=log))
    running.start()
    monkeypatch.undo()
    try:
        headers = {"Authorization": f"Bearer {KEYS['ada']}"}
        assert requests.get(f"{running.url}/v1/whoami", headers=headers, timeout=10).ok
    finally:
        running.stop()
    log.seek(0)
    text = log.read()
    log.close()
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    asked = [line for line in lines if line.get("path") == "/v1/whoami"]
    assert [(line["owner"], line["status"], line["method"]) for line in asked] == [("ada", 200, "GET")]
    assert KEYS["ada"] not in text
