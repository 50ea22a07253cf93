"""Why answers are right or wrong: whether the passage was found and read, or the weights knew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum

from eval.metrics.containment import containment
from eval.metrics.token_f1 import token_f1
from eval.result import RouteAttribution
from indexer.corpus import Question
from service.answer import Answer, Citation
from service.routes import AUTO, Route

CORRECT_F1 = 0.5
"""Token F1 from which an answer counts as right here (as does one that contains an accepted answer)."""


class Outcome(StrEnum):
    """What became of one question on one route."""

    READ = "read_from_context"
    PARAMETRIC_HIT = "parametric_hit"
    """Right without the passage: known from the weights, or guessed."""
    RETRIEVAL_MISS = "retrieval_miss"
    READER_MISS = "reader_miss"
    """Wrong although the passage was shown."""
    NOT_KNOWN = "not_known"
    """Wrong on a route that does not retrieve."""
    FALSE_ABSTENTION = "false_abstention"
    RIGHT_ABSTENTION = "right_abstention"
    HALLUCINATED = "hallucinated_on_unanswerable"


def attribute(
    questions: Sequence[Question], routes: Mapping[str, Route], answers: Mapping[str, Sequence[Answer]]
) -> dict[str, RouteAttribution]:
    """Count outcomes by route, and the questions that retrieval or the adapter gained and lost."""
    right = {
        name: [q.answerable and is_correct(q, answer) for q, answer in zip(questions, given, strict=True)]
        for name, given in answers.items()
    }
    return {
        name: RouteAttribution(
            outcomes=_outcome_counts(questions, answers[name]),
            against=_gains_and_losses(route, routes, right),
        )
        for name, route in routes.items()
    }


def outcome(question: Question, answer: Answer) -> Outcome:
    """The one cause of a right or wrong answer; a missing passage comes before how the reader took it."""
    if not question.answerable:
        return Outcome.RIGHT_ABSTENTION if answer.abstained else Outcome.HALLUCINATED
    shown = is_gold_shown(question, answer.contexts)
    if is_correct(question, answer):
        return Outcome.READ if shown else Outcome.PARAMETRIC_HIT
    if answer.generation is not None and not shown:  # of answers by `auto` only some look things up
        return Outcome.RETRIEVAL_MISS
    if answer.abstained:
        return Outcome.FALSE_ABSTENTION
    return Outcome.READER_MISS if shown else Outcome.NOT_KNOWN


def is_correct(question: Question, answer: Answer) -> bool:
    """Right enough to ask why; scores are reported by the metrics, not by this."""
    if answer.abstained:
        return False
    return (
        bool(containment(answer.answer, question.answers))
        or token_f1(answer.answer, question.answers) >= CORRECT_F1
    )


def is_gold_shown(question: Question, contexts: Sequence[Citation]) -> bool:
    """Whether a context covers half of an evidence span.

    For questions without evidence: whether a context from a gold document holds the answer.
    """
    if question.evidence:
        return any(
            2 * (min(context.end, span.end) - max(context.start, span.start)) >= span.end - span.start
            for context in contexts
            for span in question.evidence
            if context.document_id == span.document_id
        )
    return any(
        containment(context.text, question.answers)
        for context in contexts
        if context.document_id in question.document_ids or not question.document_ids
    )


def _outcome_counts(questions: Sequence[Question], answers: Sequence[Answer]) -> dict[str, int]:
    counts = Counter(outcome(q, answer) for q, answer in zip(questions, answers, strict=True))
    return {kind.value: counts[kind] for kind in Outcome if counts[kind]}


def _gains_and_losses(
    route: Route, routes: Mapping[str, Route], right: Mapping[str, Sequence[bool]]
) -> dict[str, int]:
    counts = {}
    for factor, other in (
        ("retrieval", without_retrieval(route, routes)),
        ("adapter", without_adapter(route, routes)),
    ):
        if other is not None:
            pairs = list(zip(right[route.name], right[other.name], strict=True))
            counts[f"{factor}_helped"] = sum(ours and not theirs for ours, theirs in pairs)
            counts[f"{factor}_hurt"] = sum(theirs and not ours for ours, theirs in pairs)
    return counts


def without_retrieval(route: Route, routes: Mapping[str, Route]) -> Route | None:
    """The route that differs in not retrieving, if there is one."""
    if not route.retrieve:
        return None
    return _counterpart(route, routes, retrieve=False, adapter=route.adapter)


def without_adapter(route: Route, routes: Mapping[str, Route]) -> Route | None:
    """The route that differs in having no adapter, if there is one."""
    if route.adapter is None:
        return None
    return _counterpart(route, routes, retrieve=route.retrieve, adapter=None)


def _counterpart(
    route: Route, routes: Mapping[str, Route], retrieve: bool, adapter: str | None
) -> Route | None:
    """The first route with these factors; `auto` answers by routes of several, so it has none and is none."""
    if route.name == AUTO:
        return None
    others = (other for other in routes.values() if other.name != AUTO)
    return next((o for o in others if o.retrieve == retrieve and o.adapter == adapter), None)
