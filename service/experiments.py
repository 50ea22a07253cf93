"""Experiments on real traffic: who is answered by which route, and what they said of it; kept in SQLite.

Of users and keys only a hash under the experiment's own salt is kept, of questions and answers nothing.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.findings import Analyse, Findings
from service.tables import open_tables

PREFIX = "experiment:"
"""What clients put before an experiment's name where a route is asked for."""
_SCHEMA = """
    CREATE TABLE experiments (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        salt TEXT NOT NULL,
        shares TEXT NOT NULL,                  -- JSON: {route: share, ...} in the order given, summing to 1
        margin REAL NOT NULL,
        alpha REAL NOT NULL,
        created REAL NOT NULL,
        stopped REAL,
        successor TEXT                         -- the route that answers once it is stopped
    );
    CREATE TABLE exposures (                   -- who was answered, once a request
        id TEXT PRIMARY KEY,
        experiment TEXT NOT NULL REFERENCES experiments (name),
        unit TEXT NOT NULL,
        arm TEXT NOT NULL,
        created REAL NOT NULL
    );
    CREATE INDEX exposures_of ON exposures (experiment, arm, unit);
    CREATE TABLE outcomes (
        number INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order in which they came
        exposure TEXT NOT NULL UNIQUE REFERENCES exposures (id),
        experiment TEXT NOT NULL REFERENCES experiments (name),
        unit TEXT NOT NULL,
        arm TEXT NOT NULL,
        value REAL NOT NULL,                   -- 1 good, 0 bad; the first word counts
        created REAL NOT NULL
    );
    CREATE INDEX outcomes_of ON outcomes (experiment, unit)
"""


class UnknownExperiment(LookupError):
    """No experiment has this name."""


class ExperimentConflict(RuntimeError):
    """An experiment of that name exists already, or has been stopped."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """Routes that share traffic; times are seconds since 1970."""

    name: str
    salt: str
    shares: Mapping[str, float]
    """By route; they sum to 1."""
    margin: float
    """The smallest difference that matters."""
    alpha: float
    """The chance of a wrong finding, over all pairs of arms and all looks."""
    created: float
    stopped: float | None
    successor: str | None
    """The route that answers since it was stopped."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """One request that an experiment answers; feedback names it by `id`."""

    id: str
    experiment: str
    unit: str
    """Whom it is for: a hash, equal for all requests of a user."""
    arm: str

    def answer_id(self, choice: int) -> str:
        """The id of one of several answers to the request."""
        return self.id if choice == 0 else f"{self.id}.{choice}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What somebody said of an arm's answer; `counts` unless the same user has said something before."""

    experiment: str
    arm: str
    good: bool
    counts: bool


@dataclass(frozen=True, slots=True)
class ArmCounts:
    """What an arm has had so far."""

    users: int
    requests: int
    ratings: int
    """All that was said of its answers, also by users who had said something before."""
    counted: int
    """Users whose first word counts."""
    good: int
    """Of `counted`."""


