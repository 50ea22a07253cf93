"""Long work as jobs: rows in SQLite and one child process at a time, taken up again after a restart."""

from __future__ import annotations

import fcntl
import json
import logging
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from service.job_process import SECONDS_TO_STOP, JobProcess, end_orphan
from service.tables import open_tables

log = logging.getLogger("openbook.service")

_SCHEMA = """
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order in which they run
        id TEXT NOT NULL UNIQUE,
        kind TEXT NOT NULL,
        state TEXT NOT NULL,
        created REAL NOT NULL,
        started REAL,
        ended REAL,
        pid INTEGER,                               -- with the next one: which process works on it
        pid_started REAL,
        step TEXT NOT NULL DEFAULT '',
        done INTEGER,
        total INTEGER,
        result TEXT,
        error TEXT
    )
"""


class UnknownJob(LookupError):
    """No job has this id."""


class JobsElsewhere(RuntimeError):
    """Another service of this workspace runs its jobs."""


class JobKind(StrEnum):
    """What a job does."""

    SYNC = "sync"
    EVALUATION = "evaluation"


class JobState(StrEnum):
    """How far a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Job:
    """Work that was asked for; times are seconds since 1970."""

    id: str
    kind: JobKind
    state: JobState
    created: float
    started: float | None
    ended: float | None
    step: str
    """What it is at, with how much of it is `done` out of `total`."""
    done: int | None
    total: int | None
    result: dict[str, Any] | None
    """What came of it, once it is done."""
    error: str | None


@dataclass(frozen=True, slots=True)
class Command:
    """What a kind of job runs; `result` makes of what it printed what the job tells.

    Run again after being killed, it must go on where it was.
    """

    arguments: Sequence[str]
    result: Callable[[str], dict[str, Any]]


class Jobs:
    """Runs commands as jobs, in turn; `start` takes up those that a killed service left."""

    def __init__(self, path: Path, commands: Mapping[JobKind, Command]) -> None:
        """Open the table at `path`, making it if need be. Raises TablesDamaged."""
        self._path = path
        self._commands = commands
        self._connection = open_tables(path, _SCHEMA)
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._current: tuple[str, JobProcess] | None = None
        self._thread: threading.Thread | None = None
        self._only_one: IO[str] | None = None

    def start(self) -> None:
        """Begin to work. Where another service of the workspace does, this one takes no jobs."""
        only_one = self._path.with_suffix(".lock").open("a")
        try:
            fcntl.flock(only_one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            only_one.close()
            log.warning("another service of this workspace runs its jobs; this one starts none")
            return
        self._only_one = only_one
        self._take_up()
        self._thread = threading.Thread(target=self._run, name="openbook-jobs", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; the job under way goes on after the next start."""
        self._closing.set()
        self._wake.set()
        with self._lock:
            if self._current is not None:
                self._current[1].terminate()
        if self._thread is not None:
            self._thread.join(SECONDS_TO_STOP + 5)
        with self._lock:  # SQLite crashes if a connection is closed while another thread reads from it
            self._connection.close()
        if self._only_one is not None:
            self._only_one.close()

    def submit(self, kind: JobKind) -> Job:
        """Queue a job, or the one of this kind that waits already. Raises JobsElsewhere."""
        if self._only_one is None:
            raise JobsElsewhere("another `openbook serve` of this workspace runs its jobs; ask that one")
        with self._lock:
            # One under way may have passed what has changed since, except that an evaluation would begin over.
            waiting = [JobState.QUEUED, *([JobState.RUNNING] if kind is JobKind.EVALUATION else [])]
            for job in self.list():
                if job.kind is kind and job.state in waiting:
                    return job
            job_id = uuid.uuid4().hex[:16]
            self._connection.execute(
                "INSERT INTO jobs (id, kind, state, created) VALUES (?, ?, ?, ?)",
                (job_id, kind, JobState.QUEUED, time.time()),
            )
            self._wake.set()
            return self.get(job_id)

    def list(self, limit: int = 50) -> list[Job]:
        """The latest jobs, newest first."""
        with self._lock:
            rows = self._connection.execute(f"{_SELECT} ORDER BY number DESC LIMIT ?", (limit,))
            return [_job(row) for row in rows]

    def get(self, job_id: str) -> Job:
        """The job of that id. Raises UnknownJob."""
        with self._lock:
            row = self._connection.execute(f"{_SELECT} WHERE id = ?", (job_id,)).fetchone()
        if row is None:
            raise UnknownJob(f"no job {job_id!r}")
        return _job(row)

    def cancel(self, job_id: str) -> Job:
        """Give up a job that has not ended; no effect on one that has. Raises UnknownJob."""
        with self._lock:
            job = self.get(job_id)
            if job.state in (JobState.QUEUED, JobState.RUNNING):
                self._set(job_id, state=JobState.CANCELLED, ended=time.time())
                if self._current is not None and self._current[0] == job_id:
                    self._current[1].terminate()
        return self.get(job_id)

    def _take_up(self) -> None:
        """Queue again what was running, after ending the process that may still work on it."""
        rows = self._connection.execute(
            "SELECT id, pid, pid_started FROM jobs WHERE state = ?", (JobState.RUNNING,)
        ).fetchall()
        for job_id, pid, pid_started in rows:
            if pid is not None:
                end_orphan(pid, pid_started)
            log.info("job %s is taken up again", job_id)
            self._set(job_id, state=JobState.QUEUED)

    def _run(self) -> None:
        while True:
            self._wake.clear()
            if self._closing.is_set():  # looked at after clearing, or `close` might wake nobody
                return
            with self._lock:
                row = self._connection.execute(
                    f"{_SELECT} WHERE state = ? ORDER BY number LIMIT 1", (JobState.QUEUED,)
                ).fetchone()
            if row is None:
                self._wake.wait()
                continue
            job = _job(row)
            try:
                self._work(job)
            except Exception as error:
                log.exception("job %s could not be run", job.id)
                self._kill_current()
                self._end(job.id, JobState.FAILED, error=f"could not be run ({type(error).__name__})")

    def _work(self, job: Job) -> None:
        with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
            with self._lock:
                if self._closing.is_set() or self.get(job.id).state is not JobState.QUEUED:
                    return
                process = JobProcess(self._commands[job.kind].arguments, output)
                self._current = job.id, process
                if process.began is not None:
                    self._set(job.id, pid=process.pid, pid_started=process.began)
                self._set(job.id, state=JobState.RUNNING, started=job.started or time.time())
            for progress in process.progress():
                self._set(job.id, step=progress.step, done=progress.done, total=progress.total)
            status = process.status()
            with self._lock:
                self._current = None
                if self._closing.is_set() and status != 0 and self.get(job.id).state is JobState.RUNNING:
                    self._set(job.id, state=JobState.QUEUED)
                    return
            output.seek(0)
            if status == 0:
                result = self._commands[job.kind].result(output.read())
                self._end(job.id, JobState.DONE, result=json.dumps(result))
            else:
                self._end(job.id, JobState.FAILED, error=process.failure or f"ended with status {status}")

    def _kill_current(self) -> None:
        """End the process of a job that can no longer be followed, so that the next one does not run beside it."""
        with self._lock:
            if self._current is not None:
                self._current[1].kill()
                self._current = None

    def _end(self, job_id: str, state: JobState, result: str | None = None, error: str | None = None) -> None:
        with self._lock:
            if self.get(job_id).state is not JobState.CANCELLED:
                self._set(job_id, state=state, ended=time.time(), result=result, error=error)
                log.info("job %s: %s", job_id, state)

    def _set(self, job_id: str, **columns: str | float | None) -> None:
        names = ", ".join(f"{name} = ?" for name in columns)
        with self._lock:
            self._connection.execute(f"UPDATE jobs SET {names} WHERE id = ?", (*columns.values(), job_id))  # noqa: S608


_SELECT = "SELECT id, kind, state, created, started, ended, step, done, total, result, error FROM jobs"


def _job(row: Sequence[Any]) -> Job:
    return Job(
        id=row[0],
        kind=JobKind(row[1]),
        state=JobState(row[2]),
        created=row[3],
        started=row[4],
        ended=row[5],
        step=row[6],
        done=row[7],
        total=row[8],
        result=None if row[9] is None else json.loads(row[9]),
        error=row[10],
    )
