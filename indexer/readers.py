"""Corpora and question files as they lie on disk, read into `Document` and `Question`."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from indexer.config import IndexConfig
from indexer.corpus import CorpusError, Document, Evidence, Question, Split
from indexer.files import hash_text
from indexer.folder import list_files, open_regular, read_file
from indexer.formats import FORMATS_VERSION, SUFFIXES, suffix_of
from indexer.lines import MAX_LINE_BYTES, Line, Text, parse_line, read_lines
from indexer.metadata import check_metadata, hash_document
from indexer.names import check_id, shown
from indexer.parsing import Parser
from indexer.signatures import FileHashes
from indexer.splits import assign_splits

logger = logging.getLogger("openbook.indexer")


@dataclass(frozen=True, slots=True)
class Source:
    """A document not parsed yet; an equal `hash` means that `load` would give the same document again.

    `load` raises CorpusError if it cannot be read. `hash` is then empty, if that is known already.
    """

    id: str
    hash: str
    load: Callable[[], Document]


@dataclass(frozen=True, slots=True)
class Listing:
    """What there is to index. `unseen` are beginnings of ids whose documents may exist without being listed."""

    sources: tuple[Source, ...]
    unseen: tuple[str, ...]

    def is_gone(self, document_id: str) -> bool:
        """Whether a document that is not in `sources` is gone for certain."""
        return not document_id.startswith(self.unseen)


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


def list_sources(path: Path, parser: Parser, hashes: FileHashes | None = None) -> Listing:
    """The documents at `path`, by id: supported, visible files of a folder, or lines of `.jsonl` files.

    What cannot be used is listed too, under a name that can be shown, with a `load` that says why.
    """
    if not path.exists():
        raise CorpusError(
            f"{path}: no such folder or file; set [index] documents to where your documents are"
        )
    if path.is_dir():
        found = _folder_sources(path, parser, hashes or FileHashes())
        expected = f"files ending in {' '.join(sorted(SUFFIXES | {_JSONL}))}"
    elif path.suffix == _JSONL:
        found = _jsonl_sources(path.resolve(), path.name)
        expected = 'lines like {"id": "...", "title": "...", "text": "..."}'
    else:
        raise CorpusError(f"{path}: neither a folder nor a .jsonl file")
    sources, unseen = [], []
    for item in found:
        if isinstance(item, _Unseen):
            unseen.append(item.prefix)
        else:
            sources.append(item)
    if not sources:
        raise CorpusError(f"{path}: holds no documents; expected {expected}")
    return Listing(tuple(sorted(sources, key=lambda source: source.id)), tuple(unseen))


_JSONL = ".jsonl"


@dataclass(frozen=True, slots=True)
class _Unseen:
    prefix: str


def _folder_sources(folder: Path, parser: Parser, hashes: FileHashes) -> Iterator[Source | _Unseen]:
    try:
        for entry in list_files(folder, SUFFIXES | {_JSONL}):
            if entry.problem:
                yield _refusal(entry.name, entry.problem)
                if entry.name.endswith("/"):
                    yield _Unseen(entry.name)
            elif suffix_of(entry.name) != _JSONL:
                yield _file_source(entry.name, entry.path, parser, hashes)
            else:
                yield from _jsonl_sources(entry.path, entry.name, prefix=f"{entry.name}#")
    except OSError as error:
        raise CorpusError(f"{folder}: cannot be listed ({error.strerror}); see its permissions") from error


def _file_source(name: str, path: Path, parser: Parser, hashes: FileHashes) -> Source:
    try:
        check_id(name)
        digest = hashes.hash_file(name, path, _SALT, parser.max_bytes)
    except CorpusError as error:
        return _refusal(name, str(error))
    return Source(name, digest, partial(_load_file, name, path, digest, parser))


_SALT = f"{FORMATS_VERSION}:".encode()


def _load_file(name: str, path: Path, digest: str, parser: Parser) -> Document:
    data = read_file(path, parser.max_bytes)
    if hashlib.sha256(_SALT + data).hexdigest() != digest:
        raise CorpusError("changed while it was being read; run again")
    return parser.document(name, data)


def _refusal(name: str, reason: str) -> Source:
    return Source(shown(name), "", partial(_refuse, reason))


def _refuse(reason: str) -> Document:
    raise CorpusError(reason)


def _jsonl_sources(path: Path, name: str, prefix: str = "") -> Iterator[Source | _Unseen]:
    """The documents of a `.jsonl` file, their ids behind `prefix`.

    A line that cannot be used is refused. Which document it was is unknown, so none of the file counts as gone.
    """
    first_line: dict[str, int] = {}
    try:
        check_id(name)
        for line in read_lines(path):
            where = f"{name}, line {line.number}"
            try:
                document = _document(line, prefix)
                _require_new(document.id, first_line)
            except CorpusError as error:
                yield _refusal(where, str(error))
                yield _Unseen(prefix)
                continue
            first_line[document.id] = line.number
            digest = hash_document(document)
            yield Source(document.id, digest, partial(_load_line, path, line.offset, prefix, digest))
    except CorpusError as error:
        yield _refusal(name, str(error))
        yield _Unseen(prefix)


def _require_new(document_id: str, first_line: Mapping[str, int]) -> None:
    if document_id in first_line:
        raise CorpusError(f"id {document_id!r} is already in line {first_line[document_id]}; rename one")


def _load_line(path: Path, offset: int, prefix: str, digest: str) -> Document:
    """The document again, so that a corpus larger than memory can be listed."""
    with open_regular(path) as file:
        file.seek(offset)
        document = _document(Line(0, offset, file.readline(MAX_LINE_BYTES)), prefix)
    if hash_document(document) != digest:
        raise CorpusError("its line changed while it was being read; run again")
    return document


def _document(line: Line, prefix: str) -> Document:
    parsed = parse_line(line, _DocumentLine)
    check_id(parsed.id)
    return Document(
        prefix + parsed.id, parsed.title or parsed.id, parsed.text, check_metadata(parsed.metadata)
    )


def read_questions(path: Path, documents: Mapping[str, Document] | None = None) -> list[Question]:
    """The questions of a `.jsonl` file, in its order; unknown keys are ignored.

    `section_ids` ("DOC#p3": the fourth paragraph of DOC) need `documents` to become evidence. Named documents
    that are not in `documents` are logged, not refused: a corpus may lose one that questions still name.
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


class _DocumentLine(BaseModel):
    model_config = ConfigDict(coerce_numbers_to_str=True)

    id: Text = Field(min_length=1, validation_alias=AliasChoices("id", "_id"))  # `_id` in BEIR
    title: Text = Field(default="", max_length=1000)  # repeated with every chunk
    text: Text = Field(pattern=r"\S")
    metadata: dict[str, Any] = {}


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
