"""Writing the index: vectors in batches, then one transaction that publishes a generation."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from indexer.chunking import Span
from indexer.corpus import Document, Owner
from indexer.database import (
    Making,
    Meta,
    Stored,
    connect,
    migrate,
    read_meta,
    read_stored,
    reporting_damage,
    transaction,
)
from indexer.encoding import Vectors
from indexer.files import hash_text
from indexer.metadata import decode, encode

_CAN_DELETE_WORDS = sqlite3.sqlite_version_info >= (3, 42)
"""Whether the full text forgets a deleted row at once; older ones keep its words until all segments are merged."""


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
                if _CAN_DELETE_WORDS:
                    self._delete_words_at_once()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()

    def meta(self) -> Meta:
        """The state last published."""
        return read_meta(self._connection)

    def stored(self) -> dict[str, Stored]:
        """What is known of every document, by id."""
        return read_stored(self._connection)

    def stored_one(self, document_id: str) -> Stored | None:
        """What is known of one document, or None if it is not stored."""
        sql = "SELECT owner, source_hash, content_hash FROM documents WHERE id = ?"
        row = self._connection.execute(sql, (document_id,)).fetchone()
        return Stored(Owner(row[0]), *row[1:]) if row else None

    def document(self, document_id: str) -> Document:
        """A document that is known to be stored."""
        execute = self._connection.execute
        row = execute("SELECT id, title, text FROM documents WHERE id = ?", (document_id,)).fetchone()
        pairs = execute("SELECT key, value FROM metadata WHERE document_id = ?", (document_id,))
        return Document(row[0], row[1], row[2], decode(pairs))

    def files(self) -> dict[str, tuple[str, str]]:
        """Signature and hash of each file when it was last read, by name."""
        rows = self._connection.execute("SELECT name, signature, hash FROM files")
        return {row[0]: (row[1], row[2]) for row in rows}

    def keep_files(self, files: Mapping[str, tuple[str, str]]) -> None:
        """Remember these files and forget all others."""
        before = self.files()
        gone = [(name,) for name in before.keys() - files.keys()]
        new = [(name, *file) for name, file in files.items() if before.get(name) != file]
        if gone or new:
            with transaction(self._connection):
                self._connection.executemany("DELETE FROM files WHERE name = ?", gone)
                self._connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", new)

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

    def publish(
        self,
        making: Making,
        written: Sequence[PreparedDocument],
        removed: Iterable[str],
        owner: Owner = Owner.FOLDER,
    ) -> int:
        """Make the next generation visible, all of it or nothing; returns its number.

        New documents are `owner`'s. What a folder sync embedded for documents that then vanished is dropped with
        its next generation; a single document leaves it alone, because that sync may yet go on.
        """
        execute = self._connection.execute
        with transaction(self._connection):
            chunks_before = self.chunk_count()
            unused: list[str] = []
            for document_id in removed:
                unused += self._delete(document_id)
            for prepared in written:
                known = self.stored_one(prepared.document.id)
                unused += self._delete(prepared.document.id)
                self._insert(prepared, known.owner if known else owner)
            replaced = bool(unused)
            if owner is Owner.FOLDER:
                unused += [key for (key,) in execute("SELECT key FROM loose_vectors")]
            self._drop_vectors(unused)
            rewritten = sum(len(prepared.chunks) for prepared in written)
            if (replaced and not _CAN_DELETE_WORDS) or rewritten > chunks_before:
                execute("INSERT INTO words (words) VALUES ('optimize')")
            execute(
                "UPDATE meta SET generation = generation + 1, encoder_id = ?, chunk_tokens = ?,"
                " chunking_version = ?, overlap_tokens = ?, corpus_hash = ?",
                (*astuple(making), self._corpus_hash()),
            )
            return self.meta().generation

    def forget_history(self) -> None:
        """Empty the write-ahead log, where deleted text is still to be found, unless a reader needs it."""
        self._connection.execute("PRAGMA busy_timeout = 0")
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def check_full_text(self) -> None:
        """Raise `sqlite3.DatabaseError` if the full-text index does not match the text it was made from."""
        self._connection.execute("INSERT INTO words (words) VALUES ('integrity-check')")

    def _delete_words_at_once(self) -> None:
        execute = self._connection.execute
        if execute("SELECT 1 FROM words_config WHERE k = 'secure-delete' AND v = 1").fetchone() is None:
            execute("INSERT INTO words (words, rank) VALUES ('secure-delete', 1)")

    def _delete(self, document_id: str) -> list[str]:
        """Delete a document; returns the keys of the vectors that its chunks used."""
        execute = self._connection.execute
        chunks = execute("SELECT id, vector_key FROM chunks WHERE document_id = ?", (document_id,)).fetchall()
        self._connection.executemany("DELETE FROM words WHERE rowid = ?", [row[:1] for row in chunks])
        for table in ("chunks", "metadata"):
            execute(f"DELETE FROM {table} WHERE document_id = ?", (document_id,))  # noqa: S608 - named above
        execute("DELETE FROM documents WHERE id = ?", (document_id,))
        return [key for _, key in chunks]

    def _drop_vectors(self, keys: Iterable[str]) -> None:
        """Delete those of these vectors that no chunk uses, and list as loose only what is."""
        self._connection.executemany(
            "DELETE FROM vectors WHERE key = ? AND NOT EXISTS (SELECT 1 FROM chunks WHERE vector_key = key)",
            [(key,) for key in keys],
        )
        self._connection.execute(
            "DELETE FROM loose_vectors WHERE EXISTS (SELECT 1 FROM chunks WHERE vector_key = key)"
            " OR NOT EXISTS (SELECT 1 FROM vectors WHERE vectors.key = loose_vectors.key)"
        )

    def _insert(self, prepared: PreparedDocument, owner: Owner) -> None:
        execute = self._connection.execute
        document = prepared.document
        content_hash = hash_text(document.title, document.text)
        execute(
            "INSERT INTO documents (id, title, text, source_hash, content_hash, owner) VALUES (?, ?, ?, ?, ?, ?)",
            (document.id, document.title, document.text, prepared.source_hash, content_hash, owner),
        )
        self._connection.executemany(
            "INSERT INTO metadata VALUES (?, ?, ?)",
            [(document.id, key, value) for key, value in encode(document.metadata)],
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
