"""Changes of documents to try: JSON Lines, each with the question whose answer it changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from eval.answers import EvalError
from eval.metrics.containment import containment
from eval.metrics.normalise import normalised_tokens
from indexer.corpus import CorpusError, Question, Split
from indexer.files import hash_json
from indexer.lines import Line, Text, parse_line, read_lines
from tuner.leakage import without_leaks


@dataclass(frozen=True, slots=True)
class Change:
    """One replacement in one document, and a question that has another answer after it."""

    id: str
    document_id: str
    find: str
    replace: str
    question: str
    answer_before: str
    answer_after: str
    place: str
    """File and line, for messages."""

    def replaced(self, text: str) -> str:
        """`text` with the change made. Raises EvalError unless there is exactly one place for it."""
        count = text.count(self.find)
        if count == 0:
            raise EvalError(
                f"{self.place}: {self.document_id!r} does not hold the text to find; copy it from the document"
            )
        if count > 1:
            raise EvalError(
                f"{self.place}: {self.document_id!r} holds the text to find {count} times; make it longer"
            )
        return text.replace(self.find, self.replace)


def read_changes(path: Path) -> list[Change]:
    """The changes of a `.jsonl` file, in its order. Raises EvalError that names the line."""
    changes: list[Change] = []
    place_of: dict[str, str] = {}
    try:
        for line in read_lines(path):
            place = f"{path}, line {line.number}"
            change = _parsed(line, place)
            if change.id in place_of:
                raise EvalError(f"{place}: id {change.id!r} stands in {place_of[change.id]} too; rename one")
            place_of[change.id] = place
            changes.append(change)
    except CorpusError as error:
        raise EvalError(f"{path}: {error}") from error
    if not changes:
        raise EvalError(f"{path}: holds no changes; expected lines like {_EXPECTED}")
    return changes


def changes_hash(changes: Sequence[Change]) -> str:
    """Identity of a list of changes."""
    return hash_json(
        [[c.document_id, c.find, c.replace, c.question, c.answer_before, c.answer_after] for c in changes]
    )


def questions_of(changes: Sequence[Change], after: bool) -> list[Question]:
    """The question of every change with the answer it has before, or after; held out from training."""
    return [
        Question(
            c.id, c.question, (c.answer_after if after else c.answer_before,), (c.document_id,), Split.TEST
        )
        for c in changes
    ]


def learned_ids(changes: Sequence[Change], questions: Sequence[Question]) -> frozenset[str]:
    """Ids of the changes whose question, or nearly that one, stands in train or dev."""
    learning = [question for question in questions if question.split is not Split.TEST]
    leaking = without_leaks(questions_of(changes, after=False), learning)[1]
    return frozenset(question.id for question in leaking)


def still_learnable(questions: Sequence[Question], changes: Sequence[Change]) -> list[Question]:
    """Those of the questions whose answer no change has made wrong, and that are not nearly one of the changes'."""
    old = [(change.document_id, change.answer_before) for change in changes]
    true = [
        question
        for question in questions
        if not any(
            name in question.document_ids and _overlap(answer, before)
            for name, before in old
            for answer in question.answers
        )
    ]
    return without_leaks(true, questions_of(changes, after=False))[0]


def _overlap(a: str, b: str) -> bool:
    return bool(containment(a, [b]) or containment(b, [a]))


_EXPECTED = (
    '{"id", "document_id", "find", "replace", "question", "answer_before", "answer_after"}, each with a text'
)


class _Line(BaseModel):
    model_config = ConfigDict(coerce_numbers_to_str=True)

    id: Text = Field(min_length=1)
    document_id: Text = Field(min_length=1)
    find: Text = Field(min_length=1)
    replace: Text
    question: Text = Field(min_length=1)
    answer_before: Text
    answer_after: Text


def _parsed(line: Line, place: str) -> Change:
    try:
        row = parse_line(line, _Line)
    except CorpusError as error:
        raise EvalError(f"{place}: {error}; expected {_EXPECTED}") from error
    if row.find == row.replace:
        raise EvalError(f"{place}: `find` and `replace` are the same text; nothing would change")
    before, after = normalised_tokens(row.answer_before), normalised_tokens(row.answer_after)
    for name, words in (("answer_before", before), ("answer_after", after)):
        if not words:
            raise EvalError(f"{place}: {name} holds no words; give the answer to look for")
    if before == after:
        raise EvalError(
            f"{place}: both answers are {row.answer_after!r} to the metrics; choose a change that shows"
        )
    return Change(**row.model_dump(), place=place)
