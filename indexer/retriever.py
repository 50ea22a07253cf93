"""Searching the index: dense and keyword results fused, one consistent generation at a time."""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

from indexer.config import Workspace
from indexer.corpus import Document
from indexer.database import IndexMissing, open_published
from indexer.encoding import CachedQueries, Encoder
from indexer.metadata import Where
from indexer.ranking import FUSED, RERANKED, Ranking, passage
from indexer.snapshot import Chunk, Snapshot
from indexer.vectors import VectorIndex, open_vectors

_DENSE_WEIGHT = 0.75
"""Share of the dense score in the fused one; the rest is BM25's. See docs/decisions/0002-score-fusion.md."""

_TINY = 1e-9

_CANDIDATES = 100
"""How many chunks the keyword search contributes at least."""

_VECTORS_PER_CANDIDATE = 4
"""How many more vectors than chunks the dense search looks up, since a chunk has one for every sentence."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A retrieved chunk.

    `score` is the fused one; `dense` (cosine of the chunk or of its best sentence) and `bm25` are None where that
    search did not have the chunk among its candidates. `rerank` is the cross-encoder's, if there is one and it has
    read the chunk: those hits come first, by it, then all others by `score`.
    """

    chunk: Chunk
    score: float
    dense: float | None
    bm25: float | None
    rerank: float | None = None


class Retriever:
    """Searches one generation of the index; several threads may share it."""

    def __init__(
        self, snapshot: Snapshot, vectors: VectorIndex, queries: CachedQueries, ranking: Ranking
    ) -> None:
        self.generation = snapshot.meta.generation
        self.corpus_hash = snapshot.meta.corpus_hash
        self.snapshot = snapshot
        self.vectors = vectors
        self.ranking = ranking
        self._queries = queries
        # Whoever lets go of the retriever last ends its read transaction.
        weakref.finalize(self, snapshot.close)

    def search(self, queries: Sequence[str], k: int, where: Where | None = None) -> list[list[Hit]]:
        """The best `k` chunks for each query, best first; with `where`, of the documents that fit it only.

        Fewer come back only if there are fewer, or if one document has too many of the best for the ranking's
        limit. Raises CorpusError if `where` holds what metadata cannot be.
        """
        if k < 1:
            raise ValueError(f"k is {k}; ask for at least one chunk")
        if not queries:
            return []
        candidates = max(_CANDIDATES, 4 * k)
        among = self.snapshot.chunks_where(where) if where else None
        nearest = self.vectors.search(
            self._queries.encode(queries), _VECTORS_PER_CANDIDATE * candidates, among
        )
        results = []
        for query, dense in zip(queries, nearest, strict=True):
            hits = self._fuse(dense, dict(self.snapshot.keyword_search(query, candidates, where)))
            results.append(list(islice(self._rank(query, hits), k)))
        return results

    def _rank(self, query: str, hits: Iterator[Hit]) -> Iterator[Hit]:
        """The hits as the ranking has them."""
        if self.ranking.reranker is not None:
            best = list(islice(hits, RERANKED))
            scores = self.ranking.reranker.score(query, [passage(hit.chunk) for hit in best])
            read = [replace(hit, rerank=score) for hit, score in zip(best, scores, strict=True)]
            # The sort is stable: of equals the one with the better fused score comes first.
            hits = chain(sorted(read, key=lambda hit: -(hit.rerank or 0.0)), hits)
        return limited(hits, self.ranking.max_per_document) if self.ranking.max_per_document else hits

    def _fuse(self, dense: dict[int, float], bm25: dict[int, float]) -> Iterator[Hit]:
        """All by a weighted sum of both scores, best first; the arguments map chunk ids to scores, best first.

        Each score is divided by the best of its query (Bruch, Gai and Ingber, 2023, arXiv:2210.11934). A chunk
        that the dense search did not return scores no better than the last one that it did.
        """
        best_dense, best_bm25 = max(dense.values(), default=1.0), max(bm25.values(), default=1.0)
        floor = min(dense.values(), default=0.0)
        fused = {
            chunk_id: _DENSE_WEIGHT * dense.get(chunk_id, floor) / max(best_dense, _TINY)
            + (1 - _DENSE_WEIGHT) * bm25.get(chunk_id, 0.0) / max(best_bm25, _TINY)
            for chunk_id in dense | bm25
        }
        for i in sorted(fused, key=lambda chunk_id: (-fused[chunk_id], chunk_id)):
            yield Hit(self.snapshot.chunks([i])[i], fused[i], dense.get(i), bm25.get(i))


def limited(hits: Iterable[Hit], most: int) -> Iterator[Hit]:
    """The hits in order, but no more than `most` of one document."""
    given: Counter[str] = Counter()
    for hit in hits:
        given[hit.chunk.document_id] += 1
        if given[hit.chunk.document_id] <= most:
            yield hit


class Index:
    """The way to the present generation, for as long as a process runs."""

    def __init__(self, workspace: Workspace, encoder: Encoder, ranking: Ranking) -> None:
        self._workspace = workspace
        self._encoder = encoder
        self._queries = CachedQueries(encoder)
        self._ranking = ranking
        self._lock = threading.Lock()
        self._current: Retriever | None = None

    @classmethod
    def open(cls, workspace: Workspace, encoder: Encoder, ranking: Ranking = FUSED) -> Index:
        """Open a built index; raises `IndexMissing` if there is none for this encoder."""
        index = cls(workspace, encoder, ranking)
        index.retriever()
        return index

    def retriever(self) -> Retriever:
        """A retriever on the generation last published; those handed out before keep theirs."""
        with self._lock:  # also while opening: what was deleted must not be found by anyone who asks later
            connection, meta = open_published(self._workspace.database)
            connection.close()
            current = self._current
            if current is None or (current.generation, current.corpus_hash) != (
                meta.generation,
                meta.corpus_hash,
            ):
                self._current = current = self._open_retriever()
            return current

    def documents(self) -> dict[str, Document]:
        """Every document as indexed, by id."""
        # Held, since its snapshot is closed with it, as soon as another takes its place.
        retriever = self.retriever()
        return retriever.snapshot.documents()

    def document(self, document_id: str) -> Document | None:
        """A document as indexed, or None."""
        retriever = self.retriever()
        return retriever.snapshot.document(document_id)

    def _open_retriever(self) -> Retriever:
        snapshot = Snapshot(self._workspace.database)
        try:
            self._require_same_encoder(snapshot.meta.making.encoder_id)
            known = self._current.vectors if self._current else None
            vectors = open_vectors(self._workspace, snapshot, known=known)
            return Retriever(snapshot, vectors, self._queries, self._ranking)
        except BaseException:
            snapshot.close()
            raise

    def _require_same_encoder(self, built_with: str) -> None:
        if built_with != self._encoder.id:
            raise IndexMissing(
                f"the index was built with encoder {built_with}, but {self._encoder.id} is configured;"
                " run `openbook index`"
            )
