"""How well retrieval finds what questions need, scored by ir-measures (the trec_eval definitions)."""

from __future__ import annotations

from collections.abc import Sequence

import ir_measures
from ir_measures import RR, Qrel, R, ScoredDoc, nDCG

from indexer.corpus import Question
from indexer.retrieval_metrics import covers, first_ranks
from indexer.snapshot import Chunk

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
