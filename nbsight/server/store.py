"""Jobs on disk: what has been accepted survives the end of any process, at any moment.

One SQLite file holds jobs and their events, one folder their requests, another their results. A
job is accepted once its row is committed, and its row is written after its request. A file is
written under another name first, so what has its proper name is whole.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from nbsight.wire.api import FINAL, ErrorRecord, JobInfo

__all__ = ["Event", "JobRow", "Store"]

T = TypeVar("T")

#: Bytes of the disk that are held, so that on a full one it can still be written down how jobs end.
_BALLAST = 8 * 2**20

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, model TEXT NOT NULL, kind TEXT NOT NULL, label TEXT NOT NULL,
    state TEXT NOT NULL, created REAL NOT NULL, started REAL, ended REAL, attempt INTEGER NOT NULL DEFAULT 0,
    seconds REAL NOT NULL, resume TEXT, digest TEXT NOT NULL, request_bytes INTEGER NOT NULL,
    result_bytes INTEGER NOT NULL DEFAULT 0, stop TEXT, error TEXT, lease REAL,
    logged INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX IF NOT EXISTS once ON jobs (owner, resume) WHERE resume IS NOT NULL;
CREATE INDEX IF NOT EXISTS waiting ON jobs (state, created);
CREATE INDEX IF NOT EXISTS owned ON jobs (owner, created);
CREATE TABLE IF NOT EXISTS events (
    job TEXT NOT NULL, seq INTEGER NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL, PRIMARY KEY (job, seq)
) WITHOUT ROWID;
"""


class Event(msgspec.Struct, frozen=True):
    """One thing that happened to a job."""

    seq: int
    kind: str
    data: str


class JobRow(msgspec.Struct, frozen=True):
    """A job as it stands in the file; `model` is its id, kind, revision and dtype, a line each."""

    id: str
    owner: str
    model: str
    kind: str
    label: str
    state: str
    created: float
    started: float | None
    ended: float | None
    attempt: int
    seconds: float
    resume: str | None
    digest: str
    request_bytes: int
    result_bytes: int
    stop: str | None
    error: str | None
    lease: float | None
    logged: int

    def info(self, place: int = 0) -> JobInfo:
        """What its owner sees."""
        error = None if self.error is None else msgspec.json.decode(self.error, type=ErrorRecord)
        return JobInfo(
            id=self.id,
            state=self.state,  # type: ignore[arg-type]
            model=self.model.partition("\n")[0],
            kind=self.kind,
            label=self.label,
            created=self.created,
            started=self.started,
            ended=self.ended,
            place=place,
            attempt=self.attempt,
            request_bytes=self.request_bytes,
            result_bytes=self.result_bytes,
            error=error,
        )


