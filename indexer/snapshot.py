"""Reading the index: one generation, whatever is published meanwhile."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from indexer.corpus import Document
from indexer.database import (
    DAMAGE_REMEDY,
    IndexDamaged,
    Stored,
    open_published,
    read_stored,
    reporting_damage,
)
from indexer.encoding import Ids, Vectors
from indexer.metadata import Where, chunks_where, decode

_CHUNKS = """
    SELECT c.id, c.document_id, d.title, c.heading, c.start_offset, c.end_offset,
           substr(d.text, c.start_offset + 1, c.end_offset - c.start_offset) AS text
    FROM chunks c JOIN documents d ON d.id = c.document_id
"""

_MOST_TERMS = 256
"""Words of a query that are searched for: the first ones, as a pasted document would keep the database busy."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The span `text = document.text[start:end]` that is retrieved; `heading` is the path above it."""

    id: int
    document_id: str
    title: str
    heading: str
    start: int
    end: int
    text: str


class Snapshot:
    """A read transaction that several threads may share."""

    def __init__(self, path: Path) -> None:
        """Begin to read what was last published; raises `IndexMissing` if nothing was."""
        self._path = path
        self._lock = threading.Lock()
        self._connection, self.meta = open_published(path)

    def close(self) -> None:
        """End the transaction."""
        self._connection.close()

    def documents(self) -> dict[str, Document]:
        """Every document, by id."""
        metadata: dict[str, list[tuple[str, str]]] = {}
        for document_id, key, value in self._query("SELECT document_id, key, value FROM metadata"):
            metadata.setdefault(document_id, []).append((key, value))
        rows = self._query("SELECT id, title, text FROM documents ORDER BY id")
        return {i: Document(i, title, text, decode(metadata.get(i, ()))) for i, title, text in rows}

    def content_hashes(self) -> dict[str, str]:
        """The hash of title and text of every document, by id."""
        return dict(self._query("SELECT id, content_hash FROM documents ORDER BY id"))

    def document(self, document_id: str) -> Document | None:
        """One document, or None if it is not indexed."""
        rows = self._query("SELECT title, text FROM documents WHERE id = ?", document_id)
        pairs = self._query("SELECT key, value FROM metadata WHERE document_id = ?", document_id)
        return Document(document_id, rows[0][0], rows[0][1], decode(pairs)) if rows else None

    def stored(self) -> dict[str, Stored]:
        """Owner and hashes of every document, by id, without reading it."""
        with self._lock, reporting_damage(self._path):
            return read_stored(self._connection)

    def sizes(self) -> tuple[int, int]:
        """How many documents and chunks there are."""
        row = self._query("SELECT (SELECT count(*) FROM documents), (SELECT count(*) FROM chunks)")[0]
        return int(row[0]), int(row[1])

    def chunks(self, ids: Iterable[int]) -> dict[int, Chunk]:
        """The chunks with these ids, by id."""
        return {
            row[0]: Chunk(*row)
            for chunk_id in ids
            for row in self._query(_CHUNKS + "WHERE c.id = ?", chunk_id)
        }

    def all_chunks(self) -> list[Chunk]:
        """Every chunk, in the order of documents and offsets."""
        return [Chunk(*row) for row in self._query(_CHUNKS + "ORDER BY c.document_id, c.start_offset")]

    def chunk_ids(self) -> Ids:
        """Every chunk, [n] ascending."""
        return np.asarray(
            [row[0] for row in self._query("SELECT id FROM chunks ORDER BY id")], dtype=np.int64
        )

    def chunk_vectors(self, ids: Ids | None = None) -> tuple[Ids, Vectors]:
        """The chunk of each vector, [n] ascending, and all vectors, [n, dim]; a chunk may have several.

        With `ids`, of these chunks only.
        """
        sql = "SELECT c.id, v.count, v.vector FROM chunks c JOIN vectors v ON v.key = c.vector_key"
        if ids is None:
            rows = self._query(sql + " ORDER BY c.id")
        else:
            some = " WHERE c.id IN (SELECT value FROM json_each(?)) ORDER BY c.id"
            rows = self._query(sql + some, json.dumps(ids.tolist()))
        if not rows:
            if self.sizes()[1]:
                raise IndexDamaged(f"{self._path}: no chunk has a vector; {DAMAGE_REMEDY}")
            return np.empty(0, dtype=np.int64), np.empty((0, 1), dtype=np.float32)
        chunks = np.repeat(np.asarray([row[0] for row in rows], dtype=np.int64), [row[1] for row in rows])
        matrix = np.frombuffer(b"".join(row[2] for row in rows), dtype="<f4").astype(np.float32, copy=False)
        return chunks, matrix.reshape(len(chunks), -1)

    def chunks_where(self, where: Where) -> Ids:
        """Ids of the chunks of all documents that fit the filter, [n]."""
        sql, parameters = chunks_where(where)
        return np.asarray([row[0] for row in self._query(sql, *parameters)], dtype=np.int64)

    def keyword_search(self, query: str, k: int, where: Where | None = None) -> list[tuple[int, float]]:
        """Ids and BM25 scores (higher is better) of the `k` chunks that best match any word of `query`.

        Words are quoted, because the query language of FTS5 chokes on `?` and `-` and obeys `AND`.
        """
        terms = list(dict.fromkeys(re.findall(r"\w+", query.casefold())))[:_MOST_TERMS]
        if not terms:
            return []
        fits, parameters = chunks_where(where or {})
        sql = "SELECT rowid, -bm25(words) FROM words WHERE words MATCH ?"
        if where:
            sql += f" AND +rowid IN ({fits})"  # the + keeps FTS5 from one search for each rowid
        match = " OR ".join(f'"{term}"' for term in terms)
        return self._query(sql + " ORDER BY rank, rowid LIMIT ?", match, *(parameters if where else ()), k)

    def contradictions(self) -> list[str]:
        """Where the parts of the database disagree, in words."""
        problems = [row[0] for row in self._query("PRAGMA integrity_check") if row[0] != "ok"]
        for problem, rows in _CONTRADICTIONS.items():
            if count := self._query(f"SELECT count(*) FROM {rows}")[0][0]:  # noqa: S608 - our own constants
                problems.append(f"{count} {problem}")
        return problems

    def _query(self, sql: str, *parameters: str | int) -> list[Any]:
        with self._lock, reporting_damage(self._path):
            return self._connection.execute(sql, parameters).fetchall()


_CONTRADICTIONS = MappingProxyType(
    {
        "documents without chunks": "documents WHERE id NOT IN (SELECT document_id FROM chunks)",
        "chunks of deleted documents": "chunks WHERE document_id NOT IN (SELECT id FROM documents)",
        "chunks without a vector": "chunks WHERE vector_key NOT IN (SELECT key FROM vectors)",
        "chunks missing from the full text": "chunks WHERE id NOT IN (SELECT rowid FROM words)",
        "full-text rows of deleted chunks": "words WHERE rowid NOT IN (SELECT id FROM chunks)",
        "full-text rows that differ from their chunk": f"""
            ({_CHUNKS}) AS c JOIN words w ON w.rowid = c.id
            WHERE w.text <> c.text OR w.title <> c.title OR w.heading <> c.heading
        """,
        "vectors that nothing needs": """
            vectors WHERE key NOT IN (SELECT vector_key FROM chunks) AND key NOT IN (SELECT key FROM loose_vectors)
        """,
        "values of metadata of deleted documents": "metadata WHERE document_id NOT IN (SELECT id FROM documents)",
    }
)
"""Problems and where to find their rows."""
