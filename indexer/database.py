"""The SQLite database of an index: its schema, its connections and what it says about itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from indexer.corpus import Owner

_MIGRATIONS = (
    """
    CREATE TABLE meta (
        generation INTEGER NOT NULL,       -- grows by one with every published change
        encoder_id TEXT NOT NULL,          -- with the next two: what the chunks were made with
        chunk_tokens INTEGER NOT NULL,
        chunking_version INTEGER NOT NULL,
        corpus_hash TEXT NOT NULL,
        vectors_generation INTEGER,        -- the FAISS snapshot in the cache that is ours
        vectors_checksum TEXT
    );
    INSERT INTO meta VALUES (0, '', 0, 0, '', NULL, NULL);
    CREATE TABLE documents (
        id TEXT PRIMARY KEY,
        title TEXT NOT NULL,
        text TEXT NOT NULL,
        source_hash TEXT NOT NULL,         -- of the file, so that an unchanged one is not parsed again
        content_hash TEXT NOT NULL         -- of title and text
    );
    CREATE TABLE vectors (
        key TEXT PRIMARY KEY,              -- hash of the embedded text and the encoder
        vector BLOB NOT NULL               -- float32
    );
    CREATE TABLE chunks (
        id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice
        document_id TEXT NOT NULL REFERENCES documents (id),
        heading TEXT NOT NULL,
        start_offset INTEGER NOT NULL,
        end_offset INTEGER NOT NULL,
        vector_key TEXT NOT NULL REFERENCES vectors (key)
    );
    CREATE INDEX chunks_by_document ON chunks (document_id);
    CREATE INDEX chunks_by_vector ON chunks (vector_key);
    CREATE VIRTUAL TABLE words USING fts5 (
        title, heading, text, tokenize = 'porter unicode61 remove_diacritics 2'
    );
    """,
    """
    ALTER TABLE vectors ADD COLUMN count INTEGER NOT NULL DEFAULT 1;  -- of rows in `vector`, [count, dim]
    """,
    """
    ALTER TABLE documents ADD COLUMN owner TEXT NOT NULL DEFAULT 'folder';  -- or 'api'
    CREATE INDEX documents_in_brief ON documents (id, owner, source_hash, content_hash);  -- to list them unread
    CREATE TABLE metadata (
        document_id TEXT NOT NULL REFERENCES documents (id),
        key TEXT NOT NULL,
        value TEXT NOT NULL,               -- JSON, so that true, 1 and "1" differ
        PRIMARY KEY (document_id, key)
    ) WITHOUT ROWID;
    CREATE INDEX metadata_by_value ON metadata (key, value);
    CREATE TABLE files (                   -- so that a file that was not touched is not read again
        name TEXT PRIMARY KEY,
        signature TEXT NOT NULL,           -- of its inode, size and times
        hash TEXT NOT NULL                 -- of its content when that was its signature
    ) WITHOUT ROWID;
    CREATE TABLE loose_vectors (           -- keys of vectors whose documents are not published yet
        key TEXT PRIMARY KEY
    ) WITHOUT ROWID;
    CREATE TRIGGER vectors_begin_loose AFTER INSERT ON vectors BEGIN
        INSERT OR IGNORE INTO loose_vectors VALUES (new.key);
    END;
    INSERT INTO loose_vectors SELECT key FROM vectors WHERE key NOT IN (SELECT vector_key FROM chunks);
    """,
    """
    ALTER TABLE meta ADD COLUMN overlap_tokens INTEGER NOT NULL DEFAULT 0;  -- what the chunks were made with, too
    """,
)
"""The script at position n brings a database from schema version n to n + 1."""

_BUSY_SECONDS = 30.0


class IndexMissing(RuntimeError):
    """There is no index that can be searched with the present settings."""


class IndexDamaged(RuntimeError):
    """The index cannot be read or contradicts itself."""


class IndexUnwritable(RuntimeError):
    """The disk is full, or the folder may not be written; what was published before still is."""


@dataclass(frozen=True, slots=True)
class Making:
    """What decides how a document is cut and embedded; a change of any of it makes all chunks stale."""

    encoder_id: str
    chunk_tokens: int
    chunking_version: int
    overlap_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Meta:
    """The state last published; generation 0 means that nothing was yet."""

    generation: int
    making: Making
    corpus_hash: str
    vectors_generation: int | None
    vectors_checksum: str | None


@dataclass(frozen=True, slots=True)
class Stored:
    """What the index knows of a document without reading it."""

    owner: Owner
    source_hash: str
    """Of the file, line or request it came from, metadata included."""
    content_hash: str
    """Of title and text."""


def connect(path: Path) -> sqlite3.Connection:
    """A connection that begins no transactions by itself; several threads may share it under a lock."""
    return sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring a new or older database to the present schema."""
    version = _schema_version(connection, path)
    for number, script in enumerate(_MIGRATIONS[version:], start=version + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")


def read_meta(connection: sqlite3.Connection) -> Meta:
    """The state last published."""
    row = connection.execute(
        "SELECT generation, encoder_id, chunk_tokens, chunking_version, overlap_tokens, corpus_hash,"
        " vectors_generation, vectors_checksum FROM meta"
    ).fetchone()
    return Meta(row[0], Making(*row[1:5]), *row[5:])


def read_stored(connection: sqlite3.Connection) -> dict[str, Stored]:
    """What is known of every document, by id."""
    rows = connection.execute("SELECT id, owner, source_hash, content_hash FROM documents")
    return {row[0]: Stored(Owner(row[1]), *row[2:]) for row in rows}


def open_published(path: Path) -> tuple[sqlite3.Connection, Meta]:
    """A connection inside a read transaction on the generation last published."""
    if not path.is_file():
        raise IndexMissing(f"{path}: there is no index yet; run `openbook index`")
    with reporting_damage(path):
        connection = connect(path)
        try:
            connection.execute("PRAGMA query_only = ON")
            connection.execute("BEGIN")
            return connection, _published_meta(connection, path)
        except BaseException:
            connection.close()
            raise


def _published_meta(connection: sqlite3.Connection, path: Path) -> Meta:
    if (
        _schema_version(connection, path) == len(_MIGRATIONS)
        and (meta := read_meta(connection)).generation > 0
    ):
        return meta
    raise IndexMissing(f"{path}: this version of openbook has built no index here; run `openbook index`")


def record_vectors_file(path: Path, generation: int, checksum: str) -> None:
    """Remember which FAISS snapshot in the cache is ours."""
    with closing(connect(path)) as connection:
        connection.execute(
            "UPDATE meta SET vectors_generation = ?, vectors_checksum = ?", (generation, checksum)
        )


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of the block's changes or none of them."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite itself has rolled back if the disk is full
            connection.execute("ROLLBACK")
        raise


DAMAGE_REMEDY = (
    "move it aside, then restore a backup (`openbook restore`), or run `openbook index` to build it anew; documents"
    " put through the API are in no other place"
)


@contextmanager
def reporting_damage(path: Path) -> Iterator[None]:
    """Turn SQLite's words into `IndexDamaged` or `IndexUnwritable` with a remedy."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "invalid fts5 file format" in str(error):
            raise IndexMissing(
                f"{path}: its full text was written by a newer SQLite than {sqlite3.sqlite_version}; use a Python with"
                " SQLite 3.42 or later"
            ) from error
        remedy = _OPERATIONAL_REMEDIES.get(error.sqlite_errorcode & 0xFF)
        if remedy is None:
            raise
        raise IndexUnwritable(f"{path}: cannot be used ({error}); {remedy}; nothing was changed") from error
    except sqlite3.DatabaseError as error:
        raise IndexDamaged(f"{path}: the index is damaged ({error}); {DAMAGE_REMEDY}") from error


_OPERATIONAL_REMEDIES = MappingProxyType(
    {
        sqlite3.SQLITE_FULL: "free some disk space and run it again",
        sqlite3.SQLITE_IOERR: "free some disk space, or see to the disk, and run it again",
        sqlite3.SQLITE_READONLY: "make the file and its folder writable",
        sqlite3.SQLITE_CANTOPEN: "make the file and its folder writable",
        sqlite3.SQLITE_PERM: "make the file and its folder writable",
        sqlite3.SQLITE_BUSY: "another program holds it; end that one",
    }
)


def _schema_version(connection: sqlite3.Connection, path: Path) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > len(_MIGRATIONS):
        raise IndexMissing(f"{path}: written by a newer openbook (schema {version}); upgrade openbook")
    return version
