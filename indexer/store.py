"""Writing the index: vectors in batches, then one transaction that publishes a generation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from indexer.chunking import Span
from indexer.corpus import Document
from indexer.database import Making, Meta, connect, migrate, read_meta, reporting_damage, transaction
from indexer.encoding import Vectors
from indexer.files import hash_text


@dataclass(frozen=True, slots=True)
class PreparedDocument:
    """A document as it will be stored: its chunks and, for each, the key of its vector."""

    document: Document
    source_hash: str
    chunks: tuple[tuple[Span, str], ...]


class Store:
    """The one writer; used under the writer lock of `indexer.sync`."""

    def __init__(self, path: Path) -> None:
        """Open the database, creating it or bringing it to the present schema."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = connect(path)
        try:
            with reporting_damage(path):
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA foreign_keys = ON")
                self._connection.execute(
                    "PRAGMA secure_delete = ON"
                )  # overwrite deleted text, don't just unlink it
                migrate(self._connection, path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()

    def meta(self) -> Meta:
        """The state last published."""
        return read_meta(self._connection)

    def source_hashes(self) -> dict[str, str]:
        """The source hash of every document, by id."""
        return dict(self._connection.execute("SELECT id, source_hash FROM documents"))

    def document(self, document_id: str) -> Document:
        """A document that is known to be stored."""
        sql = "SELECT id, title, text FROM documents WHERE id = ?"
        return Document(*self._connection.execute(sql, (document_id,)).fetchone())

    def chunk_count(self) -> int:
        """How many chunks are published."""
        return int(self._connection.execute("SELECT count(*) FROM chunks").fetchone()[0])

    def without_vector(self, keys: Iterable[str]) -> list[str]:
        """Those of `keys` that have no vector yet."""
        sql = "SELECT 1 FROM vectors WHERE key = ?"
        return [key for key in keys if self._connection.execute(sql, (key,)).fetchone() is None]

    def add_vectors(self, keys: Sequence[str], vectors: Sequence[Vectors]) -> None:
        """Keep the vectors, [rows, dim], of chunks to be published later; what is kept survives an interruption."""
        rows = [
            (key, matrix.astype("<f4").tobytes(), len(matrix))
            for key, matrix in zip(keys, vectors, strict=True)
        ]
        with transaction(self._connection):
            self._connection.executemany(
                "INSERT OR REPLACE INTO vectors (key, vector, count) VALUES (?, ?, ?)", rows
            )

    def publish(self, making: Making, written: Iterable[PreparedDocument], removed: Iterable[str]) -> int:
        """Make the next generation visible, all of it or nothing; returns its number."""
        execute = self._connection.execute
        with transaction(self._connection):
            for document_id in removed:
                self._delete(document_id)
            for prepared in written:
                self._delete(prepared.document.id)
                self._insert(prepared)
            execute("DELETE FROM vectors WHERE key NOT IN (SELECT vector_key FROM chunks)")
            execute(
                "INSERT INTO words (words) VALUES ('optimize')"
            )  # segments keep deleted terms until merged
            execute(
                "UPDATE meta SET generation = generation + 1, encoder_id = ?, chunk_tokens = ?,"
                " chunking_version = ?, corpus_hash = ?",
                (*astuple(making), self._corpus_hash()),
            )
            return self.meta().generation

    def check_full_text(self) -> None:
        """Raise `sqlite3.DatabaseError` if the full-text index does not match the text it was made from."""
        self._connection.execute("INSERT INTO words (words) VALUES ('integrity-check')")

    def _delete(self, document_id: str) -> None:
        execute = self._connection.execute
        execute(
            "DELETE FROM words WHERE rowid IN (SELECT id FROM chunks WHERE document_id = ?)", (document_id,)
        )
        execute("DELETE FROM chunks WHERE document_id = ?", (document_id,))
        execute("DELETE FROM documents WHERE id = ?", (document_id,))

    def _insert(self, prepared: PreparedDocument) -> None:
        execute = self._connection.execute
        document = prepared.document
        content_hash = hash_text(document.title, document.text)
        execute(
            "INSERT INTO documents VALUES (?, ?, ?, ?, ?)",
            (document.id, document.title, document.text, prepared.source_hash, content_hash),
        )
        for span, key in prepared.chunks:
            inserted = execute(
                "INSERT INTO chunks (document_id, heading, start_offset, end_offset, vector_key)"
                " VALUES (?, ?, ?, ?, ?)",
                (document.id, span.heading, span.start, span.end, key),
            )
            execute(
                "INSERT INTO words (rowid, title, heading, text) VALUES (?, ?, ?, ?)",
                (inserted.lastrowid, document.title, span.heading, document.text[span.start : span.end]),
            )

    def _corpus_hash(self) -> str:
        rows = self._connection.execute("SELECT id, content_hash FROM documents ORDER BY id")
        return hash_text(*(part for row in rows for part in row))
