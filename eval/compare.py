"""Evaluations on disk: which there are, and what changed from one to another."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from eval.answers import EvalError, read_answers
from eval.config import EvalConfig
from eval.measuring import cluster_of
from eval.result import EvaluationResult, load_result
from eval.scoring import metric_scores
from eval.statistics import ContrastVerdict, contrasts
from indexer.config import Workspace
from indexer.corpus import Question
from service.answer import Answer

RESULT, ANSWERS = "result.json", "answers.jsonl"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True)


class Listed(_Section):
    """One evaluation; unfinished ones have answers but no result yet."""

    name: str
    changed: str
    answers: int
    routes: list[str]
    recommended: str | None
    score: float | None
    metric: str | None


class RouteChange(_Section):
    """One route's answers in both evaluations, paired by question: mean scores, and B minus A."""

    route: str
    a: float
    b: float
    difference: float
    ci: tuple[float, float]
    p: float
    p_holm: float
    verdict: ContrastVerdict


class RunComparison(_Section):
    """What changed from evaluation `a` to `b`; intervals hold for all routes at once."""

    a: str
    b: str
    metric: str
    questions: int
    documents: int
    routes: list[RouteChange]
    changed_setup: list[str]


def list_evaluations(workspace: Workspace) -> list[Listed]:
    """Every evaluation of a workspace, the latest last."""
    return sorted(_listed(workspace), key=lambda one: one.changed)


def find_evaluation(workspace: Workspace, ref: str) -> Path:
    """The folder that `ref` names: a path, or the first letters of a name that `eval list` shows."""
    if (Path(ref) / ANSWERS).is_file():
        return Path(ref)
    matches = [path.parent for path in workspace.evaluations.glob(f"{glob_safe(ref)}*/{ANSWERS}")]
    if len(matches) != 1:
        known = ", ".join(one.name for one in list_evaluations(workspace)) or "none yet"
        what = "no evaluation" if not matches else "more than one evaluation"
        raise EvalError(f"{what} is called {ref!r}; known: {known} (`openbook eval list`)")
    return matches[0]


def compare_evaluations(
    a: Path, b: Path, questions: Sequence[Question], settings: EvalConfig
) -> RunComparison:
    """Pair the answers of both by question, on the answerable ones that both were asked."""
    answers_a, answers_b = _answers(a), _answers(b)
    routes = [route for route in answers_a if route in answers_b]
    if not routes:
        raise EvalError(
            f"{a.name} and {b.name} have no route in common: "
            f"{', '.join(answers_a) or 'none'} and {', '.join(answers_b) or 'none'}"
        )
    shared = [
        question
        for question in questions
        if question.answerable
        and all(_said(given[route], question) for given in (answers_a, answers_b) for route in routes)
    ]
    if not shared:
        raise EvalError(
            f"{a.name} and {b.name} have no answered question in common with the questions of now"
        )
    metric = settings.primary_metric
    scores = {
        f"{side} {route}": metric_scores(metric, shared, [given[route][q.id] for q in shared])
        for side, given in (("a", answers_a), ("b", answers_b))
        for route in routes
    }
    clusters = [cluster_of(question) for question in shared]
    pairs = [(f"b {route}", f"a {route}") for route in routes]
    rng = np.random.default_rng(settings.seed)
    tested = contrasts(scores, clusters, pairs, settings.margin, settings.resamples, rng)
    return RunComparison(
        a=a.name,
        b=b.name,
        metric=metric,
        questions=len(shared),
        documents=len(set(clusters)),
        routes=[
            RouteChange(
                route=route,
                a=float(scores[f"a {route}"].mean()),
                b=float(scores[f"b {route}"].mean()),
                difference=one.difference.value,
                ci=(one.difference.low, one.difference.high),
                p=one.p,
                p_holm=one.p_holm,
                verdict=one.verdict,
            )
            for route, one in zip(routes, tested, strict=True)
        ],
        changed_setup=_changed_setup(_result(a), _result(b)),
    )


def format_comparison(found: RunComparison) -> str:
    """The comparison for people."""
    return "\n".join(
        [
            f"{found.b} against {found.a}: {found.metric} on {found.questions} questions "
            f"about {found.documents} documents",
            *(
                f"  {r.route}: {r.a:.3f} -> {r.b:.3f}, {r.difference:+.3f} "
                f"[{r.ci[0]:+.3f}, {r.ci[1]:+.3f}], {r.verdict}"
                for r in found.routes
            ),
            f"changed: {', '.join(found.changed_setup) or 'nothing that is recorded'}",
        ]
    )


def format_list(evaluations: Sequence[Listed]) -> str:
    """A line an evaluation."""
    if not evaluations:
        return "no evaluations yet; run `openbook eval`"
    return "\n".join(
        f"{one.name}  {one.changed}  "
        + (
            "not finished"
            if one.recommended is None
            else f"use {one.recommended} ({one.metric} {one.score:.3f})"
        )
        + f", {one.answers} answers of {', '.join(one.routes)}"
        for one in evaluations
    )


def glob_safe(text: str) -> str:
    """`text` without what a file pattern would take for more than itself."""
    return "".join(letter for letter in text if letter.isalnum() or letter in "-_")


def _listed(workspace: Workspace) -> Iterator[Listed]:
    for path in workspace.evaluations.glob(f"*/{ANSWERS}"):
        result = _result(path.parent)
        answers = _answers(path.parent)
        recommended = result.verdict.recommended if result else None
        metric = str(result.provenance.settings["primary_metric"]) if result else None
        changed = datetime.datetime.fromtimestamp(path.stat().st_mtime).astimezone()
        yield Listed(
            name=path.parent.name,
            changed=changed.isoformat(sep=" ", timespec="seconds"),
            answers=sum(map(len, answers.values())),
            routes=list(answers),
            recommended=recommended,
            score=result.routes[recommended].metrics[metric].mean
            if result and recommended and metric
            else None,
            metric=metric,
        )


def _answers(folder: Path) -> dict[str, dict[str, Answer]]:
    """By route and question id."""
    found: dict[str, dict[str, Answer]] = {}
    for record in read_answers(folder / ANSWERS).values():
        found.setdefault(record.route_name, {})[record.question_id] = record.answer
    return found


def _said(answers: Mapping[str, Answer], question: Question) -> bool:
    """Whether there is an answer to the question as it reads now."""
    answer = answers.get(question.id)
    return answer is not None and answer.question == question.text


def _result(folder: Path) -> EvaluationResult | None:
    try:
        return load_result(folder / RESULT)
    except EvalError:
        return None


def _changed_setup(a: EvaluationResult | None, b: EvaluationResult | None) -> list[str]:
    """Which parts of the provenance differ."""
    if a is None or b is None:
        return []
    before, after = a.provenance.model_dump(), b.provenance.model_dump()
    return [key for key in before if before[key] != after[key]]
