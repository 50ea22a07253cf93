"""Scoring retrieval alone, on any questions that name what they need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from indexer.corpus import CorpusError, Question, Split
from indexer.retrieval_metrics import retrieval_scores
from indexer.retriever import Retriever

_DEPTH = 50


@dataclass(frozen=True, slots=True)
class RetrievalReport:
    """Scores of one generation; `metrics` as `retrieval_scores` names them."""

    generation: int
    split: Split
    questions: int
    metrics: dict[str, float]


def evaluate_retrieval(retriever: Retriever, questions: Sequence[Question], split: Split) -> RetrievalReport:
    """Ask the answerable questions of `split` that name documents or evidence; raises CorpusError if none does."""
    asked = [q for q in questions if q.split is split and q.answerable and (q.document_ids or q.evidence)]
    if not asked:
        raise CorpusError(
            f"no answerable question of split {split!s} names document_ids or evidence; add them, or choose another"
            " --split"
        )
    hits = retriever.search([question.text for question in asked], _DEPTH)
    rankings = [(q, [hit.chunk for hit in found]) for q, found in zip(asked, hits, strict=True)]
    return RetrievalReport(retriever.generation, split, len(asked), retrieval_scores(rankings))
