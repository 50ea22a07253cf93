"""`openbook eval`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from eval.answers import EvalError
from eval.asking import Asker, LocalAsker
from eval.config import EvalConfig
from eval.http_client import HttpAsker, open_client
from eval.local import open_local, selection_path
from eval.provenance import Setup, questions_hash, route_identity
from eval.report import markdown_table
from eval.result import EvaluationResult
from eval.run import Evaluation, evaluate
from eval.scoring import METRICS, cluster_of
from eval.selection import EXAMPLES, select_prompts
from eval.statistics import ALPHA, minimum_detectable_effect, planned_standard_error
from indexer.config import ModelConfig, Workspace
from indexer.corpus import Question, Split
from indexer.files import hash_json
from indexer.readers import read_questions
from indexer.retrieval_metrics import retrieval_scores
from indexer.retriever import Retriever
from service.routes import Route
from tuner.leakage import check_leakage

RETRIEVAL_DEPTH = 10
"""How many chunks retrieval is scored on, whatever the routes show."""


class BelowThreshold(Exception):
    """The recommended route scores less than `--fail-under` asks for."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """The least that a metric of the recommended route may be."""

    metric: str
    minimum: float


def eval_run(
    workspace: Workspace,
    model: ModelConfig,
    settings: EvalConfig,
    routes: Mapping[str, Route],
    url: str | None,
    api_key: str | None,
    select: bool,
    fail_under: Sequence[str],
    as_json: bool,
) -> None:
    """Evaluate `routes` on the test questions, in this process or at `url`, and print the result.

    `select` chooses prompt options on the dev questions first (a service at `url` keeps its own). Raises
    EvalError if it cannot be run as asked, BelowThreshold if the result is too low.
    """
    thresholds = [parse_threshold(text) for text in fail_under]
    if url is None:
        evaluation = _evaluate_here(workspace, model, settings, routes, select)
    else:
        evaluation = _evaluate_service(workspace, settings, url, api_key)
    click.echo(evaluation.result.model_dump_json(indent=2) if as_json else format_evaluation(evaluation))
    check_thresholds(evaluation.result, thresholds)


def parse_threshold(text: str) -> Threshold:
    """`f1=0.6` as a threshold."""
    metric, _, minimum = text.partition("=")
    try:
        value = float(minimum)
    except ValueError:
        value = math.nan
    if metric not in METRICS or not 0 <= value <= 1:
        raise EvalError(
            f"--fail-under {text!r} is not METRIC=NUMBER; "
            f"use one of {', '.join(METRICS)} and a number from 0 to 1, like f1=0.6"
        )
    return Threshold(metric, value)


def check_thresholds(result: EvaluationResult, thresholds: Sequence[Threshold]) -> None:
    """Raise BelowThreshold naming every threshold that the recommended route misses."""
    name = result.verdict.recommended
    metrics = result.routes[name].metrics
    missed = [
        f"{t.metric} of {name} is {metrics[t.metric].mean:.3f}, below {t.minimum:g}"
        for t in thresholds
        if metrics[t.metric].mean < t.minimum
    ]
    if missed:
        raise BelowThreshold("; ".join(missed))


def format_evaluation(evaluation: Evaluation) -> str:
    """The table, the contrasts, the verdict, and where the report is."""
    result = evaluation.result
    contrasts = [
        f"  {c.a} - {c.b}: {c.difference:+.3f} [{c.ci[0]:+.3f}, {c.ci[1]:+.3f}], {c.verdict}"
        for c in result.contrasts
    ]
    return "\n".join(
        [
            markdown_table(result),
            "",
            *contrasts,
            "",
            f"Use {result.verdict.recommended}: {result.verdict.reason}",
            f"Report: {evaluation.folder / 'report.html'}",
        ]
    )


def format_plan(questions: Sequence[Question], settings: EvalConfig, contrast_count: int) -> str:
    """What the questions can show, said before they are asked."""
    answerable = [question for question in questions if question.answerable]
    clusters = len({cluster_of(question) for question in answerable})
    asked = f"{len(answerable)} answerable test questions about {clusters} documents"
    if clusters < 2:
        return f"{asked}: routes cannot be told apart on fewer than 2 documents"
    error = planned_standard_error(len(answerable), clusters)
    effect = minimum_detectable_effect(error, clusters, ALPHA / max(contrast_count, 1))
    return (
        f"{asked}: expect to find differences of {effect:.2f} {settings.primary_metric} or more "
        f"(margin {settings.margin:g}, {contrast_count} contrasts)"
    )


def _evaluate_here(
    workspace: Workspace, model: ModelConfig, settings: EvalConfig, routes: Mapping[str, Route], select: bool
) -> Evaluation:
    most_examples = max([*EXAMPLES, *(route.examples for route in routes.values())])
    local = open_local(workspace, model, settings, routes, most_examples)
    check_leakage(local.questions)
    test = _test_questions(local.questions, settings, routes)
    asker = LocalAsker(local.answerer, local.setup)
    if select:
        dev = [question for question in local.questions if question.split is Split.DEV]
        routes = select_prompts(
            local.answerer.answer_many,
            dev,
            routes,
            settings.primary_metric,
            local.setup,
            selection_path(workspace),
        )
    retrieval = _retrieval_scores(local.retriever, test)
    return _evaluate(workspace, asker, test, routes, settings, retrieval)


def _evaluate_service(
    workspace: Workspace, settings: EvalConfig, url: str, api_key: str | None
) -> Evaluation:
    questions = read_questions(workspace.resolve(settings.questions), None)
    with open_client(url, api_key) as client:
        asker = HttpAsker(client)
        routes = asker.routes()
        test = _test_questions(questions, settings, routes)
        return _evaluate(workspace, asker, test, routes, settings, {})


def _evaluate(
    workspace: Workspace,
    asker: Asker,
    test: Sequence[Question],
    routes: Mapping[str, Route],
    settings: EvalConfig,
    retrieval: Mapping[str, float],
) -> Evaluation:
    folder = _folder(workspace, test, routes, settings, asker.setup)
    earlier = sorted(workspace.evaluations.glob("*/answers.jsonl"))
    return evaluate(asker, test, routes, folder, settings, retrieval, earlier)


def _retrieval_scores(retriever: Retriever | None, questions: Sequence[Question]) -> dict[str, float]:
    if retriever is None:
        return {}
    hits = retriever.search([question.text for question in questions], RETRIEVAL_DEPTH)
    rankings = [(q, [hit.chunk for hit in found]) for q, found in zip(questions, hits, strict=True)]
    return retrieval_scores(rankings, RETRIEVAL_DEPTH)


def _test_questions(
    questions: Sequence[Question], settings: EvalConfig, routes: Mapping[str, Route]
) -> list[Question]:
    test = [question for question in questions if question.split is Split.TEST]
    if not test:
        raise EvalError(
            f"none of the {len(questions)} questions in {settings.questions} is a test question; "
            'give some `"split": "test"`'
        )
    contrast_count = sum(a in routes and b in routes for a, b in settings.contrasts)
    click.echo(format_plan(test, settings, contrast_count), err=True)
    return test


def _folder(
    workspace: Workspace,
    questions: Sequence[Question],
    routes: Mapping[str, Route],
    settings: EvalConfig,
    setup: Setup,
) -> Path:
    """One folder for each thing that can be evaluated: the same again goes on where it was."""
    identities = {name: route_identity(route, setup) for name, route in routes.items()}
    run = hash_json([identities, questions_hash(questions), settings.model_dump(mode="json")])
    return workspace.evaluations / run[:12]
