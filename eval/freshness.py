"""How routes answer once documents change: with the old fact or the new one, how soon, and at what cost."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from eval.changes import Change, questions_of
from eval.config import EvalConfig, Prices
from eval.measuring import measure
from eval.metrics.containment import containment
from eval.metrics.normalise import normalised_tokens
from eval.result import Measure, Provenance
from eval.scoring import metric_scores
from eval.scratch import Applied
from eval.statistics import Floats, paired_difference
from service.answer import Answer
from service.routes import Route
from tuner.registry import AdapterVersion

ENOUGH = 0.8
"""A route is fresh if it gives at least this share of the right answers that it gave before the changes."""

State = Literal["fresh", "partly", "stale", "unaffected"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Soonness(_Section):
    """Seconds from the edit to a right answer that is asked for as soon as it can be, over the `n` right ones."""

    n: int
    median: float
    longest: float


class Moment(_Section):
    """What a route says at one time: shares of answers that hold the old fact and the new one.

    `score` is the primary metric against the answer that is right at that time; `seconds` is None before the changes,
    and where no answer is right.
    """

    old: Measure
    new: Measure
    score: Measure
    seconds: Soonness | None


class RouteFreshness(_Section):
    """One route before the changes, once the index has them, and, if asked for, once its adapter has them too.

    `kept` is `after.new` divided by `before.old`, the normal share of right answers (None if that is 0), `change` the
    one less the other, paired by question; `unchanged` the share of answers that are the very same after as before.
    """

    before: Moment
    after: Moment
    retrained: Moment | None
    kept: float | None
    change: Measure
    unchanged: float
    state: State


class SyncCost(_Section):
    """Bringing the index up to date."""

    seconds: float
    documents: int
    chunks_embedded: int
    tokens_embedded: int
    cost: float


class AdapterFreshness(_Section):
    """An adapter that the changes did not reach, and what its training took; None where nobody says."""

    routes: list[str]
    changed_documents: int | None
    """How many of the documents it was trained on are no longer as it saw them."""
    training_seconds: float | None
    training_tokens: int | None
    training_cost: float | None


class Retraining(_Section):
    """Training on the changed documents, done for once; `seconds` is all of it, loading and scoring on dev included."""

    adapter: str
    seconds: float
    tokens: int
    cost: float
    questions_left_out: int
    """Those whose answer the changes made wrong, and those that are nearly a question of the changes."""


class ChangeAnswers(_Section):
    """One change with every route's answers."""

    id: str
    document_id: str
    question: str
    answer_before: str
    answer_after: str
    learned: bool
    """Whether the question, or nearly that one, stands in train or dev."""
    before: dict[str, str]
    after: dict[str, str]
    retrained: dict[str, str]


class FreshnessResult(_Section):
    """`freshness.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True, validate_by_name=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    n: int
    metric: str
    currency: str
    sync: SyncCost
    routes: dict[str, RouteFreshness]
    adapters: dict[str, AdapterFreshness]
    """By `name@version`."""
    retraining: Retraining | None
    changes: list[ChangeAnswers]
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class Asked:
    """Every route's answers to the questions of the changes, in order, asked one at a time.

    `waited` is the seconds from the edit until they could be asked.
    """

    answers: Mapping[str, Sequence[Answer]]
    waited: float | None = None


def route_freshness(
    routes: Mapping[str, Route],
    changes: Sequence[Change],
    before: Asked,
    after: Asked,
    retrained: Asked | None,
    settings: EvalConfig,
) -> dict[str, RouteFreshness]:
    """What became of each route's answers."""

    def judged(name: str) -> RouteFreshness:
        first = _moment(name, changes, before, settings, changed=False)
        then = _moment(name, changes, after, settings, changed=True)
        kept = then.new.mean / first.old.mean if first.old.mean else None
        pairs = zip(before.answers[name], after.answers[name], strict=True)
        unchanged = sum(a.answer == b.answer for a, b in pairs) / len(changes)
        return RouteFreshness(
            before=first,
            after=then,
            retrained=_moment(name, changes, retrained, settings, changed=True)
            if retrained is not None and name in retrained.answers
            else None,
            kept=kept,
            change=_change(changes, before.answers[name], after.answers[name], settings),
            unchanged=unchanged,
            state=_state(routes[name], kept, unchanged),
        )

    return {name: judged(name) for name in routes}


