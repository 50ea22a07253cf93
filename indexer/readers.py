"""Whole corpora and question files as they lie on disk, read into `Document` and `Question`."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from indexer.chunking import Span, sentence_spans
from indexer.config import IndexConfig
from indexer.corpus import CorpusError, Document, Evidence, Question, Split
from indexer.files import hash_text
from indexer.lines import Text, parse_line, read_lines
from indexer.parsing import Parser
from indexer.sources import list_sources
from indexer.splits import assign_splits

logger = logging.getLogger("openbook.indexer")


def read_documents(path: Path, parser: Parser | None = None) -> list[Document]:
    """Every document of a folder or `.jsonl` file, ordered by id; the first that cannot be read raises."""
    with parser or Parser(IndexConfig().max_file_mb) as parser:
        documents = []
        for source in list_sources(path, parser).sources:
            try:
                documents.append(source.load())
            except CorpusError as error:
                raise CorpusError(f"{source.id}: {error} (in {path})") from error
        return documents


def read_questions(path: Path, documents: Mapping[str, Document] | None = None) -> list[Question]:
    """The questions of a `.jsonl` file, in its order; unknown keys are ignored.

    `section_ids` ("DOC#p3": the fourth paragraph of DOC) need `documents` to become evidence: the sentence of the
    paragraph that holds an answer, or all of it if none does. Named documents that are not in `documents` are
    logged, not refused: a corpus may lose one that questions still name.
    """
    if not path.is_file():
        raise CorpusError(f"{path}: no such file; set [eval] questions to a .jsonl file of questions")
    lines = []
    for raw in read_lines(path):
        try:
            lines.append((raw.number, parse_line(raw, _QuestionLine)))
        except CorpusError as error:
            raise CorpusError(f"{path}, line {raw.number}: {error}") from error
    if not lines:
        raise CorpusError(
            f'{path}: holds no questions; expected lines like {{"question": "...", "answers": ["..."]}}'
        )

    first_line: dict[str, int] = {}
    unknown: set[str] = set()
    splits = assign_splits([line.question for _, line in lines], [line.split for _, line in lines])
    questions = []
    for (number, line), split in zip(lines, splits, strict=True):
        where = f"{path}, line {number}"
        question = _question(line, split, documents, where)
        if question.id in first_line:
            raise CorpusError(
                f"{where}: question {question.id!r} is already in line {first_line[question.id]}; remove one"
            )
        first_line[question.id] = number
        unknown.update(question.document_ids if documents is not None else ())
        questions.append(question)
    unknown.difference_update(documents or ())
    if unknown:
        logger.warning(
            "%d documents named by questions are not in the corpus, among them %r", len(unknown), min(unknown)
        )
    return questions


def _question(
    line: _QuestionLine, split: Split, documents: Mapping[str, Document] | None, where: str
) -> Question:
    if line.answers is None:
        raise CorpusError(
            f'{where}: no `answers`; add "answers": ["..."], or [] if the corpus does not answer it'
        )
    if "" in line.answers:
        raise CorpusError(
            f"{where}: an answer is blank; leave it out, or write [] if the corpus does not answer the question"
        )
    evidence = [Evidence(e.document_id, e.start, e.end) for e in line.evidence]
    if documents is not None:
        sections = [found for section in line.section_ids if (found := _section(section, documents, where))]
        evidence += [_narrowed(section, documents[section.document_id].text, line) for section in sections]
    for span in evidence:
        length = (
            len(documents[span.document_id].text) if documents and span.document_id in documents else span.end
        )
        if not 0 <= span.start < span.end <= length:
            raise CorpusError(
                f"{where}: evidence {span.start}:{span.end} is not a span of {span.document_id!r}"
            )
    return Question(
        id=line.id or hash_text(line.question, *line.answers)[:16],
        text=line.question,
        answers=tuple(line.answers),
        document_ids=tuple(line.document_ids or dict.fromkeys(span.document_id for span in evidence)),
        split=split,
        evidence=tuple(evidence),
        synthetic=line.synthetic,
    )


def _section(section_id: str, documents: Mapping[str, Document], where: str) -> Evidence | None:
    match = re.fullmatch(r"(.+)#p(\d+)", section_id)
    if match is None:
        raise CorpusError(f'{where}: section id {section_id!r} is not of the form "DOCUMENT#p3"')
    document_id, index = match[1], int(match[2])
    if document_id not in documents:
        return None
    paragraphs = list(re.finditer(r"\S(?:.|\n(?!\s*\n))*", documents[document_id].text))
    if index >= len(paragraphs):
        raise CorpusError(
            f"{where}: {document_id!r} has {len(paragraphs)} paragraphs, so there is no #p{index}"
        )
    start = paragraphs[index].start()
    return Evidence(document_id, start, start + len(paragraphs[index].group().rstrip()))


def _narrowed(section: Evidence, text: str, line: _QuestionLine) -> Evidence:
    """The sentence with an accepted answer, of several the one nearest to the question; else the whole section.

    A section may be cut into chunks of which one has most of it and another the answer.
    """
    answers = [_padded(answer) for answer in line.answers or () if _words(answer)]
    asked = set(_words(line.question))
    holding = [
        (start, end)
        for start, end in sentence_spans(text, Span(section.start, section.end, ""))
        if any(answer in _padded(text[start:end]) for answer in answers)
    ]
    if not holding:
        return section
    start, end = max(holding, key=lambda span: len(asked.intersection(_words(text[span[0] : span[1]]))))
    return Evidence(section.document_id, start, end)


def _padded(text: str) -> str:
    """Words with a space on either side of each, so that `no` is not found in `north`."""
    return f" {' '.join(_words(text))} "


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


class _EvidenceLine(BaseModel):
    document_id: Text
    start: int
    end: int


class _QuestionLine(BaseModel):
    model_config = ConfigDict(coerce_numbers_to_str=True, str_strip_whitespace=True)

    id: Text = ""
    question: Text = Field(min_length=1)
    answers: list[Text] | None = None  # required, but with a message of its own
    document_ids: list[Text] = []
    split: Split | None = None
    evidence: list[_EvidenceLine] = []
    section_ids: list[Text] = []
    synthetic: bool = False
