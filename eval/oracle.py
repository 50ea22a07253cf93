"""The oracle: retrieving routes shown exactly the passages that hold the answer, as a ceiling for retrieval."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import cast

from eval.metrics.containment import containment
from indexer.corpus import Document, Question
from indexer.metadata import Where
from indexer.retrieval_metrics import covers
from indexer.retriever import Hit, Index
from indexer.snapshot import Chunk
from service.answering import Answerer


def gold_chunks(questions: Sequence[Question], chunks: Sequence[Chunk]) -> dict[str, list[Chunk]]:
    """By question text, the chunks that hold its evidence; questions without any are left out.

    For a question without evidence that is the first chunk of a gold document that contains an accepted answer.
    """
    by_document: dict[str, list[Chunk]] = {}
    for chunk in chunks:
        by_document.setdefault(chunk.document_id, []).append(chunk)
    found = {q.text: _gold(q, by_document) for q in questions if q.answerable}
    return {text: gold for text, gold in found.items() if gold}


def with_gold_passages(answerer: Answerer, generation: int, gold: Mapping[str, Sequence[Chunk]]) -> Answerer:
    """The same answerer, models and examples included, but that a search finds `gold` for every question in it."""
    oracle = copy.copy(answerer)
    oracle._index = cast("Index", _GoldIndex(generation, gold))
    return oracle


class _GoldIndex:
    """As much of an index as answering needs, at the generation of the real one."""

    def __init__(self, generation: int, gold: Mapping[str, Sequence[Chunk]]) -> None:
        self.generation = generation
        self._gold = gold

    def retriever(self) -> _GoldIndex:
        return self

    def document(self, document_id: str) -> Document | None:  # noqa: ARG002 - nobody cites by the oracle
        return None

    def search(self, queries: Sequence[str], k: int, where: Where) -> list[list[Hit]]:  # noqa: ARG002 - gold stays gold
        return [[Hit(chunk, 1.0, None, None) for chunk in self._gold[query]][:k] for query in queries]


def _gold(question: Question, by_document: Mapping[str, Sequence[Chunk]]) -> list[Chunk]:
    if question.evidence:
        chunks = [
            chunk
            for span in question.evidence
            for chunk in by_document.get(span.document_id, ())
            if covers(span, chunk)
        ]
        return list(dict.fromkeys(chunks))
    holding = (
        chunk
        for document_id in question.document_ids
        for chunk in by_document.get(document_id, ())
        if containment(chunk.text, question.answers)
    )
    first = next(holding, None)
    return [] if first is None else [first]
