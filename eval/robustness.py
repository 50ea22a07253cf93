"""What happens to a route's answers when questions, passages or documents are not as they should be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from eval.asking import Asker
from eval.config import EvalConfig
from eval.injection import is_planted, obeyed
from eval.measuring import cluster_of, measure
from eval.metrics.normalise import normalised_tokens
from eval.provenance import Setup
from eval.result import Measure, Provenance
from eval.run import answers_of
from eval.scoring import metric_scores, provenance_of
from eval.statistics import ALPHA, ContrastVerdict, Difference, contrast_verdict, holm, paired_difference
from indexer.corpus import Question, Split
from service.answer import Answer
from service.routes import Route

AS_ASKED = "as asked"
INJECTED = "planted orders"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Change(_Section):
    """One route under one variant, over the `n` questions that it changes.

    `difference` is the score less the `reference`, that of the same questions under `against`; its interval holds for
    all changes at once. `same_answer` is the share of answers with the same words as before.
    """

    route: str
    variant: str
    against: str
    n: int
    reference: float
    score: float
    difference: Measure
    p: float
    p_holm: float
    verdict: ContrastVerdict
    same_answer: float


class InjectionResult(_Section):
    """Shares of `n` questions: with a planted passage in the prompt, and answered with what it orders."""

    n: int
    shown: Measure
    obeyed: Measure


class RobustnessResult(_Section):
    """`robustness.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True, validate_by_name=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    split: Split
    metric: str
    margin: float
    n: int
    documents: int
    scores: dict[str, Measure]
    """By route, as asked."""
    changes: list[Change]
    injection: dict[str, InjectionResult]
    """By route that retrieves."""
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to make it harder: who is asked what, for the routes that it concerns, and what it is compared with.

    `questions` keep the ids of the original ones.
    """

    name: str
    asker: Asker
    questions: Sequence[Question]
    routes: Mapping[str, Route]
    against: str = AS_ASKED


def measure_robustness(
    variants: Sequence[Variant],
    folder: Path,
    split: Split,
    settings: EvalConfig,
    setup: Setup,
    earlier: Sequence[Path],
) -> RobustnessResult:
    """Ask everything, the first variant being `AS_ASKED`, and compare, paired by question and clustered by document.

    Answers are kept in `folder`, a file a variant. What was answered in there, or in one of the folders `earlier`, is
    not asked for again.
    """
    plain = variants[0]
    answers = {one.name: _ask(one, folder, earlier) for one in variants}
    questions = {question.id: question for question in plain.questions}
    pairs = [pair for one in variants[1:] for pair in _pairs(one, answers, questions)]
    scores = {
        name: measure(
            metric_scores(settings.primary_metric, plain.questions, [*said.values()]),
            plain.questions,
            settings,
        )
        for name, said in answers[AS_ASKED].items()
    }
    return RobustnessResult(
        split=split,
        metric=settings.primary_metric,
        margin=settings.margin,
        n=len(questions),
        documents=len({cluster_of(question) for question in plain.questions}),
        scores=scores,
        changes=_changes(pairs, settings),
        injection={
            name: _injection([*said.values()], plain.questions, settings)
            for name, said in answers.get(INJECTED, {}).items()
        },
        provenance=provenance_of(
            plain.questions, plain.routes, settings, setup, "answered in batches; not timed"
        ),
    )


class _Pair(NamedTuple):
    """Answers of one route to the same questions, before and after."""

    route: str
    variant: Variant
    questions: list[Question]
    before: list[Answer]
    after: list[Answer]


def _ask(variant: Variant, folder: Path, earlier: Sequence[Path]) -> dict[str, dict[str, Answer]]:
    """By route and question id."""
    path = folder / f"{variant.name.replace(' ', '-')}.jsonl"
    names = [path.name, "answers.jsonl"] if variant.name == AS_ASKED else [path.name]
    known = [before / name for before in earlier for name in names]
    records = answers_of(variant.asker, variant.questions, variant.routes, path, known, latency_questions=0)
    return {name: {record.question_id: record.answer for record in given} for name, given in records.items()}


def _pairs(
    variant: Variant,
    answers: Mapping[str, Mapping[str, Mapping[str, Answer]]],
    questions: Mapping[str, Question],
) -> Iterator[_Pair]:
    for route, said in answers[variant.name].items():
        before = answers[variant.against][route]
        asked = [questions[question_id] for question_id in said]
        yield _Pair(route, variant, asked, [before[q.id] for q in asked], [*said.values()])


def _changes(pairs: Sequence[_Pair], settings: EvalConfig) -> list[Change]:
    """All of them are one family: family-wise error rate 5 %."""
    alpha = ALPHA / max(len(pairs), 1)
    metric = settings.primary_metric
    before = [metric_scores(metric, pair.questions, pair.before) for pair in pairs]
    after = [metric_scores(metric, pair.questions, pair.after) for pair in pairs]

    def tested(place: int) -> Difference:
        clusters = [cluster_of(question) for question in pairs[place].questions]
        rng = np.random.default_rng(settings.seed)
        return paired_difference(after[place] - before[place], clusters, settings.resamples, rng, alpha)

    found = [tested(place) for place in range(len(pairs))]
    adjusted = holm([difference.p for difference in found])
    return [
        Change(
            route=pair.route,
            variant=pair.variant.name,
            against=pair.variant.against,
            n=len(pair.questions),
            reference=float(before[place].mean()),
            score=float(after[place].mean()),
            difference=Measure(mean=estimate.value, ci=(estimate.low, estimate.high)),
            p=p,
            p_holm=adjusted[place],
            verdict=contrast_verdict(estimate, adjusted[place], settings.margin),
            same_answer=_same(pair),
        )
        for place, (pair, (estimate, p)) in enumerate(zip(pairs, found, strict=True))
    ]


def _same(pair: _Pair) -> float:
    alike = [
        normalised_tokens(a.answer) == normalised_tokens(b.answer)
        for a, b in zip(pair.before, pair.after, strict=True)
    ]
    return sum(alike) / len(alike)


def _injection(
    answers: Sequence[Answer], questions: Sequence[Question], settings: EvalConfig
) -> InjectionResult:
    shown = np.array([any(map(is_planted, answer.contexts)) for answer in answers], dtype=np.float64)
    success = np.array([obeyed(answer) for answer in answers], dtype=np.float64)
    return InjectionResult(
        n=len(answers),
        shown=measure(shown, questions, settings),
        obeyed=measure(success, questions, settings),
    )
