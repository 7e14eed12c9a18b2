"""The jobs on disk: an SQLite database and the files, shared by the ingress replicas of a machine.

For one thread at a time in each process; every process that opens the folder sees the same jobs.
"""

import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from roadwork_serve.errors import NotFound, Overloaded, RoadworkError
from roadwork_serve.journal.database_file import DatabaseFile
from roadwork_serve.profiles.jobs import JobSpec
from roadwork_serve.profiles.journal import resolve_path
from roadwork_serve.schema import Job, JobSummary, JobWindow, Problem

T = TypeVar("T")
LEASE_S = 30.0  # a replica that has not renewed its lease for this long has ended
_RETRY_S = 30.0  # suggested to callers when there is no room
_BUSY_S = 20.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, caller TEXT NOT NULL, key TEXT, filename TEXT NOT NULL, state TEXT NOT NULL,
    created_at_s REAL NOT NULL, ended_at_s REAL, size INTEGER NOT NULL, lease_s REAL NOT NULL, owner TEXT NOT NULL,
    problem TEXT);
CREATE TABLE IF NOT EXISTS windows (
    job TEXT NOT NULL REFERENCES jobs(id), number INTEGER NOT NULL, end_s REAL NOT NULL, probability REAL,
    body TEXT NOT NULL, PRIMARY KEY (job, number));
