"""What an evaluation will take and can show, said before it is run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from eval.answers import AnswerRecord, EvalError, read_answers
from eval.asking import Asker
from eval.config import EvalConfig
from eval.measuring import cluster_of
from eval.result import load_result
from eval.run import keyed_questions, known_answers, missing_batches
from eval.statistics import ALPHA, minimum_detectable_effect, planned_standard_error
from indexer.corpus import Question
from service.routes import Route

PROBES = 2
"""Questions that a route answers to be timed, if no earlier run tells."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True)


class RoutePlan(_Section):
    """One route: answers that are known and those to ask for, with the time and tokens that these will take."""

    known: int
    missing: int
    seconds: float
    prompt_tokens: float
    completion_tokens: float


class Plan(_Section):
    """The whole run; `detectable` is the difference that each contrast will find with probability 0.8."""

    questions: int
    answerable: int
    documents: int
    metric: str
    margin: float
    routes: dict[str, RoutePlan]
    detectable: dict[str, float | None]
    detectable_from: str


def plan(
    asker: Asker,
    questions: Sequence[Question],
    routes: Mapping[str, Route],
    settings: EvalConfig,
    earlier: Sequence[Path],
) -> Plan:
    """Count what is known, time what is not, and say what differences can be found.

    Times and tokens come from answers of the same routes in `earlier` folders; a route without any answers two
    questions now.
    """
    files = [folder / "answers.jsonl" for folder in earlier]
    keyed = keyed_questions(asker, questions, routes)
    known = known_answers(files, keyed)
    seen = _by_route(files)
    answerable = [question for question in questions if question.answerable]
    detectable, source = detectable_effects(answerable, routes, settings, earlier)
    plans = {}
    for name, pairs in keyed.items():
        missing = sum(map(len, missing_batches(pairs, known, settings.latency_questions)))
        records = seen.get(name) or (_probe(asker, routes[name], questions) if missing else [])
        plans[name] = _route_plan(len(pairs), missing, records)
    return Plan(
        questions=len(questions),
        answerable=len(answerable),
        documents=len({cluster_of(question) for question in answerable}),
        metric=settings.primary_metric,
        margin=settings.margin,
        routes=plans,
        detectable=detectable,
        detectable_from=source,
    )


def detectable_effects(
    answerable: Sequence[Question], routes: Mapping[str, Route], settings: EvalConfig, earlier: Sequence[Path]
) -> tuple[dict[str, float | None], str]:
    """By contrast, the difference that will be found, and what that is based on."""
    pairs = [(a, b) for a, b in settings.contrasts if a in routes and b in routes]
    for folder in reversed(earlier):
        try:
            result = load_result(folder / "result.json")
        except EvalError:
            continue
        found = {(c.a, c.b): c.mde for c in result.contrasts if c.metric == settings.primary_metric}
        asked = next(iter(result.routes.values())).answerable
        if set(pairs) <= set(found):
            scale = math.sqrt(asked / max(len(answerable), 1))
            effects = {f"{a} - {b}": None if (m := found[a, b]) is None else m * scale for a, b in pairs}
            return effects, f"the differences in evaluation {folder.name}"
    clusters = len({cluster_of(question) for question in answerable})
    error = planned_standard_error(len(answerable), clusters)
    effect = minimum_detectable_effect(error, clusters, ALPHA / max(len(pairs), 1))
    known = effect if math.isfinite(effect) else None
    return {f"{a} - {b}": known for a, b in pairs}, "the usual spread of differences"


def format_plan(found: Plan) -> str:
    """The plan for people, a line a route."""
    lines = [
        f"{found.answerable} answerable of {found.questions} test questions about {found.documents} documents"
    ]
    for name, route in found.routes.items():
        tokens = route.prompt_tokens + route.completion_tokens
        lines.append(
            f"  {name}: {route.missing} answers to ask for, {route.known} known; "
            f"about {_duration(route.seconds)}, {tokens:,.0f} tokens"
        )
    lines.append(f"together about {_duration(sum(route.seconds for route in found.routes.values()))}")
    lines.append(f"differences of {found.metric} that will be found (judged by {found.detectable_from}):")
    lines += [
        f"  {pair}: {'cannot be told on fewer than 2 documents' if effect is None else f'{effect:.2f} or more'}"
        for pair, effect in found.detectable.items()
    ]
    return "\n".join([*lines, f"a difference below {found.margin:g} does not matter (eval.margin)"])


def _by_route(files: Sequence[Path]) -> dict[str, list[AnswerRecord]]:
    found: dict[str, list[AnswerRecord]] = {}
    for path in files:
        for record in read_answers(path).values():
            found.setdefault(record.route_name, []).append(record)
    return found


def _probe(asker: Asker, route: Route, questions: Sequence[Question]) -> list[AnswerRecord]:
    asked = questions[:PROBES]
    answers = asker.answer_many([(question.text, route) for question in asked])
    shared_by = min(len(asked), asker.parallel)
    return [AnswerRecord("", q.id, shared_by, answer) for q, answer in zip(asked, answers, strict=True)]


def _route_plan(total: int, missing: int, records: Sequence[AnswerRecord]) -> RoutePlan:
    def estimate(values: Sequence[float]) -> float:
        return missing * sum(values) / len(values) if missing else 0.0

    return RoutePlan(
        known=total - missing,
        missing=missing,
        seconds=estimate([record.seconds for record in records]),
        prompt_tokens=estimate([record.answer.prompt_tokens for record in records]),
        completion_tokens=estimate([record.answer.completion_tokens for record in records]),
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
