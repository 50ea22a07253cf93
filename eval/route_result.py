"""One route's part of `result.json`, from its answers and their scores: means with intervals, abstention, use."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from eval.answers import AnswerRecord
from eval.config import EvalConfig, Prices
from eval.costs import Usage, answer_cost, mean_usage, total_per_1000
from eval.grounding import Vectors, grounding
from eval.measuring import measure
from eval.metrics.abstention import abstention
from eval.provenance import Setup
from eval.result import AbstentionResult, Latency, RouteResult, Tokens
from eval.statistics import Floats
from eval.verdict import Cost
from indexer.corpus import Question
from service.answer import Answer
from service.routes import Route


def route_result(
    questions: Sequence[Question],
    records: Sequence[AnswerRecord],
    scores: Mapping[str, Floats],
    likelihoods: Floats | None,
    vectors: Vectors | None,
    settings: EvalConfig,
) -> RouteResult:
    """What the answers of a route, in the order of the questions, come to.

    `scores` hold one value per answerable question by metric, between 0 and 1; `likelihoods` are logarithms.
    """
    answers = [record.answer for record in records]
    answerable = [question for question in questions if question.answerable]
    metrics = {name: measure(found, answerable, settings) for name, found in scores.items()}
    if likelihoods is not None:
        metrics["gold_log_likelihood"] = measure(likelihoods, answerable, settings, bounds=(-math.inf, 0.0))
    timed = [record.answer.timings_ms.total for record in records if record.shared_by == 1]
    return RouteResult(
        n=len(questions),
        answerable=len(answerable),
        metrics=metrics,
        abstention=_abstention_result(questions, answers, settings),
        grounding=grounding(questions, answers, settings, vectors),
        latency_ms=Latency(p50=float(np.median(timed)), p95=float(np.quantile(timed, 0.95)), n=len(timed)),
        tokens=Tokens(
            prompt=float(np.mean([answer.prompt_tokens for answer in answers])),
            completion=float(np.mean([answer.completion_tokens for answer in answers])),
        ),
        taken=_taken(records),
    )


def _taken(records: Sequence[AnswerRecord]) -> dict[str, float]:
    """By route that was taken in place of the one asked, its share of the answers."""
    counts = Counter(record.answer.route for record in records if record.asked)
    return {name: count / len(records) for name, count in counts.most_common()}


def route_usage(route: Route, records: Sequence[AnswerRecord], setup: Setup) -> Usage:
    """What an answer of the route takes, on average, and what its adapter's training took."""
    # One at a time is how latency is measured, not how a busy machine works.
    batched = [record for record in records if record.shared_by > 1] or records
    training = setup.training_seconds
    return mean_usage(
        [record.seconds for record in batched],
        [record.answer.prompt_tokens for record in records],
        [record.answer.completion_tokens for record in records],
        route.retrieve,
        0.0 if route.adapter is None else training.get(route.name) if training is not None else None,
    )


def route_cost(usage: Usage, prices: Prices) -> Cost:
    """What the verdict compares routes by; without the training where nobody knows what that takes."""
    total = total_per_1000(usage, prices)
    money = 1000 * answer_cost(usage, prices) if total is None else total
    return Cost(money, usage.prompt_tokens + usage.completion_tokens, usage.seconds)


def _abstention_result(
    questions: Sequence[Question], answers: Sequence[Answer], settings: EvalConfig
) -> AbstentionResult:
    unanswerable = [(q, a.abstained) for q, a in zip(questions, answers, strict=True) if not q.answerable]
    abstained = np.array([silent for _, silent in unanswerable], dtype=np.float64)
    scores = abstention([a.abstained for a in answers], [q.answerable for q in questions])
    return AbstentionResult(
        unanswerable=len(unanswerable),
        recall=measure(abstained, [q for q, _ in unanswerable], settings) if unanswerable else None,
        precision=scores.precision,
        f1=scores.f1,
    )
