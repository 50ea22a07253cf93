"""Training the router behind `auto`: which route to take for a question, learnt from dev answers alone.

A ridge regression estimates each route's primary score from what is known before a question is answered. How strongly
its weights are held back, and whether the base model's confidence is worth asking for, is chosen by cross-validation
over whole documents; what is more complicated must gain more than chance does. Test questions play no part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval.answers import EvalError
from eval.measuring import cluster_of
from eval.statistics import Floats, clustered_standard_error
from indexer.corpus import Question, Split
from indexer.files import hash_text
from service.router import Facts, confidence_facts

FOLDS = 5
PENALTIES = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1)
"""On weights of standardised facts, in units of a question's squared error; the strongest first."""


@dataclass(frozen=True, slots=True)
class Lessons:
    """Answerable questions, what was known of each before it was answered, and how every route did."""

    questions: Sequence[Question]
    facts: Sequence[Facts]
    scores: Mapping[str, Floats]
    """By route, the cheapest first: it is taken among equals."""

    def part(self, places: Sequence[int]) -> Lessons:
        """Some of the questions."""
        return Lessons(
            [self.questions[place] for place in places],
            [self.facts[place] for place in places],
            {name: values[list(places)] for name, values in self.scores.items()},
        )

    @property
    def clusters(self) -> list[str]:
        """The document of every question."""
        return [cluster_of(question) for question in self.questions]

    def best_route(self) -> str:
        """The route to take if it has to be one for all questions."""
        return list(self.scores)[int(self.table_of_scores().mean(axis=0).argmax())]

    def table_of_scores(self) -> Floats:
        """[questions, routes]."""
        return np.stack(list(self.scores.values()), axis=1)


class Setting(NamedTuple):
    """The facts that are used and the penalty on their weights; without facts, one route is always taken."""

    facts: tuple[str, ...]
    penalty: float

    @property
    def asks_base(self) -> bool:
        """Whether the base model has to start an answer first."""
        return bool(set(self.facts) & set(confidence_facts(None)))


ALWAYS_BEST = Setting((), 0.0)


class Linear(NamedTuple):
    """Estimated scores: `intercepts + (facts - means) / scales @ weights`, weights [facts, routes]."""

    means: Floats
    scales: Floats
    weights: Floats
    intercepts: Floats

    def choose(self, facts: Floats) -> NDArray[np.intp]:
        """The place of the route with the highest estimate for each row of `facts`."""
        estimates: Floats = (facts - self.means) / self.scales @ self.weights + self.intercepts
        places: NDArray[np.intp] = estimates.argmax(axis=1)
        return places


class Tried(NamedTuple):
    """A setting, and the mean score of the routes it took for questions about documents held out of its training."""

    setting: Setting
    score: float


@dataclass(frozen=True, slots=True)
class Training:
    """A trained router.

    `cross_validated` is the mean score of the whole procedure, choice of setting included, on documents held out.
    """

    setting: Setting
    linear: Linear
    tried: Sequence[Tried]
    cross_validated: float


def train(lessons: Lessons) -> Training:
    """Learn from dev questions; the same lessons give the same router. Raises EvalError."""
    _require_dev(lessons)
    setting, tried = _choose_setting(lessons)
    return Training(setting, _fit(lessons, setting), tried, float(_scores_of_procedure(lessons).mean()))


def fold_of(questions: Sequence[Question]) -> NDArray[np.intp]:
    """A fold for every question: whole documents, folds of about the same number of questions."""
    sizes = Counter(map(cluster_of, questions))
    loads = [0] * min(FOLDS, len(sizes))
    fold: dict[str, int] = {}
    for cluster in sorted(sizes, key=lambda name: (-sizes[name], hash_text(name))):
        fold[cluster] = loads.index(min(loads))
        loads[fold[cluster]] += sizes[cluster]
    return np.array([fold[cluster_of(question)] for question in questions])


