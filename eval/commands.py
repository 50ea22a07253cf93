"""`openbook eval`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from eval.answers import EvalError
from eval.asking import Asker, LocalAsker
from eval.compare import (
    compare_evaluations,
    find_evaluation,
    format_comparison,
    format_list,
    list_evaluations,
)
from eval.config import EvalConfig
from eval.forgetting_commands import known_forgetting
from eval.gold_likelihood import gold_log_likelihoods
from eval.http_client import HttpAsker, open_client
from eval.local import LocalRoutes, open_local, selection_path
from eval.markdown import markdown_table, synthetic_line, taken_lines
from eval.measuring import cluster_of
from eval.oracle import gold_chunks, with_gold_passages
from eval.plan import detectable_effects, format_plan, plan
from eval.provenance import Setup, questions_hash, route_identity
from eval.repeats import SampledAsker
from eval.run import Evaluation, Extras, Oracle, Repeats, evaluate
from eval.selection import EXAMPLES, load_selection, select_prompts
from eval.statistics import Floats
from eval.thresholds import check_thresholds, parse_threshold
from indexer.config import IndexConfig, ModelConfig, Workspace
from indexer.corpus import Question, Split
from indexer.encoding import load_encoder
from indexer.files import hash_json
from indexer.readers import read_questions
from indexer.retrieval_metrics import retrieval_scores
from indexer.retriever import Retriever
from service.generation import LocalGenerator
from service.routes import Route
from tuner.leakage import check_leakage

RETRIEVAL_DEPTH = 10
"""How many chunks retrieval is scored on, whatever the routes show."""


def eval_run(
    workspace: Workspace,
    model: ModelConfig,
    settings: EvalConfig,
    routes: Mapping[str, Route],
    url: str | None,
    api_key: str | None,
    select: bool,
    fail_under: Sequence[str],
    only_plan: bool,
    repeats: int,
    as_json: bool,
    index_settings: IndexConfig,
) -> None:
    """Evaluate `routes` on the test questions, in this process or at `url`, and print the result.

    `select` chooses prompt options on the dev questions first (a service at `url` keeps its own); `only_plan`
    prints what would be done instead; `repeats` answers are drawn besides, with `eval.temperature`. Raises EvalError
    if it cannot be run as asked, BelowThreshold if the result is too low.
    """
    thresholds = [parse_threshold(text) for text in fail_under]
    with _opened(workspace, model, settings, routes, url, api_key, index_settings) as opened:
        if only_plan:
            _print_plan(workspace, opened, settings, select, as_json)
            return
        evaluation = _evaluate(workspace, model, opened, settings, select, repeats)
    click.echo(evaluation.result.model_dump_json(indent=2) if as_json else format_evaluation(evaluation))
    check_thresholds(evaluation.result, thresholds)


def eval_list(workspace: Workspace, as_json: bool) -> None:
    """Print every evaluation, the latest last."""
    found = list_evaluations(workspace)
    click.echo(
        json.dumps([one.model_dump(mode="json") for one in found], indent=2)
        if as_json
        else format_list(found)
    )


def eval_compare(workspace: Workspace, settings: EvalConfig, a: str, b: str, as_json: bool) -> None:
    """Print what changed from evaluation `a` to evaluation `b`, route by route."""
    questions = read_questions(workspace.resolve(settings.questions), None)
    folders = find_evaluation(workspace, a), find_evaluation(workspace, b)
    found = compare_evaluations(*folders, questions, settings)
    click.echo(found.model_dump_json(indent=2) if as_json else format_comparison(found))


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
            *taken_lines(result),
            *synthetic_line(result),
            *contrasts,
            "",
            f"Use {result.verdict.recommended}: {result.verdict.reason}",
            f"Report: {evaluation.folder / 'report.html'}",
        ]
    )


@dataclass(frozen=True, slots=True)
class _Opened:
    """What is ready to be evaluated; `local` is None for a service elsewhere."""

    asker: Asker
    routes: Mapping[str, Route]
    test: Sequence[Question]
    dev: Sequence[Question]
    local: LocalRoutes | None


@contextmanager
def _opened(
    workspace: Workspace,
    model: ModelConfig,
    settings: EvalConfig,
    routes: Mapping[str, Route],
    url: str | None,
    api_key: str | None,
    index_settings: IndexConfig,
) -> Iterator[_Opened]:
    if url is not None:
        questions = read_questions(workspace.resolve(settings.questions), None)
        test = _test_questions(questions, settings)
        with open_client(url, api_key) as client:
            asker = HttpAsker(client)
            yield _Opened(asker, asker.routes(), test, (), None)
        return
    most_examples = max([*EXAMPLES, *(route.examples for route in routes.values())])
    local = open_local(workspace, model, settings, routes, most_examples, index_settings)
    check_leakage(local.questions)
    test = _test_questions(local.questions, settings)
    dev = [question for question in local.questions if question.split is Split.DEV]
    yield _Opened(LocalAsker(local.answerer, local.setup), routes, test, dev, local)


def _evaluate(
    workspace: Workspace,
    model: ModelConfig,
    opened: _Opened,
    settings: EvalConfig,
    select: bool,
    repeats: int,
) -> Evaluation:
    asker, routes, earlier = opened.asker, opened.routes, _earlier(workspace)
    click.echo(_what_can_be_shown(opened.test, routes, settings, earlier), err=True)
    if select and opened.local is not None:
        routes = select_prompts(
            asker.answer_many,
            opened.dev,
            routes,
            settings.primary_metric,
            asker.setup,
            selection_path(workspace),
        )
    folder = _folder(workspace, opened.test, routes, settings, asker.setup)
    extras = Extras(
        retrieval=_retrieval_scores(opened.local.retriever if opened.local else None, opened.test),
        forgotten=known_forgetting(workspace, asker.setup),
        encoder=load_encoder(model.encoder) if settings.semantic else None,
        likelihoods=_gold_likelihoods(opened.local, opened.test, routes) if settings.gold_likelihood else {},
        oracle=_oracle(opened.local, opened.test) if settings.oracle and opened.local else None,
        repeats=_repeats(opened.local, repeats, settings.temperature) if repeats else None,
    )
    answers = [path / "answers.jsonl" for path in earlier]
    return evaluate(asker, opened.test, routes, folder, settings, extras, answers)


def _gold_likelihoods(
    local: LocalRoutes | None, test: Sequence[Question], routes: Mapping[str, Route]
) -> dict[str, Floats]:
    if local is None or not isinstance(local.answerer.generator, LocalGenerator):
        raise EvalError("eval.gold_likelihood needs the model in this process; set it to false")
    answerer, generator = local.answerer, local.answerer.generator
    answerable = [question for question in test if question.answerable]
    return {
        name: gold_log_likelihoods(answerer, generator, answerable, route) for name, route in routes.items()
    }


def _repeats(local: LocalRoutes | None, repeats: int, temperature: float) -> Repeats:
    if local is None:
        raise EvalError("--repeats draws answers in this process; leave out --url")
    if repeats < 2:
        raise EvalError(f"--repeats {repeats} tells nothing of variance; use 2 or more")
    askers = [SampledAsker(local.answerer, local.setup, temperature, n) for n in range(repeats)]
    return Repeats(askers, temperature)


def _oracle(local: LocalRoutes, test: Sequence[Question]) -> Oracle | None:
    if local.retriever is None:
        return None
    gold = gold_chunks(test, local.retriever.snapshot.all_chunks())
    answerer = with_gold_passages(local.answerer, local.retriever.generation, gold)
    known = [question for question in test if question.text in gold and question.answerable]
    return Oracle(LocalAsker(answerer, local.setup), known) if known else None


def _print_plan(
    workspace: Workspace, opened: _Opened, settings: EvalConfig, select: bool, as_json: bool
) -> None:
    asker, routes, metric = opened.asker, opened.routes, settings.primary_metric
    searches = select and opened.local is not None
    if searches:
        routes = load_selection(selection_path(workspace), opened.dev, routes, metric, asker.setup)
    found = plan(asker, opened.test, routes, settings, _earlier(workspace))
    click.echo(found.model_dump_json(indent=2) if as_json else format_plan(found))
    if searches and not as_json:
        click.echo("prompts are chosen on dev first where that was not done yet; it is not counted here")


def _earlier(workspace: Workspace) -> list[Path]:
    """Folders of earlier evaluations, the latest last."""
    return [path.parent for path in sorted(workspace.evaluations.glob("*/answers.jsonl"), key=_changed)]


def _changed(path: Path) -> float:
    return path.stat().st_mtime


def _what_can_be_shown(
    test: Sequence[Question], routes: Mapping[str, Route], settings: EvalConfig, earlier: Sequence[Path]
) -> str:
    answerable = [question for question in test if question.answerable]
    documents = len({cluster_of(question) for question in answerable})
    asked = f"{len(answerable)} answerable test questions about {documents} documents"
    effects, source = detectable_effects(answerable, routes, settings, earlier)
    known = [f"{effect:.2f} ({pair})" for pair, effect in effects.items() if effect is not None]
    if not known:
        return f"{asked}: routes cannot be told apart on fewer than 2 documents"
    return (
        f"{asked}: expect to find differences of {settings.primary_metric} from {', '.join(known)}, "
        f"judged by {source} (margin {settings.margin:g})"
    )


def _retrieval_scores(retriever: Retriever | None, questions: Sequence[Question]) -> dict[str, float]:
    if retriever is None:
        return {}
    hits = retriever.search([question.text for question in questions], RETRIEVAL_DEPTH)
    rankings = [(q, [hit.chunk for hit in found]) for q, found in zip(questions, hits, strict=True)]
    return retrieval_scores(rankings)


def _test_questions(questions: Sequence[Question], settings: EvalConfig) -> list[Question]:
    test = [question for question in questions if question.split is Split.TEST]
    if not test:
        raise EvalError(
            f"none of the {len(questions)} questions in {settings.questions} is a test question; "
            'give some `"split": "test"`'
        )
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
