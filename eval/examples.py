"""Readable examples of every way to go wrong, for the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from eval.attribution import Outcome, is_correct, outcome, without_adapter, without_retrieval
from indexer.corpus import Question
from service.answer import Answer
from service.routes import Route

PER_CLASS = 20
PASSAGE_CHARACTERS = 300

CLASSES: Mapping[str, str] = {
    Outcome.RETRIEVAL_MISS: "the passage with the answer was not among those shown",
    Outcome.READER_MISS: "the passage with the answer was shown, and the answer is wrong",
    "retrieval_hurt": "right without passages, wrong with them",
    "adapter_hurt": "right without the adapter, wrong with it",
    Outcome.NOT_KNOWN: "no passages, and the weights do not hold the answer",
    Outcome.PARAMETRIC_HIT: "right though the passage was not shown: known from the weights, or guessed",
    Outcome.FALSE_ABSTENTION: "an answer exists and was not given",
    Outcome.HALLUCINATED: "no answer exists, and one was given",
}
"""Classes with what they mean; a question can be in several (`retrieval_hurt` and `reader_miss`, say)."""


@dataclass(frozen=True, slots=True)
class Example:
    """One answer of a class; `instead` is what the other route said where two are compared."""

    question: str
    answers: tuple[str, ...]
    route: str
    said: str
    passage: str
    instead: str | None


def examples(
    questions: Sequence[Question], routes: Mapping[str, Route], answers: Mapping[str, Sequence[Answer]]
) -> dict[str, list[Example]]:
    """At most 20 a class, taken from the routes in turn; classes that nothing fell into are left out."""
    found: dict[str, list[Example]] = {name: [] for name in CLASSES}
    for index, question in enumerate(questions):
        for name, route in routes.items():
            for kind, other in _classes(question, route, routes, answers, index):
                if kind in found and len(found[kind]) < PER_CLASS:
                    found[kind].append(_example(question, name, answers[name][index], other))
    return {kind: some for kind, some in found.items() if some}


def _classes(
    question: Question,
    route: Route,
    routes: Mapping[str, Route],
    answers: Mapping[str, Sequence[Answer]],
    index: int,
) -> Iterator[tuple[str, Answer | None]]:
    answer = answers[route.name][index]
    yield outcome(question, answer).value, None
    if not question.answerable or is_correct(question, answer):
        return
    for kind, other in (
        ("retrieval_hurt", without_retrieval(route, routes)),
        ("adapter_hurt", without_adapter(route, routes)),
    ):
        if other is not None and is_correct(question, answers[other.name][index]):
            yield kind, answers[other.name][index]


def _example(question: Question, route: str, answer: Answer, other: Answer | None) -> Example:
    passage = answer.contexts[0].text if answer.contexts else ""
    shown = passage if len(passage) <= PASSAGE_CHARACTERS else passage[:PASSAGE_CHARACTERS] + " …"
    return Example(
        question=question.text,
        answers=question.answers,
        route=route,
        said=answer.answer,
        passage=shown,
        instead=None if other is None else f"{other.route}: {other.answer}",
    )
