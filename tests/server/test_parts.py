"""The parts of a server that need none to be running: rates, keys, the store, what it refuses."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from nbsight.server import sandbox
from nbsight.server.access import digest_of, new_key, owner_of, read_keys, wrong_origin
from nbsight.server.fairness import Rates
from nbsight.server.settings import RefusedToStart, Settings, is_loopback
from nbsight.server.store import JobRow, Store
from nbsight.wire import discovery

# -- rates ------------------------------------------------------------------------------------------


def test_a_rate_is_kept_over_time_and_a_burst_is_let_through():
    rates = Rates(rate=10, burst=3)
    assert [rates.take("ada", 0.0) for _ in range(3)] == [0, 0, 0]
    assert rates.take("ada", 0.0) == pytest.approx(0.1)
    assert rates.take("bob", 0.0) == 0
    assert rates.take("ada", 0.1) == 0
    assert rates.take("ada", 0.1) > 0


# -- keys ------------------------------------------------------------------------------------------


def test_a_key_is_known_by_its_digest_or_its_text(tmp_path):
    key, other = new_key(), new_key()
    file = tmp_path / "keys"
    file.write_text(f"# people\nada {key}\nbob sha256:{digest_of(other)}  # by digest\n\n")
    keys = read_keys(file)
    assert owner_of(f"Bearer {key}", keys) == "ada"
    assert owner_of(f"bearer {other}", keys) == "bob"
    for wrong in (None, "", "Bearer", f"Basic {key}", f"Bearer {key}x", f"Bearer {digest_of(other)}"):
        assert owner_of(wrong, keys) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ada short", "has 5 characters"),
        ("ada", "not `owner key`"),
        ("ada a b", "not `owner key`"),
        ("ada sha256:12", "no SHA-256 digest"),
        ("", "holds no key"),
        ("ada 0123456789abcdef\nbob 0123456789abcdef", "gives a key to bob that ada has"),
    ],
)
def test_a_file_of_keys_that_cannot_be_used_is_refused(tmp_path, text, message):
    (tmp_path / "keys").write_text(text)
    with pytest.raises(RefusedToStart, match=message):
        read_keys(tmp_path / "keys")


@pytest.mark.parametrize(
    ("headers", "fine"),
    [
        ({"host": "127.0.0.1:8765"}, True),
        ({"host": "localhost:8765"}, True),
        ({"host": "[::1]:8765"}, True),
        ({"host": "evil.example"}, False),
        ({"host": "127.0.0.1.evil.example:8765"}, False),
        ({"host": "127.0.0.1:8765", "origin": "http://127.0.0.1:8765"}, True),
        ({"host": "127.0.0.1:8765", "origin": "null"}, False),
        ({"host": "127.0.0.1:8765", "origin": "http://127.0.0.1:8888"}, False),
        ({}, False),
    ],
)
def test_a_name_or_a_page_that_is_not_ours_is_not_answered(headers, fine):
    assert (wrong_origin(headers, "127.0.0.1") is None) == fine


# -- what it refuses to be -------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "gpu.example.org"])
def test_full_python_is_for_this_computer_alone(tmp_path, host):
    assert not is_loopback(host)
    with pytest.raises(RefusedToStart, match="could read your files"):
        Settings(("m",), tmp_path, host=host).check()


def test_walls_that_do_not_stand_are_not_promised(tmp_path, monkeypatch):
    def gone():
        return [sandbox.Mechanism("landlock", False, "the kernel has no Landlock")]

    monkeypatch.setattr(sandbox, "missing", gone)
    with pytest.raises(RefusedToStart, match="landlock: the kernel has no Landlock"):
        Settings(("m",), tmp_path, tier="sandbox").check()
    monkeypatch.setattr(sandbox, "missing", list)
    Settings(("m",), tmp_path, tier="sandbox").check()
    with pytest.raises(RefusedToStart, match="no others"):
        Settings(("m",), tmp_path, tier="sandbox", loads=True).check()


def test_a_server_for_others_holds_the_models_it_was_given(tmp_path):
    with pytest.raises(RefusedToStart, match="no others"):
        Settings(("m",), tmp_path, tier="program", loads=True).check()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_this_computer_is_fine(tmp_path, host):
    Settings(("m",), tmp_path, host=host).check()


# -- the store -------------------------------------------------------------------------------------


def row(number: int, owner: str = "ada", **values) -> JobRow:
    fields = dict.fromkeys(JobRow.__struct_fields__) | {
        "id": f"{number:016x}",
        "owner": owner,
        "model": "m",
        "kind": "forward",
        "label": "x = 1",
        "state": "QUEUED",
        "created": float(number),
        "attempt": 0,
        "seconds": 1.0,
        "digest": "",
        "request_bytes": 1,
        "result_bytes": 0,
        "logged": 0,
    }
    return JobRow(**(fields | values))


@pytest.fixture
def store(tmp_path: Path):
    store = Store(tmp_path)
    yield store
    store.close()


def test_a_job_does_not_leave_a_final_state(store):
    store.add(row(1))
    assert store.move(row(1).id, "COMPLETED")
    assert not store.move(row(1).id, "FAILED")
    assert store.get(row(1).id).state == "COMPLETED"
    assert [event.seq for event in store.events(row(1).id, 0)] == [1, 2]


def test_a_prefix_finds_a_job_if_only_one_of_the_owners_has_it(store):
    for item in (row(0xAB << 56), row(0xAC << 56), row(0xAC << 56 | 1), row(0xAD << 56, "bob")):
        store.add(item)
    assert store.find("ab00", "ada").id == f"{0xAB << 56:016x}"
    assert store.find("ac00", "ada") is None
    assert store.find("ad00", "ada") is None
    assert store.find("ab", "ada") is None
    assert store.find("ab0*", "ada") is None


def test_what_is_old_expires_and_then_is_forgotten(store):
    now = time.time()
    for number, age in enumerate((10, 200, 2000)):
        store.add(row(number))
        store.result(row(number).id).write_bytes(b"x")
        store.move(row(number).id, "COMPLETED")
        store.set([row(number).id], ended=now - age)
    store.tidy(100)
    states = [None if found is None else found.state for found in (store.get(row(n).id) for n in range(3))]
    assert states == ["COMPLETED", "EXPIRED", None]
    assert [store.result(row(n).id).exists() for n in range(3)] == [True, False, False]


def test_ten_thousand_jobs_are_listed_and_counted(store):
    with store._transaction():
        for number in range(10_000):
            fields = JobRow.__struct_fields__
            item = row(number)
            store._db.execute(
                f"INSERT INTO jobs ({', '.join(fields)}) VALUES ({', '.join('?' * len(fields))})",
                [getattr(item, name) for name in fields],
            )
    listed = store.owned("ada", 100)
    assert [item.created for item in listed] == list(range(9_999, 9_899, -1))
    assert store.count() == {"QUEUED": 10_000}


def test_an_interrupted_change_is_no_change(store):
    store.add(row(1))
    with pytest.raises(ZeroDivisionError):
        with store._transaction():
            store._note(row(1).id, "log", {})
            raise ZeroDivisionError
    assert len(store.events(row(1).id, 0)) == 1


# -- where a server is -----------------------------------------------------------------------------


def test_the_file_of_a_dead_server_is_taken_away(tmp_path, monkeypatch):
    import os
    import subprocess
    import sys

    monkeypatch.setenv("NBSIGHT_DATA_DIR", str(tmp_path))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead = discovery.announce(discovery.Running("http://127.0.0.1:1", "t", gone.pid, 1.0))
    alive = discovery.announce(discovery.Running("http://127.0.0.1:2", "t", os.getpid(), 2.0))
    (tmp_path / "nbsight-0.json").write_text("{")
    assert [server.url for server in discovery.running()] == ["http://127.0.0.1:2"]
    assert not dead.exists()
    assert alive.stat().st_mode & 0o777 == 0o600


def test_keys_are_kept_for_their_server_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("NBSIGHT_DATA_DIR", str(tmp_path))
    path = discovery.save_key("http://a", "one")
    discovery.save_key("http://b", "two")
    assert discovery.saved_keys() == {"http://a": "one", "http://b": "two"}
    assert path.stat().st_mode & 0o777 == 0o600
    discovery.save_key("http://a", None)
    assert discovery.saved_keys() == {"http://b": "two"}


def test_the_key_of_the_environment_goes_to_no_other_server(monkeypatch, tmp_path):
    from nbsight.remote import addresses

    monkeypatch.setenv("NBSIGHT_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("NBSIGHT_HOST", "https://ours.example")
    monkeypatch.setenv("NBSIGHT_API_KEY", "secret")
    assert addresses.find_client("https://ours.example/")._key == "secret"
    assert addresses.find_client("https://theirs.example")._key is None