def _require_dev(lessons: Lessons) -> None:
    foreign = [question for question in lessons.questions if question.split is not Split.DEV]
    if foreign:
        raise EvalError(
            f"question {foreign[0].id} is a {foreign[0].split} question; routers are trained on dev only"
        )
    if len(set(lessons.clusters)) < 2:
        raise EvalError(
            f"{len(lessons.questions)} answerable dev questions about {len(set(lessons.clusters))} documents are too "
            'few to train a router; give questions about two documents or more `"split": "dev"`'
        )
    if len(lessons.scores) < 2:
        raise EvalError(f"there is only route {', '.join(lessons.scores)} to take; name two or more")


def _choose_setting(lessons: Lessons) -> tuple[Setting, list[Tried]]:
    """The best setting; one that uses more must gain more than a standard error over one that uses less."""
    clusters = lessons.clusters
    chosen = ALWAYS_BEST
    held_out = {chosen: _held_out_scores(lessons, chosen)}
    for group in _settings(lessons):
        held_out |= {setting: _held_out_scores(lessons, setting) for setting in group}
        rival = max(group, key=lambda setting: float(held_out[setting].mean()))
        gain = held_out[rival] - held_out[chosen]
        if gain.mean() > clustered_standard_error(gain, clusters):
            chosen = rival
    return chosen, [Tried(setting, float(scores.mean())) for setting, scores in held_out.items()]


def _settings(lessons: Lessons) -> list[list[Setting]]:
    """Those to be tried: without the base model's confidence, then with it."""
    known = tuple(lessons.facts[0])
    free = tuple(name for name in known if name not in confidence_facts(None))
    return [[Setting(facts, penalty) for penalty in PENALTIES] for facts in dict.fromkeys((free, known))]


def _held_out_scores(lessons: Lessons, setting: Setting) -> Floats:
    """For every question, the score of the route that a router trained on the other folds takes."""
    scores = np.zeros(len(lessons.questions))
    for inside, outside in _folds(lessons.questions):
        scores[outside] = _scores(_fit(lessons.part(inside), setting), setting, lessons.part(outside))
    return scores


def _scores_of_procedure(lessons: Lessons) -> Floats:
    """As `_held_out_scores`, with the setting chosen anew in each fold, so that its choice gains nothing."""
    scores = np.zeros(len(lessons.questions))
    for inside, outside in _folds(lessons.questions):
        seen = lessons.part(inside)
        setting = _choose_setting(seen)[0] if len(set(seen.clusters)) > 1 else ALWAYS_BEST
        scores[outside] = _scores(_fit(seen, setting), setting, lessons.part(outside))
    return scores


def _folds(questions: Sequence[Question]) -> Iterator[tuple[list[int], list[int]]]:
    """Places to train on and places held out, for each fold."""
    fold = fold_of(questions)
    for number in range(fold.max() + 1):
        yield np.flatnonzero(fold != number).tolist(), np.flatnonzero(fold == number).tolist()


def _scores(linear: Linear, setting: Setting, lessons: Lessons) -> Floats:
    taken = linear.choose(_table(lessons, setting))
    return lessons.table_of_scores()[np.arange(len(taken)), taken]


def _fit(lessons: Lessons, setting: Setting) -> Linear:
    """Ridge regression of every route's score on standardised facts (Hoerl and Kennard, 1970)."""
    facts = _table(lessons, setting)
    scores = lessons.table_of_scores()
    means, spread, intercepts = facts.mean(axis=0), facts.std(axis=0), scores.mean(axis=0)
    scales = np.where(spread > 1e-9, spread, 1.0)
    units = (facts - means) / scales
    moments = units.T @ units / len(units) + setting.penalty * np.eye(units.shape[1])
    weights = np.linalg.solve(moments, units.T @ (scores - intercepts) / len(units))
    return Linear(means, scales, weights, intercepts)


def _table(lessons: Lessons, setting: Setting) -> Floats:
    """[questions, facts]."""
    rows = [[facts[name] for name in setting.facts] for facts in lessons.facts]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(setting.facts))
