"""Whether answers rest on the passages shown, and whether the passages they cite are the right ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from eval.config import EvalConfig
from eval.measuring import measure
from eval.metrics.citations import citation_scores
from eval.metrics.groundedness import groundedness
from eval.metrics.semantic_similarity import semantic_similarity
from eval.result import GroundingResult, Measure
from indexer.corpus import Question
from indexer.encoding import Encoder
from service.answer import Answer, Citation

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


class Vectors:
    """Vectors of texts, every one of them encoded once."""

    def __init__(self, encoder: Encoder, texts: Iterable[str]) -> None:
        known = list(dict.fromkeys(texts))
        self._places = {text: place for place, text in enumerate(known)}
        self._vectors = encoder.encode_queries(known)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[n, dim] for texts among those that were given."""
        return self._vectors[[self._places[text] for text in texts]]


def vectors_for(
    encoder: Encoder, questions: Sequence[Question], answers: Mapping[str, Sequence[Answer]]
) -> Vectors:
    """Vectors of all answers, accepted answers and sentences shown."""
    given = [answer for said in answers.values() for answer in said]
    texts = [text for question in questions for text in question.answers]
    texts += [answer.answer for answer in given]
    texts += [sentence for answer in given for sentence in _sentences(answer)]
    return Vectors(encoder, texts)


def similarity_scores(
    questions: Sequence[Question], answers: Sequence[Answer], vectors: Vectors
) -> NDArray[np.float64]:
    """Semantic similarity with the nearest accepted answer, one for each answerable question."""
    return np.array(
        [
            semantic_similarity(vectors([answer.answer])[0], vectors(q.answers))
            for q, answer in zip(questions, answers, strict=True)
            if q.answerable
        ],
        dtype=np.float64,
    )


def grounding(
    questions: Sequence[Question], answers: Sequence[Answer], settings: EvalConfig, vectors: Vectors | None
) -> GroundingResult | None:
    """Of the answers that were given over passages; None if there were none.

    Citations are judged where gold is known: a right one covers half of an evidence span, or, for questions without
    evidence, is of a gold document.
    """
    given = [
        (q, a) for q, a in zip(questions, answers, strict=True) if a.contexts and not a.abstained and a.answer
    ]
    if not given:
        return None
    asked = [question for question, _ in given]
    lexical = [groundedness(a.answer, [c.text for c in a.contexts]) for _, a in given]
    semantic = (
        None
        if vectors is None
        else [semantic_similarity(vectors([a.answer])[0], vectors(_sentences(a))) for _, a in given]
    )
    judged = [(q, a) for q, a in given if q.answerable and (q.evidence or q.document_ids)]
    cited = [(q, citation_scores([_is_gold(q, c) for c in a.citations])) for q, a in judged]
    precise = [(q, scores.precision) for q, scores in cited if scores.precision is not None]

    def mean(values: Sequence[float], of: Sequence[Question]) -> Measure | None:
        return measure(np.array(values, dtype=np.float64), of, settings) if values else None

    return GroundingResult(
        n=len(given),
        lexical=measure(np.array(lexical, dtype=np.float64), asked, settings),
        semantic=None if semantic is None else mean(semantic, asked),
        citation_precision=mean([value for _, value in precise], [q for q, _ in precise]),
        citation_recall=mean([scores.recall for _, scores in cited], [q for q, _ in cited]),
    )


def _sentences(answer: Answer) -> list[str]:
    return [
        sentence.strip()
        for context in answer.contexts
        for sentence in _SENTENCE_END.split(context.text)
        if sentence.strip()
    ]


def _is_gold(question: Question, citation: Citation) -> bool:
    if not question.evidence:
        return citation.document_id in question.document_ids
    return any(
        citation.document_id == span.document_id
        and 2 * (min(citation.end, span.end) - max(citation.start, span.start)) >= span.end - span.start
        for span in question.evidence
    )
