"""What there is to index at a path: files of a folder or lines of `.jsonl` files, none of them parsed yet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from indexer.corpus import CorpusError, Document
from indexer.folder import list_files, open_regular, read_file
from indexer.formats import FORMATS_VERSION, SUFFIXES, suffix_of
from indexer.lines import MAX_LINE_BYTES, Line, Text, parse_line, read_lines
from indexer.metadata import check_metadata, hash_document
from indexer.names import check_id, shown
from indexer.parsing import Parser
from indexer.signatures import FileHashes


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


class _DocumentLine(BaseModel):
    model_config = ConfigDict(coerce_numbers_to_str=True)

    id: Text = Field(min_length=1, validation_alias=AliasChoices("id", "_id"))  # `_id` in BEIR
    title: Text = Field(default="", max_length=1000)  # repeated with every chunk
    text: Text = Field(pattern=r"\S")
    metadata: dict[str, Any] = {}
