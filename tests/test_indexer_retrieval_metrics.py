"""Recall, MRR and nDCG against values worked by hand."""

from __future__ import annotations

import math

import pytest

from indexer.corpus import Evidence, Question, Split
from indexer.retrieval_metrics import covers, ndcg_at, recall_at, reciprocal_rank, retrieval_scores
from indexer.snapshot import Chunk


def make_chunk(document_id: str, start: int = 0, end: int = 10) -> Chunk:
    return Chunk(0, document_id, document_id, "", start, end, "x" * (end - start))


def make_question(
    *document_ids: str, evidence: tuple[Evidence, ...] = (), answers: tuple[str, ...] = ("x",)
) -> Question:
    return Question("q", "q?", answers, document_ids, Split.TEST, evidence)


def test_formulas() -> None:
    ranks = [2, None, 4]
    assert recall_at(1, ranks) == 0
    assert recall_at(4, ranks) == pytest.approx(2 / 3)
    assert reciprocal_rank(ranks) == 0.5
    assert reciprocal_rank([None]) == 0
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert ndcg_at(10, ranks) == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / ideal)
    assert ndcg_at(10, [1, 1]) == 1.0


def test_a_chunk_covers_evidence_from_half_of_it_on() -> None:
    chunk = make_chunk("d", 10, 20)
    assert covers(Evidence("d", 12, 14), chunk)
    assert covers(Evidence("d", 15, 25), chunk)
    assert not covers(Evidence("d", 16, 26), chunk)
    assert not covers(Evidence("d", 30, 31), chunk)
    assert not covers(Evidence("e", 12, 14), chunk)


def test_documents_and_evidence_are_scored_over_the_questions_that_have_them() -> None:
    chunks = [make_chunk("a"), make_chunk("b", 0, 10), make_chunk("b", 10, 20)]
    scores = retrieval_scores(
        [
            (make_question("b", evidence=(Evidence("b", 12, 18),)), chunks),
            (make_question("a"), chunks),
            (make_question("c", answers=()), chunks),
        ]
    )
    scores = {
        name: score for name, score in scores.items() if not name.endswith(("@5", "@10")) or "ndcg" in name
    }
    assert scores == pytest.approx(
        {
            "recall@1": 0.5,
            "recall@3": 1.0,
            "mrr": 0.75,
            "ndcg@10": (1 + 1 / math.log2(3)) / 2,
            "evidence_recall@1": 0.0,
            "evidence_recall@3": 1.0,
            "evidence_mrr": 1 / 3,
            "evidence_ndcg@10": 0.5,
        }
    )


def test_without_gold_there_are_no_scores() -> None:
    assert retrieval_scores([(make_question(), [])]) == {}
