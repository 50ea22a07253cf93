"""`openbook eval router`: train the choice among routes on dev, then score it once on test."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from eval.answers import AnswerRecord, EvalError
from eval.asking import LocalAsker
from eval.config import EvalConfig
from eval.local import LocalRoutes, open_local, selection_path
from eval.provenance import questions_hash, route_identity
from eval.router import Lessons, Training, train
from eval.router_result import Spent, format_router, router_result
from eval.run import answers_of
from eval.scoring import metric_scores, provenance_of
from eval.selection import EXAMPLES, load_selection
from eval.statistics import Floats
from indexer.config import IndexConfig, ModelConfig, Workspace
from indexer.corpus import Question, Split
from indexer.files import hash_json, write_atomically
from service.answering import Answerer
from service.router import (
    DEPTH,
    PROBE,
    TrainedRouter,
    confidence_facts,
    question_facts,
    retrieval_facts,
    router_path,
)
from service.routes import AUTO, Route
from tuner.leakage import check_leakage


def eval_router(
    workspace: Workspace,
    model: ModelConfig,
    settings: EvalConfig,
    routes: Mapping[str, Route],
    as_json: bool,
    index_settings: IndexConfig,
) -> None:
    """Train the router on the dev answers of `routes`, keep it for `serve`, score it on test and print the result.

    Answers that earlier runs gave are used again. Raises EvalError, AdapterError, IndexMissing, ModelError.
    """
    most_examples = max([*EXAMPLES, *(r.examples for r in routes.values())])
    local = open_local(workspace, model, settings, routes, most_examples, index_settings)
    check_leakage(local.questions)
    dev, test = (_answerable(local.questions, split, settings) for split in (Split.DEV, Split.TEST))
    all_dev = [question for question in local.questions if question.split is Split.DEV]
    chosen = load_selection(selection_path(workspace), all_dev, routes, settings.primary_metric, local.setup)
    folder = _folder(workspace, local, chosen, dev, test, settings)

    lessons, _ = _lessons(workspace, local, chosen, dev, folder / "dev-answers.jsonl", settings)
    training = train(lessons)
    trained = _as_served(training, lessons, local, chosen)
    # The router is settled, and kept, before any test question is looked at.
    for path in (folder / f"{AUTO}.json", router_path(workspace)):
        write_atomically(path, trained.model_dump_json(indent=2) + "\n")

    exam, spent = _lessons(workspace, local, chosen, test, folder / "test-answers.jsonl", settings, trained)
    provenance = provenance_of(
        test, chosen, settings, local.setup, "answers in batches, kept ones as they were"
    )
    result = router_result(trained, training, lessons, exam, spent, settings, provenance)
    write_atomically(folder / "router.md", f"# Routing\n\n{format_router(result)}\n")
    write_atomically(folder / "router.json", result.model_dump_json(indent=2) + "\n")
    click.echo(result.model_dump_json(indent=2) if as_json else format_router(result))
    click.echo(f"Kept in {folder}; `openbook serve` offers it as {AUTO!r} from its next start", err=True)


def _lessons(
    workspace: Workspace,
    local: LocalRoutes,
    routes: Mapping[str, Route],
    questions: Sequence[Question],
    path: Path,
    settings: EvalConfig,
    trained: TrainedRouter | None = None,
) -> tuple[Lessons, Spent]:
    """What is known of the questions and how routes do on them; only the facts of `trained`, if that is given."""
    evaluations = workspace.evaluations
    earlier = [*evaluations.glob("*/answers.jsonl"), *evaluations.glob(f"*/{path.name}")]
    asker = LocalAsker(local.answerer, local.setup)
    records = answers_of(asker, questions, routes, path, earlier, latency_questions=0)
    answers = {name: [record.answer for record in given] for name, given in records.items()}
    tokens = {
        name: np.array([a.prompt_tokens + a.completion_tokens for a in given], dtype=np.float64)
        for name, given in answers.items()
    }
    cheapest_first = sorted(tokens, key=lambda name: float(tokens[name].mean()))
    scores = {
        name: metric_scores(settings.primary_metric, questions, answers[name]) for name in cheapest_first
    }
    facts = [question_facts(question.text) for question in questions]
    if local.retriever is not None:
        found = local.retriever.search([question.text for question in questions], DEPTH)
        facts = [{**known, **retrieval_facts(hits)} for known, hits in zip(facts, found, strict=True)]
    probe = _probe_of(routes) if trained is None else trained.probe and routes[trained.probe]
    probed = _probed(local.answerer, questions, probe) if probe else _Probed([{}] * len(questions), 0.0, 0.0)
    facts = [{**known, **sure} for known, sure in zip(facts, probed.facts, strict=True)]
    spent = Spent(tokens, _seconds(records), probed.tokens, probed.seconds)
    return Lessons(questions, facts, scores), spent


@dataclass(frozen=True, slots=True)
class _Probed:
    """How sure the base model is of each answer, with the tokens and seconds a question that this took."""

    facts: Sequence[Mapping[str, float]]
    tokens: float
    seconds: float


def _probe_of(routes: Mapping[str, Route]) -> Route | None:
    """The base model's own route: it has neither passages nor an adapter."""
    plain = (route for route in routes.values() if not route.retrieve and route.adapter is None)
    return next(plain, None)


