"""What people thought of answers: kept in SQLite, and read out as preference pairs."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from indexer.files import hash_text
from service.answer import Answer
from service.tables import open_tables

_SCHEMA = """
    CREATE TABLE answers (
        id TEXT PRIMARY KEY,
        question TEXT NOT NULL,
        route TEXT NOT NULL,
        base_model TEXT NOT NULL,
        adapter TEXT,
        answer TEXT NOT NULL,
        passages TEXT NOT NULL,                -- JSON: [[document id, title, text], ...]
        contexts_hash TEXT NOT NULL            -- equal for answers that were shown the same passages
    );
    CREATE TABLE ratings (
        answer_id TEXT PRIMARY KEY REFERENCES answers (id),
        rating INTEGER NOT NULL,               -- 1 good, -1 bad; the last word counts
        created REAL NOT NULL
    );
    CREATE TABLE preferences (
        id TEXT PRIMARY KEY,
        preferred TEXT NOT NULL REFERENCES answers (id),
        rejected TEXT NOT NULL REFERENCES answers (id),
        created REAL NOT NULL
    )
"""


class FeedbackError(ValueError):
    """Feedback about answers that cannot be compared."""


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A line for preference training, in TRL's conversational format."""

    prompt: list[dict[str, str]]
    chosen: list[dict[str, str]]
    rejected: list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class RejectedAnswer:
    """An answer that somebody called bad, with the documents that it was shown."""

    id: str
    question: str
    route: str
    answer: str
    document_ids: tuple[str, ...]


class Feedback:
    """Ratings and preferences; several threads may share it."""

    def __init__(self, path: Path) -> None:
        """Open the tables at `path`, making them if need be. Raises TablesDamaged."""
        self._connection = open_tables(path, _SCHEMA, "secure_delete = ON")
        self._lock = threading.Lock()

    def close(self) -> None:
        """Give the connection back, after whatever another thread does with it."""
        with self._lock:
            self._connection.close()

    def rate(self, answer: Answer, rating: int) -> str:
        """Keep that an answer is good (1) or bad (-1), in place of what was said of it before; returns its id."""
        with self._transaction():
            self._keep([answer])
            self._connection.execute(
                "INSERT OR REPLACE INTO ratings VALUES (?, ?, ?)", (answer.id, rating, time.time())
            )
        return answer.id

    def prefer(self, preferred: Answer, rejected: Answer) -> str:
        """Keep that one answer is better than another to the same question; returns an id. Raises FeedbackError."""
        if preferred.question != rejected.question:
            raise FeedbackError("the two answers are to different questions; compare answers to the same one")
        if preferred.id == rejected.id:
            raise FeedbackError("an answer cannot be better than itself; name two")
        preference_id = uuid.uuid4().hex[:16]
        with self._transaction():
            self._keep([preferred, rejected])
            self._connection.execute(
                "INSERT INTO preferences VALUES (?, ?, ?, ?)",
                (preference_id, preferred.id, rejected.id, time.time()),
            )
        return preference_id

    def pairs(self) -> Iterator[PreferencePair]:
        """Every preference, and every good answer with every bad one to the same question; texts that are equal teach
        nothing and are left out.

        Passages are part of the prompt where both answers were shown the same ones.
        """
        with self._lock:
            rows = self._connection.execute(_PAIRS).fetchall()
        for question, passages, same, chosen, rejected in rows:
            yield PreferencePair(
                [{"role": "user", "content": _prompt(question, json.loads(passages) if same else [])}],
                [{"role": "assistant", "content": chosen}],
                [{"role": "assistant", "content": rejected}],
            )

    def failures(self) -> list[RejectedAnswer]:
        """Every answer that is called bad, in the order in which that was said."""
        with self._lock:
            rows = self._connection.execute(
                """
                SELECT id, question, route, answer, passages FROM ratings JOIN answers ON id = answer_id
                WHERE rating < 0 ORDER BY created
                """
            ).fetchall()
        return [
            RejectedAnswer(
                answer_id, question, route, answer, tuple(dict.fromkeys(p[0] for p in json.loads(passages)))
            )
            for answer_id, question, route, answer, passages in rows
        ]

    def forget_document(self, document_id: str) -> None:
        """Drop every answer that was shown a passage of the document, with what was said of it."""
        with self._transaction():
            for statement in _FORGET:
                self._connection.execute(statement, (document_id,) if "?" in statement else ())

    def quoted(self) -> set[str]:
        """The documents of which a passage was shown to an answer that is kept."""
        with self._lock:
            return {document_id for (document_id,) in self._connection.execute(_QUOTED)}

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All that is written inside the block, or nothing of it."""
        with self._lock, self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield

    def _keep(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            passages = json.dumps(
                [[c.document_id, c.title, c.text] for c in answer.contexts], ensure_ascii=False
            )
            self._connection.execute(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    answer.id,
                    answer.question,
                    answer.route,
                    answer.base_model,
                    answer.adapter,
                    answer.answer,
                    passages,
                    hash_text(passages),
                ),
            )


def as_line(pair: PreferencePair) -> str:
    """A line of JSON."""
    return json.dumps(asdict(pair), ensure_ascii=False) + "\n"


def _prompt(question: str, passages: Sequence[Sequence[str]]) -> str:
    shown = [f"[{number}] {title}: {text}" for number, (_, title, text) in enumerate(passages, start=1)]
    return "\n\n".join([*shown, f"Question: {question}"])


_QUOTED = "SELECT DISTINCT json_extract(passage.value, '$[0]') FROM answers, json_each(passages) AS passage"

_FORGET = (
    """
    CREATE TEMP TABLE forgotten AS SELECT DISTINCT a.id FROM answers a, json_each(a.passages) AS passage
    WHERE json_extract(passage.value, '$[0]') = ?
    """,
    "DELETE FROM preferences WHERE preferred IN temp.forgotten OR rejected IN temp.forgotten",
    "DELETE FROM ratings WHERE answer_id IN temp.forgotten",
    "DELETE FROM answers WHERE id IN temp.forgotten",
    "DROP TABLE temp.forgotten",
)

_PAIRS = """
    WITH rated AS MATERIALIZED (
        SELECT id, question, rating, created FROM ratings JOIN answers ON id = answer_id
    )
    SELECT DISTINCT a.question, a.passages, a.contexts_hash = b.contexts_hash, a.answer, b.answer
    FROM (
        SELECT preferred, rejected, created FROM preferences
        UNION ALL
        SELECT good.id, bad.id, max(good.created, bad.created)
        FROM rated AS good JOIN rated AS bad USING (question) WHERE good.rating > 0 AND bad.rating < 0
    ) AS pairs
    JOIN answers AS a ON a.id = pairs.preferred
    JOIN answers AS b ON b.id = pairs.rejected
    WHERE a.question = b.question AND a.answer <> b.answer
    ORDER BY pairs.created
"""
