"""A throw-away copy of a workspace's documents and index, in which documents may be changed at will."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from eval.answers import EvalError
from eval.changes import Change
from indexer.config import IndexConfig, Workspace
from indexer.corpus import Document, Owner
from indexer.database import Stored, open_published, read_stored
from indexer.documents import put_document
from indexer.encoding import Encoder, Passage, Vectors
from indexer.folder import list_files
from indexer.formats import SUFFIXES
from indexer.parsing import Parser
from indexer.snapshot import Snapshot
from indexer.sync import SyncReport, sync

_JSONL = ".jsonl"


@dataclass(frozen=True, slots=True)
class Edits:
    """What the changes make of files and of documents that were put through the API."""

    files: Mapping[Path, bytes]
    put: Mapping[str, Document]
    changed: frozenset[str]
    """Ids of the documents."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What bringing the index up to date took; `seconds` from before the first file was written."""

    seconds: float
    documents: int
    chunks_embedded: int
    tokens_embedded: int


@dataclass(frozen=True, slots=True)
class Scratch:
    """The copy. `documents` is its folder or file, or None if all documents were put through the API."""

    workspace: Workspace
    documents: Path | None
    stored: Mapping[str, Stored]

    def edits(self, changes: Sequence[Change]) -> Edits:
        """Make the changes in memory, one after the other. Raises EvalError that names the line."""
        files: dict[Path, bytes] = {}
        put: dict[str, Document] = {}
        with closing(Snapshot(self.workspace.database)) as snapshot:
            for change in changes:
                known = self.stored.get(change.document_id)
                if known is None:
                    raise EvalError(
                        f"{change.place}: no document {change.document_id!r} is indexed; correct the id, or run "
                        "`openbook index`"
                    )
                if known.owner is Owner.API:
                    before = put.get(change.document_id) or snapshot.document(change.document_id)
                    if before is not None:
                        put[before.id] = replace(before, text=change.replaced(before.text))
                else:
                    self._edit_file(change, files)
        return Edits(files, put, frozenset(change.document_id for change in changes))

    def settle(self, encoder: Encoder, settings: IndexConfig, parser: Parser) -> None:
        """Index whatever of the documents was not yet, so that the changes alone are measured afterwards."""
        if self.documents is not None:
            self._sync(self.documents, encoder, settings, parser)

    def apply(self, edits: Edits, encoder: Encoder, settings: IndexConfig, parser: Parser) -> Applied:
        """Write the edits and bring the index up to date. Raises EvalError for what cannot be read any more."""
        counting = _CountingEncoder(encoder)
        embedded = 0
        started = time.perf_counter()
        if edits.files and self.documents is not None:
            for path, data in edits.files.items():
                path.write_bytes(data)
            report = self._sync(self.documents, counting, settings, parser)
            embedded += report.chunks_embedded
            for document_id, reason in report.skipped:
                if document_id in edits.changed:
                    raise EvalError(f"{document_id!r} cannot be read after the changes: {reason}")
        for document in edits.put.values():
            written = put_document(
                self.workspace,
                document,
                counting,
                settings.chunk_tokens,
                overlap_tokens=settings.overlap_tokens,
            )
            embedded += written.chunks_embedded
        seconds = time.perf_counter() - started
        return Applied(seconds, len(edits.changed), embedded, counting.tokens())

    def _sync(self, documents: Path, encoder: Encoder, settings: IndexConfig, parser: Parser) -> SyncReport:
        return sync(
            self.workspace,
            documents,
            encoder,
            settings.chunk_tokens,
            parser,
            settings.vectors,
            settings.overlap_tokens,
        )

    def _edit_file(self, change: Change, files: dict[Path, bytes]) -> None:
        path, line_id = self._file(change.document_id)
        try:
            data = files[path] if path in files else path.read_bytes()
        except FileNotFoundError:
            raise EvalError(
                f"{change.place}: the file of {change.document_id!r} is gone; run `openbook index`"
            ) from None
        files[path] = _edit_text(data, change) if line_id is None else _edit_line(data, line_id, change)

    def _file(self, document_id: str) -> tuple[Path, str | None]:
        """The file that a document is in, and its id there if it is one line of many."""
        root = self.documents or self.workspace.root
        if root.is_file():
            return root, document_id
        name, hash_sign, line_id = document_id.partition(f"{_JSONL}#")
        return (root / f"{name}{_JSONL}", line_id) if hash_sign else (root / document_id, None)


@contextmanager
def scratch_copy(workspace: Workspace, documents: Path) -> Iterator[Scratch]:
    """Copy the published index and the documents; the copy is deleted at the end. Raises IndexMissing."""
    with tempfile.TemporaryDirectory(prefix="openbook-scratch-") as folder:
        copy = Workspace(Path(folder).resolve())
        copy.database.parent.mkdir(parents=True)
        source, _ = open_published(workspace.database)
        with closing(source), closing(sqlite3.connect(copy.database)) as target:
            source.backup(target)
            stored = read_stored(source)
        from_folder = any(known.owner is Owner.FOLDER for known in stored.values())
        yield Scratch(copy, _copy_documents(documents, copy.root) if from_folder else None, stored)


def _copy_documents(documents: Path, root: Path) -> Path:
    target = root / "documents"
    if documents.is_file():
        target = target.with_suffix(documents.suffix)
        shutil.copyfile(documents, target)
        return target
    target.mkdir()
    if documents.is_dir():
        for entry in list_files(documents, SUFFIXES | {_JSONL}):
            if not entry.problem and entry.path.is_file():
                place = target / entry.name
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(entry.path, place)
    return target


def _edit_text(data: bytes, change: Change) -> bytes:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise EvalError(
            f"{change.place}: {change.document_id!r} is no text file, so nothing can be replaced in it; choose a "
            "document that is one"
        ) from None
    return change.replaced(text).encode()


def _edit_line(data: bytes, line_id: str, change: Change) -> bytes:
    """The file with the text of one JSON line changed, and all other lines as they were."""
    lines = data.split(b"\n")
    for number, line in enumerate(lines):
        row = _json_object(line)
        if str(row.get("id", row.get("_id"))) == line_id:
            row["text"] = change.replaced(str(row.get("text", "")))
            lines[number] = json.dumps(row).encode()
            return b"\n".join(lines)
    raise EvalError(f"{change.place}: the line of {change.document_id!r} is gone; run `openbook index`")


def _json_object(line: bytes) -> dict[str, object]:
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


class _CountingEncoder:
    """The encoder, remembering what it was given; tokens are counted afterwards, outside of what is timed."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._texts: list[str] = []
        self.id, self.dim, self.max_tokens = encoder.id, encoder.dim, encoder.max_tokens

    def tokens(self) -> int:
        return sum(min(self._encoder.count_tokens(text), self.max_tokens) for text in self._texts)

    def count_tokens(self, text: str) -> int:
        return self._encoder.count_tokens(text)

    def encode_queries(self, queries: Sequence[str]) -> Vectors:
        return self._encoder.encode_queries(queries)

    def encode_passages(self, passages: Sequence[Passage]) -> list[Vectors]:
        self._texts += [passage.text for passage in passages]
        return self._encoder.encode_passages(passages)
