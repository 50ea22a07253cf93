"""Answers on disk: a JSON line each, appended as they come, so that an interrupted run can go on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from indexer.files import write_atomically
from service.answer import Answer
from service.routes import Route

AnswerMany = Callable[[Sequence[tuple[str, Route]]], Sequence[Answer]]
"""One answer per (question, route), in order: `Answerer.answer_many`, or the HTTP client."""


class EvalError(ValueError):
    """An evaluation that cannot be run as asked; the message names the value and the remedy."""


@dataclass(frozen=True, slots=True)
class AnswerRecord:
    """An answer; `key` names all that it depends on: the question, the route and what is behind the route."""

    key: str
    question_id: str
    shared_by: int
    """How many answers were computed together and share their times; 1 if the times are those a user would see."""
    answer: Answer
    asked: str = ""
    """Whom the question was put to, where that is not the route that answered: `auto`."""

    @property
    def route_name(self) -> str:
        """The route that the answer counts for."""
        return self.asked or self.answer.route

    @property
    def seconds(self) -> float:
        """This answer's share of the time that it took."""
        return self.answer.timings_ms.total / self.shared_by / 1000


_RECORD = TypeAdapter(AnswerRecord)


def read_answers(path: Path) -> dict[str, AnswerRecord]:
    """The answers of a file by key; lines that a crash cut short, or of another version, are passed over."""
    if not path.exists():
        return {}
    records = (_parsed(line) for line in path.read_bytes().split(b"\n"))
    return {record.key: record for record in records if record is not None}


class AnswerLog:
    """`answers.jsonl`: appended to during a run, rewritten in order when the run is complete."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, records: Iterable[AnswerRecord]) -> None:
        """Add records and wait until they are on disk."""
        with self.path.open("ab") as file:
            for record in records:
                file.write(_RECORD.dump_json(record) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def rewrite(self, records: Iterable[AnswerRecord]) -> None:
        """Replace the file, atomically."""
        write_atomically(self.path, b"".join(_RECORD.dump_json(record) + b"\n" for record in records))


def _parsed(line: bytes) -> AnswerRecord | None:
    try:
        return _RECORD.validate_json(line)
    except ValidationError:
        return None
