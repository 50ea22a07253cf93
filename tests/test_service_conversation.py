from __future__ import annotations

import pytest

from service.conversation import whole_question

OVEN = "Who built the oven of the bakery?"


@pytest.mark.parametrize(
    ("messages", "whole"),
    [
        ([OVEN], OVEN),
        ([OVEN, "How high is the tower?"], "How high is the tower?"),
        ([OVEN, "When did she build it?"], f"{OVEN} When did she build it?"),
        ([OVEN, "And the tower?"], f"{OVEN} And the tower?"),
        ([OVEN, "Why?"], f"{OVEN} Why?"),
        ([OVEN, "When was it?", "And why?"], f"{OVEN} When was it? And why?"),
        (["A first question about mooring fees?", OVEN, "Was it red?"], f"{OVEN} Was it red?"),
        ([OVEN, "  Why not?\n"], f"{OVEN} Why not?"),
        (["Is it?"], "Is it?"),
        (["   "], ""),
        ([], ""),
    ],
)
def test_question_is_made_whole_from_what_it_leans_on(messages: list[str], whole: str) -> None:
    assert whole_question(messages) == whole


def test_no_more_than_two_earlier_questions_are_taken() -> None:
    assert whole_question([OVEN, "Is it a?", "Is it b?", "Is it c?"]) == "Is it a? Is it b? Is it c?"
