"""How well a ranking of chunks finds what a question needs: recall, MRR and nDCG."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TypeVar

from indexer.corpus import Evidence, Question
from indexer.snapshot import Chunk

Gold = TypeVar("Gold", bound=Hashable)

_CUTOFFS = (1, 3, 5)
_NDCG_CUTOFF = 10


def retrieval_scores(rankings: Sequence[tuple[Question, Sequence[Chunk]]], k: int) -> dict[str, float]:
    """Means over the answerable questions that name gold documents, each with its `k` best chunks.

    `recall@1`, `recall@3`, `recall@5`, `recall@k`, `mrr` and `ndcg@10` count gold documents; the same with
    `evidence_` before them count evidence spans, over the questions that have any. Empty without any gold.
    """
    answerable = [(question, chunks[:k]) for question, chunks in rankings if question.answerable]
    by_document = [
        first_ranks(question.document_ids, chunks, lambda gold, chunk: chunk.document_id == gold)
        for question, chunks in answerable
        if question.document_ids
    ]
    by_evidence = [
        first_ranks(question.evidence, chunks, covers) for question, chunks in answerable if question.evidence
    ]
    return {
        **_means(by_document, k),
        **{f"evidence_{name}": value for name, value in _means(by_evidence, k).items()},
    }


def covers(evidence: Evidence, chunk: Chunk) -> bool:
    """Whether a chunk holds at least half of the evidence span."""
    overlap = min(chunk.end, evidence.end) - max(chunk.start, evidence.start)
    return chunk.document_id == evidence.document_id and 2 * overlap >= evidence.end - evidence.start


def first_ranks(
    gold: Sequence[Gold], chunks: Sequence[Chunk], found: Callable[[Gold, Chunk], bool]
) -> list[int | None]:
    """For each distinct gold item the rank (from 1) of the first chunk that finds it, or None."""
    return [
        next((rank for rank, chunk in enumerate(chunks, start=1) if found(item, chunk)), None)
        for item in dict.fromkeys(gold)
    ]


def recall_at(cutoff: int, ranks: Sequence[int | None]) -> float:
    """Share of gold items found within the first `cutoff` chunks."""
    return sum(rank is not None and rank <= cutoff for rank in ranks) / len(ranks)


def reciprocal_rank(ranks: Sequence[int | None]) -> float:
    """One over the rank of the first gold item found, 0 if none is."""
    return max((1 / rank for rank in ranks if rank is not None), default=0.0)


def ndcg_at(cutoff: int, ranks: Sequence[int | None]) -> float:
    """Discounted gain of each gold item where it is first found, over that of all of them in the first ranks.

    Only the first chunk of a document gains anything, as in the usual definition over documents. One chunk
    may hold several evidence spans and so do better than the ideal order; that counts as 1.
    """
    gain = sum(1 / math.log2(1 + rank) for rank in ranks if rank is not None and rank <= cutoff)
    ideal = sum(1 / math.log2(1 + rank) for rank in range(1, min(len(ranks), cutoff) + 1))
    return min(gain / ideal, 1.0)


def _means(questions: Sequence[Sequence[int | None]], k: int) -> dict[str, float]:
    if not questions:
        return {}

    def mean(score: Callable[[Sequence[int | None]], float]) -> float:
        return sum(map(score, questions)) / len(questions)

    cutoffs = sorted({cutoff for cutoff in (*_CUTOFFS, k) if cutoff <= k})
    return {
        **{f"recall@{cutoff}": mean(partial(recall_at, cutoff)) for cutoff in cutoffs},
        "mrr": mean(reciprocal_rank),
        "ndcg@10": mean(partial(ndcg_at, _NDCG_CUTOFF)),
    }