def sync_cost(applied: Applied, prices: Prices) -> SyncCost:
    """What the changes cost a route that retrieves."""
    return SyncCost(
        seconds=applied.seconds,
        documents=applied.documents,
        chunks_embedded=applied.chunks_embedded,
        tokens_embedded=applied.tokens_embedded,
        cost=applied.seconds / 3600 * prices.machine_hour,
    )


def adapter_freshness(
    adapter: AdapterVersion, routes: Sequence[str], changed_documents: int | None, prices: Prices
) -> AdapterFreshness:
    """What the changes cost a route that has the documents in its weights, by the adapter's last training."""
    seconds = adapter.manifest.seconds or None  # 0 if it was trained elsewhere
    return AdapterFreshness(
        routes=list(routes),
        changed_documents=changed_documents,
        training_seconds=seconds,
        training_tokens=adapter.manifest.tokens or None,
        training_cost=None if seconds is None else training_cost(seconds, prices),
    )


def training_cost(seconds: float, prices: Prices) -> float:
    """Of a training that took so long."""
    return seconds / 3600 * prices.training_hour


def change_answers(
    changes: Sequence[Change],
    learned: Collection[str],
    before: Asked,
    after: Asked,
    retrained: Asked | None,
) -> list[ChangeAnswers]:
    """Every change with what was said."""

    def said(asked: Asked | None, place: int) -> dict[str, str]:
        return {} if asked is None else {name: given[place].answer for name, given in asked.answers.items()}

    return [
        ChangeAnswers(
            id=change.id,
            document_id=change.document_id,
            question=change.question,
            answer_before=change.answer_before,
            answer_after=change.answer_after,
            learned=change.id in learned,
            before=said(before, place),
            after=said(after, place),
            retrained=said(retrained, place),
        )
        for place, change in enumerate(changes)
    ]


def says(answer: str, wanted: str, other: str) -> bool:
    """Whether an answer holds the fact `wanted`: all its words that `other` has not, as in "1,860" of "1,860 marks".

    Where `other` has them all ("6" and "6 or 7"), `wanted` must stand there word for word, and `other` must not.
    """
    telling = set(normalised_tokens(wanted)) - set(normalised_tokens(other))
    if telling:
        return telling <= set(normalised_tokens(answer))
    return bool(containment(answer, [wanted])) and not containment(answer, [other])


def _moment(
    name: str, changes: Sequence[Change], asked: Asked, settings: EvalConfig, changed: bool
) -> Moment:
    answers = asked.answers[name]
    questions = questions_of(changes, after=changed)
    old, new = _hold_old(changes, answers), _hold_new(changes, answers)
    right = [answer for answer, is_right in zip(answers, new, strict=True) if is_right]
    return Moment(
        old=measure(old, questions, settings),
        new=measure(new, questions, settings),
        score=measure(metric_scores(settings.primary_metric, questions, answers), questions, settings),
        seconds=None if asked.waited is None else _soonness(asked.waited, right),
    )


def _change(
    changes: Sequence[Change], before: Sequence[Answer], after: Sequence[Answer], settings: EvalConfig
) -> Measure:
    gained = _hold_new(changes, after) - _hold_old(changes, before)
    rng = np.random.default_rng(settings.seed)
    found, _ = paired_difference(gained, [c.document_id for c in changes], settings.resamples, rng)
    return Measure(mean=found.value, ci=(found.low, found.high))


def _hold_old(changes: Sequence[Change], answers: Sequence[Answer]) -> Floats:
    """1 for every answer with the fact before the change, else 0."""
    pairs = zip(changes, answers, strict=True)
    return np.array([says(a.answer, c.answer_before, c.answer_after) for c, a in pairs], dtype=np.float64)


def _hold_new(changes: Sequence[Change], answers: Sequence[Answer]) -> Floats:
    """1 for every answer with the fact after the change, else 0."""
    pairs = zip(changes, answers, strict=True)
    return np.array([says(a.answer, c.answer_after, c.answer_before) for c, a in pairs], dtype=np.float64)


def _soonness(waited: float, right: Sequence[Answer]) -> Soonness | None:
    if not right:
        return None
    seconds = [waited + answer.timings_ms.total / 1000 for answer in right]
    return Soonness(n=len(seconds), median=float(np.median(seconds)), longest=max(seconds))


def _state(route: Route, kept: float | None, unchanged: float) -> State:
    if not route.retrieve and route.adapter is None:
        return "unaffected"  # it knows nothing of the documents, neither before nor after
    if kept is not None and kept >= ENOUGH:
        return "fresh"
    return "stale" if unchanged == 1 else "partly"
