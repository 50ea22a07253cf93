"""Why an answer is right or wrong."""

from __future__ import annotations

import pytest

from eval.attribution import Outcome, attribute, is_gold_shown, outcome
from indexer.corpus import Evidence, Question, Split
from tests.fakes_eval import ROUTES, make_answer, make_context

QUESTION = Question("q", "How long?", ("30 hours",), ("flood.md",), Split.TEST)
UNANSWERABLE = Question("u", "How much?", (), (), Split.TEST)
GOLD = make_context("flood.md", 100, 200, "It is aired for 30 hours.")
OTHER = make_context("tariff.md", 0, 100, "A Wren takes 30 hours.")
UNSURE = "I don't know."


@pytest.mark.parametrize(
    ("question", "route", "text", "contexts", "expected"),
    [
        (QUESTION, "rag", "30 hours", [GOLD], Outcome.READ),
        (QUESTION, "rag", "30 hours", [OTHER], Outcome.PARAMETRIC_HIT),
        (QUESTION, "rag", "two days", [GOLD], Outcome.READER_MISS),
        (QUESTION, "rag", "two days", [OTHER], Outcome.RETRIEVAL_MISS),
        (QUESTION, "rag", UNSURE, [OTHER], Outcome.RETRIEVAL_MISS),
        (QUESTION, "rag", UNSURE, [GOLD], Outcome.FALSE_ABSTENTION),
        (QUESTION, "base", "30 hours", [], Outcome.PARAMETRIC_HIT),
        (QUESTION, "base", "two days", [], Outcome.NOT_KNOWN),
        (QUESTION, "base", UNSURE, [], Outcome.FALSE_ABSTENTION),
        (UNANSWERABLE, "rag", UNSURE, [GOLD], Outcome.RIGHT_ABSTENTION),
        (UNANSWERABLE, "rag", "two marks", [GOLD], Outcome.HALLUCINATED),
    ],
)
def test_outcome(question, route, text, contexts, expected) -> None:
    answer = make_answer(question.text, ROUTES[route], text, contexts)
    assert outcome(question, answer) is expected


@pytest.mark.parametrize(
    ("start", "end", "shown"),
    [
        (150, 400, True),
        (0, 149, False),
        (0, 150, True),
        (120, 180, True),
        (140, 180, False),
        (300, 400, False),
    ],
)
def test_a_context_must_cover_half_of_the_evidence(start: int, end: int, shown: bool) -> None:
    question = Question("q", "?", ("x",), ("flood.md",), Split.TEST, (Evidence("flood.md", 100, 200),))
    assert is_gold_shown(question, [make_context("flood.md", start, end, "no matter")]) is shown
    assert not is_gold_shown(question, [make_context("tariff.md", start, end, "x")])


def test_outcomes_add_up_and_the_factors_show_what_they_gained_and_lost() -> None:
    questions = [QUESTION, QUESTION, UNANSWERABLE]
    said = {
        "base": ["30 hours", "no", UNSURE],
        "rag": ["no", "30 hours", "no"],
        "tuned": ["no", "no", "no"],
        "hybrid": ["no", "30 hours", UNSURE],
    }
    answers = {
        name: [make_answer(q.text, ROUTES[name], text) for q, text in zip(questions, texts, strict=True)]
        for name, texts in said.items()
    }
    found = attribute(questions, ROUTES, answers)
    assert all(sum(route.outcomes.values()) == len(questions) for route in found.values())
    assert found["base"].against == {}
    assert found["rag"].against == {"retrieval_helped": 1, "retrieval_hurt": 1}
    assert found["tuned"].against == {"adapter_helped": 0, "adapter_hurt": 1}
    assert found["hybrid"].against == {
        "retrieval_helped": 1,
        "retrieval_hurt": 0,
        "adapter_helped": 0,
        "adapter_hurt": 0,
    }
