"""`router.json`: how `auto` does on test beside every single route and the best choice that could be made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from eval.config import EvalConfig
from eval.markdown import aligned_table, measure_text
from eval.measuring import measure
from eval.result import ContrastResult, Measure, Provenance
from eval.router import Lessons, Training
from eval.scoring import contrast_result
from eval.statistics import Floats, contrasts
from service.router import TrainedRouter
from service.routes import AUTO

ORACLE = "best for each question"
"""The oracle router, which knows the scores: no router can do better."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WayResult(_Section):
    """A way to answer all test questions; `taken` is the share of them for which `auto` takes this route.

    Tokens and seconds are means a question, those of the probe among `auto`'s.
    """

    score: Measure
    tokens: float | None
    seconds: float | None
    taken: float | None


class TriedSetting(_Section):
    """What cross-validation on dev says of a setting; without facts it always takes the best route."""

    facts: int
    asks_base: bool
    penalty: float
    score: float


class DevResult(_Section):
    """What the router was trained on; `cross_validated` is its score on documents held out of its training."""

    questions: int
    documents: int
    facts: int
    asks_base: bool
    penalty: float
    cross_validated: float
    always_best: float


class RouterResult(_Section):
    """The whole of `router.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True, validate_by_name=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    sentence: str
    pays: bool
    metric: str
    margin: float
    test_questions: int
    test_documents: int
    best_on_dev: str
    test: dict[str, WayResult]
    contrast: ContrastResult
    """`auto` minus the route that was best on dev."""
    dev: DevResult
    weights: dict[str, dict[str, float]]
    """By route, what a standard deviation more of a fact adds to its estimated score."""
    tried: list[TriedSetting]
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class Spent:
    """Tokens and seconds of every answer, by route, and of the probe a question."""

    tokens: Mapping[str, Floats]
    seconds: Mapping[str, Floats]
    probe_tokens: float
    probe_seconds: float


def router_result(
    model: TrainedRouter,
    training: Training,
    dev: Lessons,
    test: Lessons,
    spent: Spent,
    settings: EvalConfig,
    provenance: Provenance,
) -> RouterResult:
    """Score the trained router on test questions, as it would be served."""
    best = dev.best_route()
    taken = [model.choose(facts) for facts in test.facts]
    auto = taken_values(test.scores, taken)
    ceiling = test.table_of_scores().max(axis=1)
    contrast = _contrast(auto, best, test, settings) if model.facts else _no_difference(best, settings)

    def way(scores: Floats, tokens: float | None, seconds: float | None, share: float | None) -> WayResult:
        return WayResult(
            score=measure(scores, test.questions, settings), tokens=tokens, seconds=seconds, taken=share
        )

    ways = {
        name: way(
            scores,
            float(spent.tokens[name].mean()),
            float(spent.seconds[name].mean()),
            taken.count(name) / len(taken),
        )
        for name, scores in test.scores.items()
    }
    ways[AUTO] = way(
        auto,
        float(taken_values(spent.tokens, taken).mean()) + spent.probe_tokens,
        float(taken_values(spent.seconds, taken).mean()) + spent.probe_seconds,
        None,
    )
    ways[ORACLE] = way(ceiling, None, None, None)
    return RouterResult(
        sentence=sentence(contrast, ways, model, settings.margin),
        pays=contrast.verdict == "better",
        metric=settings.primary_metric,
        margin=settings.margin,
        test_questions=len(test.questions),
        test_documents=len(set(test.clusters)),
        best_on_dev=best,
        test=ways,
        contrast=contrast,
        dev=DevResult(
            questions=len(dev.questions),
            documents=len(set(dev.clusters)),
            facts=len(training.setting.facts),
            asks_base=training.setting.asks_base,
            penalty=training.setting.penalty,
            cross_validated=training.cross_validated,
            always_best=float(dev.scores[best].mean()),
        ),
        weights={
            name: dict(zip(model.facts, weights, strict=True)) for name, weights in model.weights.items()
        },
        tried=[
            TriedSetting(
                facts=len(one.setting.facts),
                asks_base=one.setting.asks_base,
                penalty=one.setting.penalty,
                score=one.score,
            )
            for one in training.tried
        ],
        provenance=provenance,
    )


def _contrast(auto: Floats, best: str, test: Lessons, settings: EvalConfig) -> ContrastResult:
    scores, rng = {AUTO: auto, best: test.scores[best]}, np.random.default_rng(settings.seed)
    [tested] = contrasts(scores, test.clusters, [(AUTO, best)], settings.margin, settings.resamples, rng)
    return contrast_result(tested, settings.primary_metric)


def _no_difference(best: str, settings: EvalConfig) -> ContrastResult:
    """Of a router that always takes `best`: by its making, not only on these questions."""
    return ContrastResult(
        a=AUTO,
        b=best,
        metric=settings.primary_metric,
        difference=0.0,
        ci=(0.0, 0.0),
        p=1.0,
        p_holm=1.0,
        mde=None,
        verdict="equivalent",
        non_inferior=True,
        more_questions=0,
    )


def taken_values(values: Mapping[str, Floats], taken: Sequence[str]) -> Floats:
    """For each question, the value of the route that is taken."""
    return np.array([values[name][place] for place, name in enumerate(taken)])


def sentence(
    contrast: ContrastResult, ways: Mapping[str, WayResult], model: TrainedRouter, margin: float
) -> str:
    """Whether routing pays here, in words."""
    best = contrast.b
    low, high = contrast.ci
    by = f"{contrast.difference:+.3f} [{low:+.3f}, {high:+.3f}] {contrast.metric} against always {best}"
    most = ways[ORACLE].score.mean - ways[best].score.mean
    ceiling = f"A router that knew the best route for each question would gain {most:.3f}."
    if not model.facts:
        return (
            f"Routing does not pay here: nothing on dev tells when to leave {best}, so auto always takes it. "
            f"{ceiling}"
        )
    if contrast.verdict == "better":
        return f"Routing pays: auto is better, {by}. {ceiling}"
    if contrast.non_inferior:
        return (
            f"Routing does not pay here: auto is at most {margin:g} worse but not better, {by}. "
            f"{_cheaper(ways, best)}{ceiling}"
        )
    if contrast.verdict == "worse":
        return f"Routing does not pay here: auto is worse, {by}. {ceiling}"
    more = f" (about {contrast.more_questions} more questions would tell)" if contrast.more_questions else ""
    return f"Routing is not shown to pay here: auto may be more than {margin:g} worse{more}, {by}. {ceiling}"


def _cheaper(ways: Mapping[str, WayResult], best: str) -> str:
    ours, theirs = ways[AUTO].tokens or 0.0, ways[best].tokens or 0.0
    return f"It takes {ours:.0f} tokens a question instead of {theirs:.0f}. " if ours < theirs else ""


def format_router(result: RouterResult) -> str:
    """The result as Markdown: the sentence, the ways to answer, and what the router goes by."""
    ways = aligned_table(
        ["", f"{result.metric} [95 % CI]", "tokens", "seconds", "taken by auto"],
        [
            [
                f"**{name}**" if name == AUTO else name,
                measure_text(way.score),
                "-" if way.tokens is None else f"{way.tokens:.0f}",
                "-" if way.seconds is None else f"{way.seconds:.2f}",
                "-" if way.taken is None else f"{way.taken:.0%}",
            ]
            for name, way in result.test.items()
        ],
    )
    dev = result.dev
    trained = (
        f"Trained on {dev.questions} dev questions about {dev.documents} documents, where its cross-validated score is "
        f"{dev.cross_validated:.3f} and that of always {result.best_on_dev} {dev.always_best:.3f}; scored once on "
        f"{result.test_questions} test questions about {result.test_documents} documents."
    )
    return "\n\n".join([result.sentence, ways, trained, *_weights(result)])


def _weights(result: RouterResult) -> list[str]:
    facts = list(next(iter(result.weights.values())))
    if not facts:
        return []
    rows = [[fact, *(f"{weights[fact]:+.3f}" for weights in result.weights.values())] for fact in facts]
    return [
        "What a standard deviation more of each fact adds to a route's estimated score:",
        aligned_table(["fact", *result.weights], rows),
    ]
