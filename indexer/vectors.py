"""The vectors of one generation: a FAISS file in the cache, and what changed since it was written."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.config import Workspace
from indexer.database import IndexMissing, open_published, record_vectors_file
from indexer.encoding import Ids, Vectors
from indexer.faiss_part import Kind, Part
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

    def __init__(self, file: Part, added: Part | None = None, alive: NDArray[np.bool_] | None = None) -> None:
        self.file = file
        self._added = added
        self._alive = alive  # of each row of `file`; None if all are

    @classmethod
    def build(cls, ids: Ids, vectors: Vectors, kind: Kind = "auto") -> VectorIndex:
        """Index `vectors`, [n, dim] L2-normalised; `ids`, [n] ascending, names the chunk of each."""
        return cls(Part.build(ids, vectors, kind))

    def search(self, queries: Vectors, k: int, allowed: Ids | None = None) -> list[dict[int, float]]:
        """For each query the chunks of its `k` nearest vectors, best first, each with its best cosine.

        With `allowed`, only chunks with these ids; the search is then exact, since those may be few and anywhere.
        """
        found = [
            part.search(queries, k, _usable(part, alive, allowed), thorough=allowed is not None)
            for part, alive in ((self.file, self._alive), (self._added, None))
            if part is not None
        ]
        scores, ids = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
        if len(found) > 1:
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            scores, ids = np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)
        return [_best_by_chunk(*row) for row in zip(ids.tolist(), scores.tolist(), strict=True)]

    def chunk_ids(self) -> Ids:
        """The chunk of every vector, ascending."""
        ids = self.file.chunk_ids if self._alive is None else self.file.chunk_ids[self._alive]
        return ids if self._added is None else np.sort(np.concatenate([ids, self._added.chunk_ids]))

    def lag(self) -> int:
        """How many vectors the file has too many or too few."""
        dead = 0 if self._alive is None else int(np.count_nonzero(~self._alive))
        return dead + (0 if self._added is None else len(self._added.chunk_ids))

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
    kind: Kind = "auto",
    known: VectorFile | None = None,
    max_lag: int | None = None,
) -> OpenedVectors:
    raise NotImplementedError


def _usable(part: Part, alive: NDArray[np.bool_] | None, allowed: Ids | None) -> NDArray[np.bool_] | None:
    if allowed is None:
        return alive
    fits = np.isin(part.chunk_ids, allowed)
    return fits if alive is None else fits & alive


def _best_by_chunk(ids: list[int], scores: list[float]) -> dict[int, float]:
    best: dict[int, float] = {}
    for chunk_id, score in zip(ids, scores, strict=True):  # best first
        if chunk_id >= 0:
            best.setdefault(chunk_id, score)
    return best
