"""Advice by kind of question: whether another route than the recommended one is better for some of them.

Segments overlap and are many, so every p-value is corrected (Holm) over all segments and routes: advice is given
only where it would be unlikely anywhere by chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from eval.config import EvalConfig
from eval.measuring import cluster_of
from eval.metrics.normalise import normalised_tokens
from eval.result import SegmentResult
from eval.statistics import ALPHA, Floats, holm, paired_difference
from indexer.corpus import Question

FEWEST_QUESTIONS = 10
FEWEST_CLUSTERS = 5
MOST_DOCUMENT_SEGMENTS = 30
SENTENCE_WORDS = 6


def segments(questions: Sequence[Question]) -> dict[str, list[int]]:
    """Places of answerable questions by segment: folder or document asked about, and kind of answer.

    Segments with few questions, or with all of them, say nothing of their own and are left out.
    """
    places: dict[str, list[int]] = {}
    for place, question in enumerate(questions):
        for name in (_about(question), f"answer is {_answer_kind(question)}"):
            places.setdefault(name, []).append(place)
    large = {name: found for name, found in places.items() if FEWEST_QUESTIONS <= len(found) < len(questions)}
    about = sorted((name for name in large if name.startswith("about")), key=lambda name: -len(large[name]))
    dropped = set(about[MOST_DOCUMENT_SEGMENTS:])
    return {name: found for name, found in large.items() if name not in dropped}


def segment_advice(
    questions: Sequence[Question], scores: Mapping[str, Floats], recommended: str, settings: EvalConfig
) -> dict[str, SegmentResult]:
    """Mean scores by segment, and the route that is better there than the recommended one, if one is.

    `questions` are the answerable ones, `scores` theirs by route.
    """
    found = segments(questions)
    others = [name for name in scores if name != recommended]
    tests = [(segment, name) for segment in found for name in others]
    differences = [
        _difference(questions, scores[name] - scores[recommended], found[segment], settings)
        for segment, name in tests
    ]
    adjusted = holm([p for _, p in differences])
    better: dict[str, tuple[float, str]] = {}
    for (segment, name), (difference, _), p in zip(tests, differences, adjusted, strict=True):
        if p <= ALPHA and difference > better.get(segment, (0.0, ""))[0]:
            better[segment] = difference, name
    return {
        segment: SegmentResult(
            n=len(places),
            documents=len({cluster_of(questions[place]) for place in places}),
            scores={name: float(values[places].mean()) for name, values in scores.items()},
            use=better[segment][1] if segment in better else recommended,
            differs=segment in better,
        )
        for segment, places in found.items()
    }


def _difference(
    questions: Sequence[Question], values: Floats, places: Sequence[int], settings: EvalConfig
) -> tuple[float, float]:
    """The mean over a segment, and its p."""
    clusters = [cluster_of(questions[place]) for place in places]
    if len(set(clusters)) < FEWEST_CLUSTERS:
        # About a few given documents, and no others: its questions stand for themselves.
        clusters = [questions[place].id for place in places]
    rng = np.random.default_rng(settings.seed)
    estimate, p = paired_difference(values[list(places)], clusters, settings.resamples, rng)
    return estimate.value, p


def _about(question: Question) -> str:
    if not question.document_ids:
        return "about no named document"
    folder, slash, _ = question.document_ids[0].partition("/")
    return f"about {folder}{slash}"


def _answer_kind(question: Question) -> str:
    answer = question.answers[0]
    if any(letter.isdigit() for letter in answer):
        return "a number"
    return "a sentence" if len(normalised_tokens(answer)) >= SENTENCE_WORDS else "a name or phrase"
