"""The vectors of one generation: a FAISS file in the cache, and what changed since it was written."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.config import Workspace
from indexer.database import IndexDamaged, IndexMissing, Meta, open_published, record_vectors_file
from indexer.encoding import Ids, Vectors
from indexer.faiss_part import Kind, Part, choose_kind
from indexer.files import write_atomically
from indexer.snapshot import Snapshot

logger = logging.getLogger("openbook.indexer")

REWRITE_ROWS = 4096
"""A file of up to so many vectors is written anew after every change; that takes less than 20 ms."""

REWRITE_SHARE = 0.1
"""A larger one only when so much of it has changed; until then changes are kept in memory."""

_MAPPED_BYTES = 64 << 20
"""From this size on the file is mapped: processes share it, and the system may drop what is not used."""


class VectorIndex:
    """Inner-product search over the vectors of chunks; never changed once made, so threads may share it.

    `file` may lag behind: chunks it lacks are in `added`, and chunks that are gone are never found.
    """

    def __init__(
        self, file: Part, checksum: str, added: Part | None = None, alive: NDArray[np.bool_] | None = None
    ) -> None:
        self.file = file
        self.checksum = checksum  # of the file that holds `file`
        self._added = added
        self._alive = alive  # of each row of `file`; None if all are

    @classmethod
    def build(cls, ids: Ids, vectors: Vectors, kind: Kind = "auto") -> VectorIndex:
        """Index `vectors`, [n, dim] L2-normalised; `ids`, [n] ascending, names the chunk of each."""
        return cls(Part.build(ids, vectors, kind), checksum="")

    def search(self, queries: Vectors, k: int, among: Ids | None = None) -> list[dict[int, float]]:
        """For each query the chunks of its `k` nearest vectors, best first, each with its best cosine.

        With `among`, only chunks with these ids; the search is then exact, since those may be few and anywhere.
        """
        found = [
            part.search(queries, k, _usable(part, alive, among), thorough=among is not None)
            for part, alive in ((self.file, self._alive), (self._added, None))
            if part is not None and len(part.chunk_ids)
        ]
        if not found:
            return [{} for _ in queries]
        scores, ids = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
        if len(found) > 1:
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            scores, ids = np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)
        return [_best_by_chunk(*row) for row in zip(ids.tolist(), scores.tolist(), strict=True)]

    def chunk_ids(self) -> Ids:
        """The chunk of every vector, ascending."""
        ids = self.file.chunk_ids if self._alive is None else self.file.chunk_ids[self._alive]
        return ids if self._added is None else np.sort(np.concatenate([ids, self._added.chunk_ids]))

    def holds(self, ids: Ids, vectors: Vectors) -> bool:
        """Whether these are the vectors of exactly these chunks (in the order of `build`)."""
        if not np.array_equal(self.chunk_ids(), ids):
            return False
        in_file = np.isin(ids, self.file.chunk_ids)
        kept = self.file.codes() if self._alive is None else self.file.codes()[self._alive]
        parts = [np.array_equal(kept, self.file.encode(vectors[in_file]))]
        if self._added is not None:
            parts.append(np.array_equal(self._added.codes(), self._added.encode(vectors[~in_file])))
        return all(parts)


def open_vectors(
    workspace: Workspace,
    snapshot: Snapshot,
    kind: Kind | None = None,
    known: VectorIndex | None = None,
    tidy: bool = False,
) -> VectorIndex:
    """The vectors of the snapshot's generation: the file in the cache brought up to date, or all from SQLite.

    Without `kind` the file stays of the kind it is. `known` is an index opened earlier, whose file need not be read
    again if it is still the right one. `tidy` leaves no lag, so that the file holds nothing of a deleted document.
    """
    path = _path(workspace)
    published = _published(workspace, snapshot)
    ours = {snapshot.meta.vectors_checksum, published.vectors_checksum} - {None}
    opened = known if known is not None and known.checksum in ours else _read(path, ours)
    if opened is not None and kind is None:
        kind = opened.file.kind
    if opened is not None and choose_kind(kind or "auto", len(opened.file.chunk_ids)) == opened.file.kind:
        ids = snapshot.chunk_ids()
        in_file = np.unique(opened.file.chunk_ids)
        missing, gone = np.setdiff1d(ids, in_file), np.setdiff1d(in_file, ids)
        changed = len(missing) + len(gone)
        small = len(opened.file.chunk_ids) <= REWRITE_ROWS
        if changed == 0 or not (tidy or small or changed > REWRITE_SHARE * len(in_file)):
            added = Part.build(*snapshot.chunk_vectors(missing), "flat") if len(missing) else None
            alive = ~np.isin(opened.file.chunk_ids, gone) if len(gone) else None
            return VectorIndex(opened.file, opened.checksum, added, alive)

    part = Part.build(*snapshot.chunk_vectors(), kind or "auto")
    data = part.to_bytes()
    checksum = hashlib.sha256(data.data).hexdigest()
    if (
        published.generation == snapshot.meta.generation
    ):  # otherwise a file for the newer one is there or to come
        try:
            write_atomically(path, data.tobytes())
            record_vectors_file(workspace.database, snapshot.meta.generation, checksum)
        except (OSError, sqlite3.OperationalError) as error:
            logger.warning("%s cannot be kept (%s); it will be rebuilt at the next start", path, error)
    return VectorIndex(part, checksum)


def read_vectors(workspace: Workspace, snapshot: Snapshot) -> VectorIndex | None:
    """The file as it is, if it was written for the snapshot's very generation."""
    meta = snapshot.meta
    return (
        _read(_path(workspace), {meta.vectors_checksum})
        if meta.vectors_generation == meta.generation
        else None
    )


def _path(workspace: Workspace) -> Path:
    return workspace.cache / "vectors.faiss"


def _published(workspace: Workspace, snapshot: Snapshot) -> Meta:
    """What the database says now; the snapshot may be older, and the file belong to a later generation."""
    try:
        connection, meta = open_published(workspace.database)
    except (IndexMissing, IndexDamaged):
        return snapshot.meta
    connection.close()
    return meta


def _read(path: Path, checksums: Collection[str | None]) -> VectorIndex | None:
    """The file, if it is there and has one of these checksums, which are from our own database."""
    if not checksums or not path.is_file() or (size := path.stat().st_size) == 0:
        return None
    read = np.fromfile if size < _MAPPED_BYTES else np.memmap
    data = read(path, dtype=np.uint8)
    checksum = hashlib.sha256(data.data).hexdigest()
    if checksum not in checksums:
        aside = path.with_suffix(".damaged")
        logger.warning("%s is damaged; it is now %s, and another is built", path, aside.name)
        with suppress(OSError):
            path.replace(aside)
        return None
    return VectorIndex(Part.from_bytes(data), checksum)


def _usable(part: Part, alive: NDArray[np.bool_] | None, among: Ids | None) -> NDArray[np.bool_] | None:
    if among is None:
        return alive
    fits = np.isin(part.chunk_ids, among)
    return fits if alive is None else fits & alive


def _best_by_chunk(ids: list[int], scores: list[float]) -> dict[int, float]:
    best: dict[int, float] = {}
    for chunk_id, score in zip(ids, scores, strict=True):  # best first
        if chunk_id >= 0:
            best.setdefault(chunk_id, score)
    return best
