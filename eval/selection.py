"""Choosing each route's prompt options on the dev questions, so that no route loses to a better-tuned rival.

Routes without an adapter may change style, solved examples and k; an adapter's prompt is the one it was
trained with, so its routes may change only k. Successive halving keeps the search short: all candidates
answer a few questions, the better ones more, the best two all of them. Test questions play no part.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from eval.answers import AnswerMany
from eval.asking import BATCH
from eval.config import PrimaryMetric
from eval.provenance import Setup, questions_hash
from eval.scoring import metric_scores
from indexer.corpus import Question
from indexer.files import hash_json, write_atomically
from indexer.progress import progress
from service.answer import Answer
from service.routes import Route
from tuner.prompt import STYLES, prompt_hash

log = logging.getLogger("openbook.eval")

PROMPTS = tuple(style for style in STYLES if style != "trained")
EXAMPLES = (0, 3)
CONTEXTS = (1, 3)
STEPS = (6, 3, 1)
"""Rounds of the search: every sixth question (so that all documents take part), every third, all."""
GO_ON = 3
"""One candidate in three reaches the next round, but never fewer than two."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Candidate(_Section):
    """Prompt options and how they did on the dev questions (`n` of them)."""

    prompt: str
    examples: int
    k: int
    n: int
    score: float
    prompt_tokens: float


class RouteSelection(_Section):
    """What was chosen for a route, from what, and the identity of everything that the choice depends on."""

    fit: str
    chosen: Candidate
    candidates: list[Candidate]
    answers: int
    """The search budget spent: how many dev questions were answered."""


class Selection(_Section):
    """`selection.json`."""

    schema_version: Literal[1] = 1
    metric: PrimaryMetric
    routes: dict[str, RouteSelection]

    def apply(self, routes: Mapping[str, Route]) -> dict[str, Route]:
        """The routes with the options chosen for them; those that nothing was chosen for stay as they are."""
        return {
            name: _with_options(route, self.routes[name].chosen) if name in self.routes else route
            for name, route in routes.items()
        }


@dataclass(frozen=True, slots=True)
class _Trial:
    """A candidate route and its answers so far, by question id."""

    route: Route
    answers: dict[str, Answer]


def select_prompts(
    answer_many: AnswerMany,
    dev_questions: Sequence[Question],
    routes: Mapping[str, Route],
    metric: PrimaryMetric,
    setup: Setup,
    path: Path,
) -> dict[str, Route]:
    """The routes with their best options on `dev_questions`.

    The search is kept in `path` and not repeated while what it depends on stays the same. Only answerable
    questions count; without any, the routes stay as they are.
    """
    questions = [question for question in dev_questions if question.answerable]
    if not questions:
        log.warning("no answerable dev questions: the routes keep the prompt options they have")
        return dict(routes)
    known = _fitting(path, dev_questions, routes, metric, setup)
    for name, route in routes.items():
        if name not in known:
            fit = _fit(route, dev_questions, metric, setup)
            known[name] = _search(answer_many, questions, route, metric, fit)
            kept = Selection(metric=metric, routes={**_kept(path), **known})
            write_atomically(path, kept.model_dump_json(indent=2) + "\n")
    return Selection(metric=metric, routes=known).apply(routes)


def load_selection(
    path: Path,
    dev_questions: Sequence[Question],
    routes: Mapping[str, Route],
    metric: PrimaryMetric,
    setup: Setup,
) -> dict[str, Route]:
    """The routes with the options chosen for them, where what these were chosen on is still the same."""
    return Selection(metric=metric, routes=_fitting(path, dev_questions, routes, metric, setup)).apply(routes)


def candidates(route: Route) -> list[Route]:
    """The declared grid for a route, and the route as it is configured."""
    prompts = PROMPTS if route.adapter is None else (route.prompt,)
    examples = EXAMPLES if route.adapter is None else (route.examples,)
    contexts = CONTEXTS if route.retrieve else (route.k,)
    grid = [replace(route, prompt=p, examples=e, k=k) for p, e, k in product(prompts, examples, contexts)]
    return grid if route in grid else [route, *grid]