def _probed(answerer: Answerer, questions: Sequence[Question], probe: Route) -> _Probed:
    started = time.monotonic()
    prepared = answerer.prepare([(question.text, probe) for question in questions], PROBE)
    decoded = answerer.generator.generate([one.request for one in prepared])
    seconds = time.monotonic() - started
    tokens = sum(one.prompt_tokens + one.completion_tokens for one in decoded)
    n = len(questions)
    return _Probed([confidence_facts(one) for one in decoded], tokens / n, seconds / n)


def _seconds(records: Mapping[str, Sequence[AnswerRecord]]) -> dict[str, Floats]:
    return {name: np.array([record.seconds for record in given]) for name, given in records.items()}


def _as_served(
    training: Training, lessons: Lessons, local: LocalRoutes, routes: Mapping[str, Route]
) -> TrainedRouter:
    """The router with what it was trained on, so that the service can tell whether it still fits."""
    names, linear = list(lessons.scores), training.linear
    probe = _probe_of(routes) if training.setting.asks_base else None
    making = local.retriever.snapshot.meta.making if local.retriever else None
    return TrainedRouter(
        routes={name: local.answerer.lasting_identity(routes[name]) for name in names},
        probe=probe.name if probe else None,
        facts=list(training.setting.facts),
        means=linear.means.tolist(),
        scales=linear.scales.tolist(),
        weights={name: linear.weights[:, place].tolist() for place, name in enumerate(names)},
        intercepts={name: float(linear.intercepts[place]) for place, name in enumerate(names)},
        encoder=making.encoder_id if making else None,
        index_generation=local.setup.index_generation,
    )


def _answerable(questions: Sequence[Question], split: Split, settings: EvalConfig) -> list[Question]:
    found = [question for question in questions if question.split is split and question.answerable]
    if not found:
        raise EvalError(
            f"none of the {len(questions)} questions in {settings.questions} is an answerable {split} question; "
            f'give some `"split": "{split}"`'
        )
    return found


def _folder(
    workspace: Workspace,
    local: LocalRoutes,
    routes: Mapping[str, Route],
    dev: Sequence[Question],
    test: Sequence[Question],
    settings: EvalConfig,
) -> Path:
    identities = {name: route_identity(route, local.setup) for name, route in routes.items()}
    asked = [questions_hash(dev), questions_hash(test)]
    run = hash_json([AUTO, identities, asked, settings.model_dump(mode="json")])
    return workspace.evaluations / run[:12]
