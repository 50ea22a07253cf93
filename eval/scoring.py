"""From answers to `result.json`: scores by route, contrasts, attribution, verdict, provenance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from eval.answers import AnswerRecord
from eval.attribution import attribute
from eval.config import EvalConfig
from eval.costs import costs
from eval.grounding import Vectors, similarity_scores, vectors_for
from eval.measuring import cluster_of, measure
from eval.metrics.containment import containment
from eval.metrics.exact_match import exact_match
from eval.metrics.multiple_choice import labels_of, majority, multiple_choice
from eval.metrics.rouge_l import rouge_l
from eval.metrics.token_f1 import token_f1
from eval.provenance import Setup, library_versions, machine_facts, questions_hash, route_options
from eval.repeats import repeats_result
from eval.result import (
    ContrastResult,
    EvaluationResult,
    ForgettingResult,
    Measure,
    MultipleChoice,
    OracleResult,
    Provenance,
    RepeatsResult,
    VerdictResult,
)
from eval.route_result import route_cost, route_result, route_usage
from eval.segments import segment_advice
from eval.statistics import Contrast, Floats, contrasts, paired_difference
from eval.verdict import decide
from indexer.corpus import Question
from indexer.encoding import Encoder
from service.answer import Answer
from service.routes import Route
from tuner.prompt import prompt_hash

Metric = Callable[[str, Sequence[str]], float]

METRICS: Mapping[str, Metric] = MappingProxyType(
    {"f1": token_f1, "exact_match": exact_match, "containment": containment, "rouge_l": rouge_l}
)
"""Computed on answerable questions; whether a route abstains where it should is scored apart."""


@dataclass(frozen=True, slots=True)
class Additional:
    """What was found beside the answers.

    `ceilings` are the oracle's answers by route and question id; `drawn` those drawn at `temperature`, by route and
    repeat, to the answerable questions.
    """

    retrieval: Mapping[str, float]
    forgotten: Mapping[str, Sequence[ForgettingResult]]
    encoder: Encoder | None
    likelihoods: Mapping[str, Floats]
    ceilings: Mapping[str, Mapping[str, Answer]]
    drawn: Mapping[str, Sequence[Sequence[Answer]]]
    temperature: float


def score(
    questions: Sequence[Question],
    routes: Mapping[str, Route],
    records: Mapping[str, Sequence[AnswerRecord]],
    settings: EvalConfig,
    setup: Setup,
    additional: Additional,
) -> EvaluationResult:
    """Score the answers of every route, given in the order of the questions."""
    answers = {name: [record.answer for record in given] for name, given in records.items()}
    scores = {
        name: metric_scores(settings.primary_metric, questions, given) for name, given in answers.items()
    }
    answerable = [question for question in questions if question.answerable]
    clusters = [cluster_of(question) for question in answerable]
    pairs = [(a, b) for a, b in settings.contrasts if a in routes and b in routes]
    tested = contrasts(
        scores, clusters, pairs, settings.margin, settings.resamples, np.random.default_rng(settings.seed)
    )
    labels = labels_of([question.answers for question in answerable])
    encoder = additional.encoder
    vectors = None if encoder is None else vectors_for(encoder, questions, answers)
    results = {
        name: route_result(
            questions,
            given,
            _question_scores(questions, answers[name], labels, vectors),
            additional.likelihoods.get(name),
            vectors,
            settings,
        )
        for name, given in records.items()
    }
    quality = {name: float(values.mean()) for name, values in scores.items()}
    usages = {name: route_usage(routes[name], given, setup) for name, given in records.items()}
    verdict = decide(
        scores,
        clusters,
        {name: route_cost(usage, settings.prices) for name, usage in usages.items()},
        settings.prices.currency,
        settings.primary_metric,
        settings.margin,
        settings.resamples,
        settings.seed,
    )
    return EvaluationResult(
        routes=results,
        multiple_choice=_multiple_choice(questions, labels),
        contrasts=[contrast_result(contrast, settings.primary_metric) for contrast in tested],
        retrieval=dict(additional.retrieval),
        attribution=attribute(questions, routes, answers),
        oracle={
            name: _oracle_result(questions, answers[name], given, settings)
            for name, given in additional.ceilings.items()
            if given
        },
        forgetting={adapter: list(found) for adapter, found in additional.forgotten.items()},
        segments=segment_advice(answerable, scores, verdict.recommended, settings),
        repeats={
            name: _repeats_result(answerable, runs, additional.temperature, settings)
            for name, runs in additional.drawn.items()
        },
        costs=costs(usages, quality, settings.prices),
        verdict=VerdictResult(
            recommended=verdict.recommended,
            tied_with=list(verdict.tied_with),
            more_questions=verdict.more_questions,
            reason=verdict.reason,
        ),
        provenance=provenance_of(
            questions,
            routes,
            settings,
            setup,
            f"latency is that of the first {min(settings.latency_questions, len(questions))} questions, answered "
            "one at a time after an untimed call; the others were answered in batches",
        ),
    )


def metric_scores(metric: str, questions: Sequence[Question], answers: Sequence[Answer]) -> Floats:
    """One score per answerable question, in order."""
    score_one = METRICS[metric]
    pairs = zip(questions, answers, strict=True)
    return np.array(
        [score_one(answer.answer, q.answers) for q, answer in pairs if q.answerable], dtype=np.float64
    )


def mean_score(metric: str) -> Callable[[Sequence[str], Sequence[Question]], float]:
    """The mean of `metric` over answers to answerable questions, for the tuner's dev checks."""
    score_one = METRICS[metric]

    def mean(answers: Sequence[str], questions: Sequence[Question]) -> float:
        pairs = zip(answers, questions, strict=True)
        return float(np.mean([score_one(answer, question.answers) for answer, question in pairs]))

    return mean