class Experiments:
    """The experiments of a workspace; several threads may share it."""

    def __init__(self, path: Path, analyse: Analyse) -> None:
        """Open the tables at `path`, making them if need be. Raises TablesDamaged."""
        self._analyse = analyse
        self._connection = open_tables(path, _SCHEMA, "journal_mode = WAL")  # one fsync an answer
        self._lock = threading.Lock()

    def close(self) -> None:
        """Give the connection back, after whatever another thread does with it."""
        with self._lock:
            self._connection.close()

    def create(self, name: str, shares: Mapping[str, float], margin: float, alpha: float) -> Experiment:
        """Start an experiment; shares are scaled to sum to 1. Raises ExperimentConflict if the name is taken."""
        total = sum(shares.values())
        scaled = {route: share / total for route, share in shares.items()}
        row = (name, secrets.token_hex(16), json.dumps(scaled), margin, alpha, time.time())
        with self._lock:
            try:
                self._connection.execute(
                    "INSERT INTO experiments (name, salt, shares, margin, alpha, created) VALUES (?, ?, ?, ?, ?, ?)",
                    row,
                )
            except sqlite3.IntegrityError:
                raise ExperimentConflict(
                    f"there is an experiment {name!r} already; choose another name"
                ) from None
            return self._get(name)

    def listed(self) -> list[Experiment]:
        """All of them, the latest first."""
        with self._lock:
            return [_experiment(row) for row in self._connection.execute(f"{_SELECT} ORDER BY number DESC")]

    def get(self, name: str) -> Experiment:
        """The experiment of that name. Raises UnknownExperiment."""
        with self._lock:
            return self._get(name)

    def stop(self, name: str, successor: str) -> Experiment:
        """End it; `successor` answers from now on. Raises UnknownExperiment, ExperimentConflict."""
        with self._lock:
            if self._get(name).stopped is not None:
                raise ExperimentConflict(f"experiment {name!r} has been stopped already")
            self._connection.execute(
                "UPDATE experiments SET stopped = ?, successor = ? WHERE name = ? AND stopped IS NULL",
                (time.time(), successor, name),
            )
            return self._get(name)

    def expose(self, exposure: Exposure) -> None:
        """Keep that a request, which has been accepted, is answered by its arm: feedback on the answer may come."""
        row = (exposure.id, exposure.experiment, exposure.unit, exposure.arm, time.time())
        with self._lock:
            self._connection.execute("INSERT INTO exposures VALUES (?, ?, ?, ?, ?)", row)

    def knows(self, answer_id: str) -> bool:
        """Whether an experiment gave this answer."""
        return self._exposed(answer_id) is not None

    def record(self, answer_id: str, good: bool) -> Outcome | None:
        """Keep what was said of an answer; None if no running experiment gave it, or it was said before."""
        found = self._exposed(answer_id)
        if found is None:
            return None
        exposure, experiment, unit, arm = found
        with self._lock:
            before = self._connection.execute(
                "SELECT count(*) FROM outcomes WHERE experiment = ? AND unit = ?", (experiment, unit)
            ).fetchone()[0]
            kept = self._connection.execute(
                """
                INSERT OR IGNORE INTO outcomes (exposure, experiment, unit, arm, value, created)
                SELECT ?, name, ?, ?, ?, ? FROM experiments WHERE name = ? AND stopped IS NULL
                """,
                (exposure, unit, arm, float(good), time.time(), experiment),
            )
            return Outcome(experiment, arm, good, before == 0) if kept.rowcount else None

    def prefer(self, preferred: str, rejected: str) -> list[Outcome]:
        """Keep which of two answers is better: good for one arm, bad for another. Of one arm it says nothing."""
        arms = [found and (found[1], found[3]) for found in map(self._exposed, (preferred, rejected))]
        if arms[0] == arms[1]:
            return []
        outcomes = [self.record(preferred, good=True), self.record(rejected, good=False)]
        return [outcome for outcome in outcomes if outcome is not None]

    def findings(self, experiment: Experiment) -> Findings:
        """What the outcomes so far show; a user's first one counts, for a user's outcomes are alike."""
        with self._lock:
            rows = self._connection.execute(_FIRST_OUTCOMES, (experiment.name,)).fetchall()
        return self._analyse(experiment.shares, rows, experiment.margin, experiment.alpha)

    def counts(self, experiment: Experiment) -> dict[str, ArmCounts]:
        """By arm, in the order of the shares."""
        with self._lock:
            asked = {row[0]: row[1:] for row in self._connection.execute(_ASKED, (experiment.name,))}
            said = {row[0]: row[1:] for row in self._connection.execute(_SAID, (experiment.name,))}
        return {
            arm: ArmCounts(*asked.get(arm, (0, 0)), *said.get(arm, (0, 0, 0))) for arm in experiment.shares
        }

    def exposure_ids(self, name: str) -> set[str]:
        """The ids of all requests that the experiment answered."""
        with self._lock:
            return {
                row[0]
                for row in self._connection.execute("SELECT id FROM exposures WHERE experiment = ?", (name,))
            }

    def _exposed(self, answer_id: str) -> tuple[str, str, str, str] | None:
        with self._lock:
            row: tuple[str, str, str, str] | None = self._connection.execute(
                "SELECT id, experiment, unit, arm FROM exposures WHERE id = ?", (answer_id.partition(".")[0],)
            ).fetchone()
        return row

    def _get(self, name: str) -> Experiment:
        row = self._connection.execute(f"{_SELECT} WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise UnknownExperiment(f"no experiment {name!r}; start one with POST /v1/experiments")
        return _experiment(row)


def assign(experiment: Experiment, user: str | None, key: str | None) -> Exposure:
    """Assign a request to an arm: always the same one for a user of a key, or for a key that names no user.

    Without either, every request is a user of its own.
    """
    exposure_id = uuid.uuid4().hex[:24]
    who = [key, user] if user or key else [None, None, exposure_id]
    digest = hashlib.sha256(json.dumps([experiment.salt, *who]).encode()).digest()
    arm = arm_at(experiment.shares, int.from_bytes(digest[:8], "big") / 2**64)
    return Exposure(exposure_id, experiment.name, digest[8:20].hex(), arm)


def arm_at(shares: Mapping[str, float], place: float) -> str:
    """The arm whose part of the numbers from 0 to 1 holds `place`."""
    reached = 0.0
    for arm, share in shares.items():
        reached += share
        if place < reached:
            return arm
    return list(shares)[-1]  # the sum of the shares may be a rounding error short of 1


def _experiment(row: Sequence[Any]) -> Experiment:
    return Experiment(row[0], row[1], json.loads(row[2]), *row[3:])


_SELECT = "SELECT name, salt, shares, margin, alpha, created, stopped, successor FROM experiments"
_FIRST_OUTCOMES = """
    SELECT arm, value FROM outcomes
    WHERE number IN (SELECT min(number) FROM outcomes WHERE experiment = ? GROUP BY unit) ORDER BY number
"""
_ASKED = """
    SELECT arm, count(DISTINCT unit), count(*) FROM exposures WHERE experiment = ? GROUP BY arm
"""
_SAID = """
    SELECT arm, sum(n), count(*), sum(value) FROM (
        SELECT arm, count(*) AS n, min(number), CAST(value AS INTEGER) AS value
        FROM outcomes WHERE experiment = ? GROUP BY unit
    ) GROUP BY arm
"""