def _search(
    answer_many: AnswerMany, questions: Sequence[Question], route: Route, metric: PrimaryMetric, fit: str
) -> RouteSelection:
    trials = [_Trial(candidate, {}) for candidate in candidates(route)]
    running = trials
    for number, step in enumerate(STEPS if len(trials) > 1 else (), start=1):
        asked = questions[::step]
        _answer(answer_many, running, asked, f"prompts for {route.name}, round {number} of {len(STEPS)}")
        running = sorted(running, key=lambda trial: _rank(trial, questions, metric))
        running = running[: max(2, math.ceil(len(running) / GO_ON))]
    best = running[0]
    return RouteSelection(
        fit=fit,
        chosen=_candidate(best, questions, metric),
        candidates=[_candidate(trial, questions, metric) for trial in trials],
        answers=sum(len(trial.answers) for trial in trials),
    )


def _answer(
    answer_many: AnswerMany, trials: Sequence[_Trial], questions: Sequence[Question], description: str
) -> None:
    """Have every trial answer those of the questions that it has not answered yet."""
    missing = {id(trial): [q for q in questions if q.id not in trial.answers] for trial in trials}
    with progress(description, sum(map(len, missing.values()))) as advance:
        for trial in trials:  # one at a time: prompts of one candidate share their instructions and examples
            for start in range(0, len(missing[id(trial)]), BATCH):
                batch = missing[id(trial)][start : start + BATCH]
                given = answer_many([(question.text, trial.route) for question in batch])
                trial.answers.update({q.id: answer for q, answer in zip(batch, given, strict=True)})
                advance(len(batch))


def _rank(trial: _Trial, questions: Sequence[Question], metric: PrimaryMetric) -> tuple[float, float]:
    """Best score first, fewer prompt tokens among equals."""
    judged = _candidate(trial, questions, metric)
    return -judged.score, judged.prompt_tokens


def _candidate(trial: _Trial, questions: Sequence[Question], metric: PrimaryMetric) -> Candidate:
    answered = [question for question in questions if question.id in trial.answers]
    answers = [trial.answers[question.id] for question in answered]
    n = len(answered)
    return Candidate(
        prompt=trial.route.prompt,
        examples=trial.route.examples,
        k=trial.route.k,
        n=n,
        score=float(metric_scores(metric, answered, answers).mean()) if n else 0.0,
        prompt_tokens=sum(answer.prompt_tokens for answer in answers) / n if n else 0.0,
    )


def _fitting(
    path: Path,
    dev_questions: Sequence[Question],
    routes: Mapping[str, Route],
    metric: PrimaryMetric,
    setup: Setup,
) -> dict[str, RouteSelection]:
    """The kept searches that were made with these questions, models, corpus and configured routes."""
    kept = _kept(path)
    return {
        name: kept[name]
        for name, route in routes.items()
        if name in kept and kept[name].fit == _fit(route, dev_questions, metric, setup)
    }


def _kept(path: Path) -> dict[str, RouteSelection]:
    if not path.exists():
        return {}
    try:
        return Selection.model_validate_json(path.read_bytes()).routes
    except ValidationError:
        log.warning("%s is of another version and is not used", path.name)
        return {}


def _fit(route: Route, dev_questions: Sequence[Question], metric: PrimaryMetric, setup: Setup) -> str:
    # Not of the documents: an edit of one of them is no reason to search again, or to serve worse options.
    return hash_json(
        [
            asdict(route),
            setup.base_model_hash,
            setup.adapter_hashes.get(route.name),
            questions_hash(dev_questions),
            metric,
            prompt_hash(),
            [PROMPTS, EXAMPLES, CONTEXTS, STEPS, GO_ON],
        ]
    )


def _with_options(route: Route, chosen: Candidate) -> Route:
    return replace(route, prompt=chosen.prompt, examples=chosen.examples, k=chosen.k)