def _question_scores(
    questions: Sequence[Question],
    answers: Sequence[Answer],
    labels: Sequence[str],
    vectors: Vectors | None,
) -> dict[str, Floats]:
    """By metric, one score per answerable question."""
    values = {name: metric_scores(name, questions, answers) for name in METRICS}
    if labels:
        pairs = [(q, a) for q, a in zip(questions, answers, strict=True) if q.answerable]
        right = [multiple_choice(a.answer, q.answers, labels) for q, a in pairs]
        values["multiple_choice"] = np.array(right, dtype=np.float64)
    if vectors is not None:
        values["semantic_similarity"] = similarity_scores(questions, answers, vectors)
    return values


def _multiple_choice(questions: Sequence[Question], labels: Sequence[str]) -> MultipleChoice | None:
    if not labels:
        return None
    label, share = majority([question.answers for question in questions if question.answerable], labels)
    return MultipleChoice(labels=list(labels), majority=label, majority_share=share)


def _repeats_result(
    questions: Sequence[Question],
    runs: Sequence[Sequence[Answer]],
    temperature: float,
    settings: EvalConfig,
) -> RepeatsResult:
    scores = np.stack([metric_scores(settings.primary_metric, questions, answers) for answers in runs])
    return repeats_result(scores, questions, temperature, settings.resamples, settings.seed)


def _oracle_result(
    questions: Sequence[Question],
    answers: Sequence[Answer],
    ceiling: Mapping[str, Answer],
    settings: EvalConfig,
) -> OracleResult:
    metric = settings.primary_metric
    pairs = [(q, a) for q, a in zip(questions, answers, strict=True) if q.id in ceiling]
    asked = [question for question, _ in pairs]
    best = metric_scores(metric, asked, [ceiling[question.id] for question in asked])
    lost = best - metric_scores(metric, asked, [answer for _, answer in pairs])
    rng = np.random.default_rng(settings.seed)
    difference, _ = paired_difference(lost, [cluster_of(q) for q in asked], settings.resamples, rng)
    return OracleResult(
        n=len(asked),
        metric=metric,
        score=measure(best, asked, settings),
        lost=Measure(mean=difference.value, ci=(difference.low, difference.high)),
    )


def contrast_result(contrast: Contrast, metric: str) -> ContrastResult:
    """A tested contrast as `result.json` has it."""
    difference = contrast.difference
    return ContrastResult(
        a=contrast.a,
        b=contrast.b,
        metric=metric,
        difference=difference.value,
        ci=(difference.low, difference.high),
        p=contrast.p,
        p_holm=contrast.p_holm,
        mde=contrast.mde if math.isfinite(contrast.mde) else None,
        verdict=contrast.verdict,
        non_inferior=contrast.non_inferior,
        more_questions=contrast.more_questions,
    )


def provenance_of(
    questions: Sequence[Question],
    routes: Mapping[str, Route],
    settings: EvalConfig,
    setup: Setup,
    timing: str,
) -> Provenance:
    """What the scores of these routes on these questions were measured on."""
    documents = len({cluster_of(question) for question in questions})
    synthetic = sum(question.synthetic for question in questions)
    return facts_of_run(questions_hash(questions), documents, synthetic, routes, settings, setup, timing)


def facts_of_run(
    asked: str,
    documents: int,
    synthetic: int,
    routes: Mapping[str, Route],
    settings: EvalConfig,
    setup: Setup,
    timing: str,
) -> Provenance:
    """What something was measured on; `asked` is the hash of what was asked, about so many `documents`."""
    return Provenance(
        source=setup.source,
        corpus=setup.corpus_hash,
        index_generation=setup.index_generation,
        questions=asked,
        documents_asked_about=documents,
        synthetic_questions=synthetic,
        base_model=setup.base_model,
        base_model_hash=setup.base_model_hash,
        adapters=dict(setup.adapters),
        routes={name: route_options(route, setup) for name, route in routes.items()},
        prompt=prompt_hash(),
        settings=settings.model_dump(mode="json"),
        seed=settings.seed,
        versions=library_versions(),
        machine=machine_facts(),
        timing=timing,
    )
