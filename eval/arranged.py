"""Routes shown other passages than they would find, or the same ones in another order."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from eval.metrics.containment import containment
from eval.perturbations import drawn_order
from indexer.corpus import Document, Question
from indexer.metadata import Where
from indexer.retriever import Hit, Index, Retriever
from indexer.snapshot import Chunk
from service.answering import Answerer

DISTRACTORS = 3
"""Passages added that do not hold the answer."""
SHOWN = 5
"""Passages among which the right ones are placed."""
SEARCHED = 40
"""How deep distractors are looked for."""

Arrange = Callable[[str, Sequence[Hit], int], list[Hit]]
"""From a question, what was found for it (best first, more than asked for) and how many to show, what is shown."""


def searching(answerer: Answerer, index: object) -> Answerer:
    """The same answerer, models and examples included, on another index."""
    other = copy.copy(answerer)
    other._index = cast("Index", index)
    return other


class ArrangedIndex:
    """As much of an index as answering needs: the real one, whose hits `arrange` chooses from and orders."""

    def __init__(self, retriever: Retriever, arrange: Arrange) -> None:
        self.generation = retriever.generation
        self._retriever = retriever
        self._arrange = arrange

    def retriever(self) -> ArrangedIndex:
        """Itself."""
        return self

    def document(self, document_id: str) -> Document | None:
        """A document as indexed, or None."""
        return self._retriever.snapshot.document(document_id)

    def search(self, queries: Sequence[str], k: int, where: Where) -> list[list[Hit]]:
        """What is to be shown for each query."""
        found = self._retriever.search(queries, max(k, SEARCHED), where)
        return [self._arrange(query, hits, k) for query, hits in zip(queries, found, strict=True)]


def shuffled(question: str, hits: Sequence[Hit], k: int) -> list[Hit]:
    """The same passages in an order drawn for the question."""
    shown = hits[:k]
    return [shown[place] for place in drawn_order(question, len(shown))]


def with_distractors(questions: Mapping[str, Question]) -> Arrange:
    """For routes that ask for `DISTRACTORS` more than usual: these are the best that do not hold the answer.

    All are shown in an order drawn for the question, so that the added ones are not just the last.
    """

    def arrange(question: str, hits: Sequence[Hit], k: int) -> list[Hit]:
        own = hits[: k - DISTRACTORS]
        added = _not_holding(questions[question], hits[len(own) :])[:DISTRACTORS]
        shown = [*own, *added]
        return [shown[place] for place in drawn_order(question, len(shown))]

    return arrange


def with_gold_at(
    place: float, questions: Mapping[str, Question], gold: Mapping[str, Sequence[Chunk]]
) -> Arrange:
    """The right passages at `place` (0 first, 1 last) among the best of those that do not hold the answer."""

    def arrange(question: str, hits: Sequence[Hit], k: int) -> list[Hit]:
        right = [Hit(chunk, 1.0, None, None) for chunk in gold[question]][:k]
        ids = {hit.chunk.id for hit in right}
        others = [hit for hit in _not_holding(questions[question], hits) if hit.chunk.id not in ids]
        others = others[: k - len(right)]
        before = round(place * len(others))
        return [*others[:before], *right, *others[before:]]

    return arrange


def _not_holding(question: Question, hits: Sequence[Hit]) -> list[Hit]:
    """Those that neither contain an accepted answer nor belong to a document that is said to answer."""
    return [
        hit
        for hit in hits
        if hit.chunk.document_id not in question.document_ids
        and not containment(hit.chunk.text, question.answers)
    ]
