"""What the gates before promotion measure: routes with a new adapter beside those without, on dev."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from indexer.config import Workspace
from indexer.progress import progress
from service.config import routes_from_config
from settings import Settings

if TYPE_CHECKING:
    from eval.forgetting import Item
    from indexer.corpus import Question
    from service.answering import Answerer
    from service.routes import Route
    from tuner.gates import Comparison, Measure, Measured

MOST_QUESTIONS = 64
"""Dev questions asked of each route; more would only make training seem slow."""


def measure_on_dev(workspace: Workspace, settings: Settings, questions: Sequence[Question]) -> Measure:
    """Ask every configured route that uses the adapter, and its rival: the first without one that retrieves alike.

    Without retrieval the adapter must win; with retrieval, reading no worse is enough. Raises EvalError if the general
    questions cannot be read, which is better known before training than after it.
    """
    from eval.forgetting import items_hash
    from eval.local import selected_routes
    from indexer.corpus import Split
    from indexer.files import hash_json, hash_text
    from indexer.ranking import ranking_identity
    from tuner.gates import Measure, Measured

    dev = [q for q in questions if q.split is Split.DEV and q.answerable]
    dev = sorted(dev, key=lambda q: hash_text(q.id))[:MOST_QUESTIONS]
    items = _general_questions(workspace, settings)
    # The adapter is on this machine only, whoever answers later.
    here = settings.model_copy(update={"model": settings.model.model_copy(update={"remote": None})})

    def measure(key: str) -> Measured:
        from cli.serve import open_routes

        pairs = gated_pairs(settings, key)
        routes = {route.name: route for pair in pairs for route in pair}
        if not routes and not items:
            return Measured(())
        answerer = open_routes(workspace, here, routes)
        scores = {}
        with progress("comparing routes on dev", len(routes) * len(dev)) as advance:
            for name in routes:
                route = answerer.route(name)
                answers = answerer.answer_many([(q.text, route) for q in dev])
                scores[name] = _scores([a.answer for a in answers], dev, settings)
                advance(len(dev))
        forgotten = _points_forgotten(answerer, items, key) if items else None
        return Measured([_comparison(a, b, scores) for a, b in pairs], forgotten)

    asked = [[q.text, list(q.answers)] for q in dev]
    pairs = gated_pairs(settings, settings.tune.adapter)
    rivals = {rival.name: rival for _, rival in pairs}
    # Prompt options were chosen for these; none can have been for a version that is yet to be trained.
    chosen = selected_routes(workspace, here.model, settings.eval, rivals, settings.index)
    compared = [[asdict(route), asdict(chosen[rival.name])] for route, rival in pairs]
    ranking = ranking_identity(settings.index)
    return Measure(
        measure, hash_json([asked, settings.eval.primary_metric, items_hash(items), compared, ranking])
    )


def _general_questions(workspace: Workspace, settings: Settings) -> list[Item]:
    from eval.forgetting import BUNDLED, read_items

    general = settings.tune.general
    if general is None:
        return []
    return read_items(None if str(general) == BUNDLED else workspace.resolve(general))


def _points_forgotten(answerer: Answerer, items: Sequence[Item], key: str) -> float | None:
    """How many of 100 general questions are no longer right."""
    from eval.forgetting import item_scores
    from service.generation import LocalGenerator

    if not isinstance(answerer.generator, LocalGenerator):
        return None
    base, adapters = answerer.base, answerer.generator.adapters
    means = []
    for used in (None, key):
        adapters.use(used)
        means.append(float(item_scores(base.model, base.tokenizer, items, used or "base").mean()))
    return 100 * (means[0] - means[1])


def gated_pairs(settings: Settings, key: str) -> list[tuple[Route, Route]]:
    """Routes that use the adapter (pinned to the version `key`), each with its rival."""
    routes = routes_from_config(settings.routes)
    name = key.partition("@")[0]
    pairs = []
    for route in routes.values():
        rivals = [r for r in routes.values() if r.adapter is None and r.retrieve == route.retrieve]
        if route.adapter == name and rivals:
            pairs.append((replace(route, adapter=key), rivals[0]))
    return pairs


def _scores(answers: Sequence[str], questions: Sequence[Question], settings: Settings) -> tuple[float, ...]:
    from eval.scoring import mean_score

    score = mean_score(settings.eval.primary_metric)
    return tuple(score([answer], [question]) for answer, question in zip(answers, questions, strict=True))


def _comparison(route: Route, rival: Route, scores: dict[str, tuple[float, ...]]) -> Comparison:
    from tuner.gates import Comparison

    return Comparison(
        route.name, rival.name, scores[route.name], scores[rival.name], must_win=not route.retrieve
    )
