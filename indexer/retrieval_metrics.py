"""How well a ranking of chunks finds what a question needs, scored by ir-measures (the trec_eval definitions)."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import ir_measures
from ir_measures import RR, Qrel, R, ScoredDoc, nDCG

from indexer.corpus import Evidence, Question
from indexer.snapshot import Chunk

Gold = TypeVar("Gold", bound=Hashable)

_MEASURES = {
    "recall@1": R @ 1,
    "recall@3": R @ 3,
    "recall@5": R @ 5,
    "recall@10": R @ 10,
    "mrr": RR,
    "ndcg@10": nDCG @ 10,
}


def retrieval_scores(rankings: Sequence[tuple[Question, Sequence[Chunk]]]) -> dict[str, float]:
    """Means over the answerable questions that name gold documents, each with its best chunks in order.

    The same with `evidence_` before the name counts evidence spans, over the questions that have any. Empty without
    any gold.
    """
    answerable = [(question, chunks) for question, chunks in rankings if question.answerable]
    by_document = [
        (first_ranks(q.document_ids, chunks, lambda gold, chunk: chunk.document_id == gold), len(chunks))
        for q, chunks in answerable
        if q.document_ids
    ]
    by_evidence = [
        (first_ranks(q.evidence, chunks, covers), len(chunks)) for q, chunks in answerable if q.evidence
    ]
    return {
        **_means(by_document),
        **{f"evidence_{name}": value for name, value in _means(by_evidence).items()},
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


def _means(questions: Sequence[tuple[Sequence[int | None], int]]) -> dict[str, float]:
    """`questions` holds, for each, the rank at which every gold item is first found, and how many chunks there are."""
    if not questions:
        return {}
    qrels, run = [], []
    for number, (ranks, depth) in enumerate(questions):
        qrels += [Qrel(str(number), f"gold {item}", 1) for item in range(len(ranks))]
        run += [
            ScoredDoc(str(number), name, -place) for place, name in enumerate(_ranking(ranks, depth), start=1)
        ]
    found = ir_measures.calc_aggregate(list(_MEASURES.values()), qrels, run)
    return {name: float(found[measure]) for name, measure in _MEASURES.items()}


def _ranking(ranks: Sequence[int | None], depth: int) -> list[str]:
    """Gold items where they are first found, and other names where a chunk finds nothing new.

    Several items found by one chunk stand one after another, so that they count one rank later each.
    """
    at: dict[int, list[str]] = {}
    for item, rank in enumerate(ranks):
        if rank is not None:
            at.setdefault(rank, []).append(f"gold {item}")
    return [name for rank in range(1, depth + 1) for name in at.get(rank, [f"other {rank}"])]