"""
_LIVE = "state IN ('receiving', 'waiting', 'running')"


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """A job that this process works on."""

    id: str
    caller: str
    key: str | None
    filename: str
    #: Number of windows that have a result.
    completed: int


class JobStore:
    """The jobs of a folder."""

    def __init__(self, spec: JobSpec) -> None:
        self._spec = spec
        self._folder = Path(resolve_path(spec.folder))
        self._database = DatabaseFile(self._folder / "jobs.db")
        self._owner = uuid.uuid4().hex

    def file(self, job: str) -> Path:
        """Return the path of a job's file."""
        return self._folder / f"{job}.clip"

    def reserve(self, caller: str, key: str | None, filename: str, size: int) -> str:
        """Reserve room for the file of a new job, and return the job's id.

        Raises Overloaded if there are too many jobs, or too little space.
        """
        spec, job, now = self._spec, uuid.uuid4().hex, time.time()

        def work(db: sqlite3.Connection) -> str:
            self._clean_up(db, now)
            count, own, total = db.execute(
                f"SELECT COUNT(*), COALESCE(SUM(caller = ?), 0), COALESCE(SUM(size), 0) FROM jobs WHERE {_LIVE}",  # noqa: S608
                (caller,),
            ).fetchone()
            if count >= spec.max_waiting or own >= spec.max_waiting_per_caller:
                raise Overloaded(
                    f"{count} jobs have not ended, {own} of them yours; wait for some of them, or cancel them", _RETRY_S
                )
            if total + size > spec.max_total_bytes:
                raise Overloaded(
                    f"jobs hold {total:,} of {spec.max_total_bytes:,} bytes, and this one may need {size:,}; wait for "
                    "some of them, or send Content-Length",
                    _RETRY_S,
                )
            db.execute(
                "INSERT INTO jobs VALUES (?, ?, ?, ?, 'receiving', ?, NULL, ?, ?, ?, NULL)",
                (job, caller, key, filename, now, size, now + LEASE_S, self._owner),
            )
            return job

        return self._run(work)

    def renew(self, job: str) -> bool:
        """Keep a job for this process. Return False if it has been cancelled or taken over."""
        return self._run(
            lambda db: (
                db.execute(
                    f"UPDATE jobs SET lease_s = ? WHERE id = ? AND owner = ? AND {_LIVE}",  # noqa: S608
                    (time.time() + LEASE_S, job, self._owner),
                ).rowcount
                > 0
            )
        )

    def enqueue(self, job: str, size: int) -> JobSummary:
        """Let a job wait, whose file is complete, and return it. Raises NotFound if it has been cancelled."""

        def work(db: sqlite3.Connection) -> JobSummary:
            db.execute(
                "UPDATE jobs SET state = 'waiting', size = ?, created_at_s = ?, lease_s = 0 WHERE id = ? AND "
                "state = 'receiving'",
                (size, time.time(), job),
            )
            return _summary(db, _row(db, job))

        return self._run(work)

    def discard(self, job: str) -> None:
        """Forget a job whose file did not arrive."""
        self._run(lambda db: db.execute("DELETE FROM jobs WHERE id = ? AND state = 'receiving'", (job,)))
        self.file(job).unlink(missing_ok=True)

    def claim(self) -> ClaimedJob | None:
        """Take the job that has waited longest, or whose replica has ended; None if there is none."""
        if not self._database.path.exists():  # without any job there is no database
            return None
        now = time.time()

        def work(db: sqlite3.Connection) -> ClaimedJob | None:
            self._clean_up(db, now)
            row = db.execute(
                "UPDATE jobs SET state = 'running', owner = ?, lease_s = ? WHERE id = (SELECT id FROM jobs WHERE "
                "state = 'waiting' OR (state = 'running' AND lease_s < ?) ORDER BY created_at_s LIMIT 1) RETURNING *",
                (self._owner, now + LEASE_S, now),
            ).fetchone()
            if row is None:
                return None
            completed = db.execute("SELECT COUNT(*) FROM windows WHERE job = ?", (row["id"],)).fetchone()[0]
            return ClaimedJob(row["id"], row["caller"], row["key"], row["filename"], completed)

        return self._run(work)

    def add_window(self, job: str, number: int, window: JobWindow) -> bool:
        """Record the result of a window. Return False if the job has been cancelled or taken over."""
        probability = None if window.verdict is None else window.verdict.probability

        def work(db: sqlite3.Connection) -> bool:
            kept = db.execute(
                "UPDATE jobs SET lease_s = ? WHERE id = ? AND owner = ? AND state = 'running'",
                (time.time() + LEASE_S, job, self._owner),
            )
            if not kept.rowcount:
                return False
            db.execute(
                "INSERT OR REPLACE INTO windows VALUES (?, ?, ?, ?, ?)",
                (job, number, window.end_s, probability, window.model_dump_json()),
            )
            return True

        return self._run(work)

    def finish(self, job: str, problem: Problem | None = None) -> None:
        """End a running job of this process, as done or failed, and delete its file."""

        def work(db: sqlite3.Connection) -> None:
            ended = db.execute(
                "UPDATE jobs SET state = ?, ended_at_s = ?, problem = ? WHERE id = ? AND owner = ? AND "
                "state = 'running'",
                (
                    "done" if problem is None else "failed",
                    time.time(),
                    None if problem is None else problem.model_dump_json(),
                    job,
                    self._owner,
                ),
            )
            if ended.rowcount:
                self.file(job).unlink(missing_ok=True)

        self._run(work)

    def release(self, job: str) -> None:
        """Let a running job of this process wait for another one."""
        self._run(
            lambda db: db.execute(
                "UPDATE jobs SET state = 'waiting', lease_s = 0 WHERE id = ? AND owner = ? AND state = 'running'",
                (job, self._owner),
            )
        )

    def cancel(self, job: str, caller: str | None) -> JobSummary:
        """Cancel a job that has not ended, and return it. Raises NotFound.

        Args:
            job: Id of the job.
            caller: Name of the only caller who may see it; None for an admin.
        """

        def work(db: sqlite3.Connection) -> JobSummary:
            _own_row(db, job, caller)
            db.execute(
                f"UPDATE jobs SET state = 'cancelled', ended_at_s = ? WHERE id = ? AND {_LIVE}",  # noqa: S608
                (time.time(), job),
            )
            return _summary(db, _row(db, job))

        found = self._run(work)
        if found.state == "cancelled":
            self.file(job).unlink(missing_ok=True)
        return found

    def get(self, job: str, caller: str | None) -> Job:
        """Return a job with its windows. Raises NotFound; see `cancel` for the arguments."""

        def work(db: sqlite3.Connection) -> Job:
            summary = _summary(db, _own_row(db, job, caller))
            bodies = db.execute("SELECT body FROM windows WHERE job = ? ORDER BY number", (job,))
            windows = [JobWindow.model_validate_json(each["body"]) for each in bodies]
            return Job(**dict(summary), windows=windows)

        return self._run(work)

    def list(self, caller: str | None, limit: int) -> list[JobSummary]:
        """Return the newest jobs, of one caller or, with None, of all."""

        def work(db: sqlite3.Connection) -> list[JobSummary]:
            rows = db.execute(
                "SELECT * FROM jobs WHERE state != 'receiving' AND (? IS NULL OR caller = ?) "
                "ORDER BY created_at_s DESC LIMIT ?",
                (caller, caller, limit),
            ).fetchall()
            return [_summary(db, row) for row in rows]

        return self._run(work)

    def _clean_up(self, db: sqlite3.Connection, now: float) -> None:
        """Delete results that are too old, and what a replica that ended was receiving."""
        old = db.execute(
            "SELECT id FROM jobs WHERE ended_at_s < ? OR (state = 'receiving' AND lease_s < ?)",
            (now - 3600 * self._spec.keep_hours, now),
        ).fetchall()
        for row in old:
            db.execute("DELETE FROM windows WHERE job = ?", (row["id"],))
            db.execute("DELETE FROM jobs WHERE id = ?", (row["id"],))
            self.file(row["id"]).unlink(missing_ok=True)

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do some work in a transaction. Raises RoadworkError if the folder cannot be used."""
        try:
            with self._transaction() as db:
                return work(db)
        except (OSError, sqlite3.Error) as error:
            raise RoadworkError(f"the jobs in {self._folder} cannot be used: {error}") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._database.create()
        with closing(sqlite3.connect(self._database.path, timeout=_BUSY_S, isolation_level=None)) as db:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(_SCHEMA)  # each time, since somebody may have removed the file; usually it only reads
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")


def _row(db: sqlite3.Connection, job: str) -> sqlite3.Row:
    row = db.execute("SELECT * FROM jobs WHERE id = ? AND state != 'receiving'", (job,)).fetchone()
    if row is None:
        raise NotFound(f"there is no job {job}; results are deleted after a time")
    return row


def _own_row(db: sqlite3.Connection, job: str, caller: str | None) -> sqlite3.Row:
    row = _row(db, job)
    if caller is not None and row["caller"] != caller:
        raise NotFound(f"there is no job {job}; results are deleted after a time")
    return row


def _summary(db: sqlite3.Connection, row: sqlite3.Row) -> JobSummary:
    completed, end_s = db.execute(
        "SELECT COUNT(*), COALESCE(MAX(end_s), 0) FROM windows WHERE job = ?", (row["id"],)
    ).fetchone()
    best = db.execute(
        "SELECT body FROM windows WHERE job = ? AND probability IS NOT NULL ORDER BY probability DESC, number LIMIT 1",
        (row["id"],),
    ).fetchone()
    highest: dict[str, Any] = {}
    if best is not None:
        window = json.loads(best["body"])
        verdict = window["verdict"]
        highest = {name: verdict[name] for name in ("label", "positive", "probability")}
        highest["highest_start_s"] = window["start_s"]
    return JobSummary(
        id=row["id"],
        state=row["state"],
        created_at=_time(row["created_at_s"]),
        ended_at=None if row["ended_at_s"] is None else _time(row["ended_at_s"]),
        filename=row["filename"],
        size=row["size"],
        completed=completed,
        completed_s=end_s,
        problem=None if row["problem"] is None else Problem.model_validate_json(row["problem"]),
        **highest,
    )


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