class Store:
    """The jobs of one server.

    Args:
        folder: Where they are kept; one server at a time holds it.

    Raises:
        BlockingIOError: another server holds the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("requests", "results"):
            (folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = _held(folder / "lock")
        self._db = sqlite3.connect(folder / "jobs.sqlite", isolation_level=None)
        os.chmod(folder / "jobs.sqlite", 0o600)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_SCHEMA)

        self._ballast = folder / "ballast"
        self._hold()

    def _hold(self) -> None:
        """Hold some of the disk, to have it when the disk is full."""
        with suppress(OSError):
            if not self._ballast.exists() or self._ballast.stat().st_size < _BALLAST:
                self._ballast.write_bytes(os.urandom(2**16) * (_BALLAST // 2**16))  # no file system packs it

    def _drop(self) -> bool:
        """Give that up; whether there was any."""
        try:
            self._ballast.unlink()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let go of the folder."""
        self._db.close()
        os.close(self._lock)

    def request(self, job: str) -> Path:
        """Where a job's request is kept."""
        return self.folder / "requests" / job

    def result(self, job: str) -> Path:
        """Where a job's result is kept."""
        return self.folder / "results" / job

    # -- reading -------------------------------------------------------------------------------

    def find(self, job: str, owner: str) -> JobRow | None:
        """A job of an owner, by its id or by the beginning of it (four characters, if only one fits)."""
        rows = self._rows("WHERE owner = ? AND id = ?", owner, job)
        if not rows and 4 <= len(job) < 32 and job.isalnum():
            rows = self._rows("WHERE owner = ? AND id GLOB ? LIMIT 2", owner, f"{job}*")
        return rows[0] if len(rows) == 1 else None

    def get(self, job: str) -> JobRow | None:
        """A job by its id, whoever owns it."""
        rows = self._rows("WHERE id = ?", job)
        return rows[0] if rows else None

    def owned(self, owner: str, limit: int) -> list[JobRow]:
        """An owner's jobs, newest first."""
        return self._rows("WHERE owner = ? ORDER BY created DESC LIMIT ?", owner, limit)

    def in_state(self, *states: str) -> list[JobRow]:
        """All jobs in these states, oldest first."""
        marks = ",".join("?" * len(states))
        return self._rows(f"WHERE state IN ({marks}) ORDER BY created", *states)

    def count(self) -> dict[str, int]:
        """How many jobs are in each state."""
        return dict(self._db.execute("SELECT state, count(*) FROM jobs GROUP BY state"))

    def events(self, job: str, after: int) -> list[Event]:
        """The events of a job after one of them, in order."""
        found = self._db.execute(
            "SELECT seq, kind, data FROM events WHERE job = ? AND seq > ? ORDER BY seq LIMIT 1000",
            (job, after),
        )
        return [Event(*row) for row in found]

    def _rows(self, where: str, *values: Any) -> list[JobRow]:
        names = ", ".join(JobRow.__struct_fields__)
        return [JobRow(*row) for row in self._db.execute(f"SELECT {names} FROM jobs {where}", values)]

    # -- writing -------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # a full disk has rolled it back already
                self._db.execute("ROLLBACK")
            raise

    def _together(self, change: Callable[[], T]) -> T:
        """Make some changes together; on a full disk, once more with the room that was kept for that."""
        try:
            with self._transaction():
                return change()
        except sqlite3.OperationalError:
            if not self._drop():
                raise
        with self._transaction():
            return change()

    def add(self, row: JobRow) -> JobRow:
        """Accept a job whose request is written; the earlier one if its key was used before."""
        fields = JobRow.__struct_fields__

        def change() -> JobRow:
            if row.resume is not None:
                earlier = self._rows("WHERE owner = ? AND resume = ?", row.owner, row.resume)
                if earlier:
                    return earlier[0]
            marks = ", ".join("?" * len(fields))
            values = [getattr(row, name) for name in fields]
            self._db.execute(f"INSERT INTO jobs ({', '.join(fields)}) VALUES ({marks})", values)
            self._note(row.id, "status", {"state": row.state})
            return row

        with self._transaction():  # what is held of the disk is for jobs that were accepted
            return change()

    def move(self, job: str, state: str, event: dict[str, Any] | None = None, **values: Any) -> bool:
        """Bring a job into a state and say so; False if it had ended already."""

        def change() -> bool:
            now = self._db.execute("SELECT state FROM jobs WHERE id = ?", (job,)).fetchone()
            if now is None or now[0] in FINAL:
                return False
            values["state"] = state
            if state in FINAL:
                values.update(ended=time.time(), lease=None)
            names = ", ".join(f"{name} = ?" for name in values)
            self._db.execute(f"UPDATE jobs SET {names} WHERE id = ?", (*values.values(), job))
            self._note(job, "status", {"state": state, **(event or {})})
            return True

        return self._together(change)

    def note(self, job: str, kind: str, data: dict[str, Any], logged: int = 0) -> None:
        """Write down an event."""
        with suppress(sqlite3.OperationalError), self._transaction():  # a full disk keeps no more output
            self._note(job, kind, data)
            if logged:
                self._db.execute("UPDATE jobs SET logged = logged + ? WHERE id = ?", (logged, job))

    def _note(self, job: str, kind: str, data: dict[str, Any]) -> None:
        self._db.execute(
            "INSERT INTO events SELECT ?, coalesce(max(seq), 0) + 1, ?, ? FROM events WHERE job = ?",
            (job, kind, msgspec.json.encode(data).decode(), job),
        )

    def set(self, jobs: list[str], **values: Any) -> None:
        """Change what no event tells of: leases, the wish to stop."""
        names = ", ".join(f"{name} = ?" for name in values)
        marks = ",".join("?" * len(jobs))
        statement = f"UPDATE jobs SET {names} WHERE id IN ({marks})"
        self._together(lambda: self._db.execute(statement, (*values.values(), *jobs)))

    def delete(self, job: str) -> None:
        """Forget a job, its events and its files."""

        def change() -> None:
            self._db.execute("DELETE FROM jobs WHERE id = ?", (job,))
            self._db.execute("DELETE FROM events WHERE job = ?", (job,))

        self._together(change)
        self.drop_files(job)

    def drop_files(self, job: str) -> None:
        """Delete a job's request and result."""
        for path in (self.request(job), self.result(job)):
            path.unlink(missing_ok=True)

    def tidy(self, keep: float) -> None:
        """Expire results that are older than `keep` seconds, forget jobs ten times as old, drop stray "
        "files."""
        now = time.time()

        def change() -> list[JobRow]:
            found = self._rows("WHERE state = 'COMPLETED' AND ended < ?", now - keep)
            for row in found:
                self._db.execute("UPDATE jobs SET state = 'EXPIRED' WHERE id = ?", (row.id,))
                self._note(row.id, "status", {"state": "EXPIRED"})
            return found

        old = self._together(change)
        for row in old:
            self.drop_files(row.id)
        for row in self._rows("WHERE ended < ?", now - 10 * keep):
            self.delete(row.id)
        known = {name for (name,) in self._db.execute("SELECT id FROM jobs")}
        for folder in ("requests", "results"):
            for path in (self.folder / folder).iterdir():
                if path.name not in known and path.stat().st_mtime < now - 3600:
                    path.unlink(missing_ok=True)
        self._hold()


def _held(path: Path) -> int:
    """A lock on a file, which ends with this process however it ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        import fcntl
    except ImportError:  # Windows: nothing is locked, so two servers must be given two folders
        return descriptor
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise BlockingIOError(f"another server holds {path.parent}") from None
    return descriptor
