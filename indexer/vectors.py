"""The FAISS index over one generation: a file in the cache, rebuilt whenever it is not the right one."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from typing import Any

import faiss
import numpy as np

from indexer.config import Workspace
from indexer.database import record_vectors_file
from indexer.encoding import Ids, Vectors
from indexer.files import write_atomically
from indexer.snapshot import Snapshot

logger = logging.getLogger("openbook.indexer")


class VectorIndex:
    """Exact inner-product search over the vectors of chunks; never changed once made, so threads may share it."""

    def __init__(self, index: Any) -> None:
        self._index = index  # IndexIDMap over Flat: over IVF its removals corrupt ids

    @classmethod
    def build(cls, ids: Ids, vectors: Vectors) -> VectorIndex:
        """Index `vectors`, [n, dim] L2-normalised; `ids`, [n], names the chunk of each, several times if need be."""
        index = faiss.IndexIDMap(faiss.IndexFlatIP(vectors.shape[1]))
        index.add_with_ids(vectors, ids)
        return cls(index)

    @classmethod
    def from_bytes(cls, data: bytes) -> VectorIndex:
        """Read what `to_bytes` wrote. FAISS crashes on anything else, so check before."""
        return cls(faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8)))

    def to_bytes(self) -> bytes:
        """The index in FAISS's own format."""
        return bytes(faiss.serialize_index(self._index))

    def search(self, queries: Vectors, k: int, among: Ids | None = None) -> list[dict[int, float]]:
        """For each query the chunks of its `k` nearest vectors, best first, each with its best cosine.

        With `among`, only the vectors of these chunks are looked at.
        """
        if self._index.ntotal == 0 or (among is not None and len(among) == 0):
            return [{} for _ in queries]
        wanted: Any = None
        if among is not None:
            wanted = faiss.SearchParameters(sel=faiss.IDSelectorBatch(among))  # type: ignore[call-arg]
        scores, ids = self._index.search(queries, min(k, self._index.ntotal), params=wanted)
        return [_best_by_chunk(*found) for found in zip(ids.tolist(), scores.tolist(), strict=True)]

    def contents(self) -> tuple[Ids, Vectors]:
        """The chunk of every vector and all vectors, as they were given to `build`."""
        return faiss.vector_to_array(self._index.id_map), self._index.index.reconstruct_n(
            0, self._index.ntotal
        )


def _best_by_chunk(ids: list[int], scores: list[float]) -> dict[int, float]:
    best: dict[int, float] = {}
    for chunk_id, score in zip(ids, scores, strict=True):  # best first; -1 fills up
        if chunk_id >= 0:
            best.setdefault(chunk_id, score)
    return best


def open_vectors(workspace: Workspace, snapshot: Snapshot) -> VectorIndex:
    """The vectors of the snapshot's generation: from the cache if its file is ours, else from SQLite."""
    path = workspace.cache / "vectors.faiss"
    meta = snapshot.meta
    if meta.vectors_generation == meta.generation and path.is_file():
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() == meta.vectors_checksum:
            return VectorIndex.from_bytes(data)
        logger.warning("%s is damaged; rebuilding it", path)

    index = VectorIndex.build(*snapshot.chunk_vectors())
    data = index.to_bytes()
    try:
        write_atomically(path, data)
        record_vectors_file(workspace.database, meta.generation, hashlib.sha256(data).hexdigest())
    except (OSError, sqlite3.OperationalError) as error:
        logger.warning("%s cannot be kept (%s); it will be rebuilt at the next start", path, error)
    return index
