"""Corpora and question files as they lie on disk, read into `Document` and `Question`."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from indexer.corpus import CorpusError, Document, Evidence, Question, Split
from indexer.files import hash_text
from indexer.formats import FORMATS_VERSION, SUFFIXES, read_file
from indexer.splits import assign_splits

logger = logging.getLogger("openbook.indexer")

Line = TypeVar("Line", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Source:
    """A document not parsed yet; an equal `hash` means that `load` would give the same document again."""

    id: str
    hash: str
    load: Callable[[], Document]


def read_documents(path: Path) -> list[Document]:
    """Every document of a folder or `.jsonl` file, ordered by id; the first that cannot be read raises."""
    return [source.load() for source in list_sources(path)]


def list_sources(path: Path) -> list[Source]:
    """The documents at `path`, by id: supported, visible files of a folder, or lines of a `.jsonl`."""
    if not path.exists():
        raise CorpusError(
            f"{path}: no such folder or file; set [index] documents to where your documents are"
        )
    if path.is_dir():
        sources = _folder_sources(path)
        expected = f"files ending in {' '.join(sorted(SUFFIXES))}"
    elif path.suffix == ".jsonl":
        sources = _jsonl_sources(path)
        expected = 'lines like {"id": "...", "title": "...", "text": "..."}'
    else:
        raise CorpusError(f"{path}: neither a folder nor a .jsonl file")
    if not sources:
        raise CorpusError(f"{path}: holds no documents; expected {expected}")
    return sorted(sources, key=lambda source: source.id)


def _folder_sources(folder: Path) -> list[Source]:
    sources = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        document_id = os.fsencode(relative.as_posix()).decode("utf-8", "replace")
        digest = hashlib.sha256(f"{FORMATS_VERSION}:".encode() + path.read_bytes()).hexdigest()
        sources.append(Source(document_id, digest, partial(_load_file, document_id, path)))
    return sources


def _load_file(document_id: str, path: Path) -> Document:
    title, text = read_file(path)
    return Document(document_id, title, text)


def _jsonl_sources(path: Path) -> list[Source]:
    sources = []
    first_line: dict[str, int] = {}
    for number, line in _read_lines(path, _DocumentLine):
        if line.id in first_line:
            raise CorpusError(
                f"{path}, line {number}: id {line.id!r} is already in line {first_line[line.id]}; rename one"
            )
        first_line[line.id] = number
        document = Document(line.id, line.title or line.id, line.text)
        digest = hash_text(document.title, document.text)
        sources.append(Source(document.id, digest, partial(_itself, document)))
    return sources


def _itself(document: Document) -> Document:
    return document


def read_questions(path: Path, documents: Mapping[str, Document] | None = None) -> list[Question]:
    """The questions of a `.jsonl` file, in its order; unknown keys are ignored.

    `section_ids` ("DOC#p3": the fourth paragraph of DOC) need `documents` to become evidence. Named documents
    that are not in `documents` are logged, not refused: a corpus may lose one that questions still name.
    """
    if not path.is_file():
        raise CorpusError(f"{path}: no such file; set [eval] questions to a .jsonl file of questions")
    lines = list(_read_lines(path, _QuestionLine))
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
        logger.warning("%d documents named by questions are not in the corpus", len(unknown))
    return questions


def _question(
    line: _QuestionLine, split: Split, documents: Mapping[str, Document] | None, where: str
) -> Question:
    if line.answers is None:
        raise CorpusError(
            f'{where}: no `answers`; add "answers": ["..."], or [] if the corpus does not answer it'
        )
    evidence = [Evidence(e.document_id, e.start, e.end) for e in line.evidence]
    if documents is not None:
        evidence += [found for section in line.section_ids if (found := _section(section, documents, where))]
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


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("holds a NUL character; remove it")
    return text


Text = Annotated[str, AfterValidator(_storable)]


class _DocumentLine(BaseModel):
    model_config = ConfigDict(coerce_numbers_to_str=True)

    id: Text = Field(min_length=1)
    title: Text = ""
    text: Text = Field(pattern=r"\S")


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


def _read_lines(path: Path, model: type[Line]) -> Iterator[tuple[int, Line]]:
    """Number and content of each line that is not blank."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, raw in enumerate(file, start=1):
                if raw.strip():
                    yield number, _parse_line(raw, model, f"{path}, line {number}")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def _parse_line(raw: str, model: type[Line], where: str) -> Line:
    try:
        return model.model_validate(json.loads(raw))
    except json.JSONDecodeError as error:
        raise CorpusError(f"{where}: not JSON ({error.msg}); each line must be one JSON object") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the line"
        raise CorpusError(f"{where}: {place}: {first['msg']}") from error
