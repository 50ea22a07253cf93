"""Rules that put a question in other words."""

from __future__ import annotations

import re

import pytest

from eval.perturbations import (
    PARAPHRASES,
    drawn_order,
    polite,
    reordered,
    reworded,
    typos,
    without_punctuation,
)

QUESTIONS = [
    "Which designer gave the letter capsule its form in 1911?",
    "How many turns does the bearing cap HR-21 get after the flood?",
    "Who trained Mirelle Askew in her youth?",
    "Where is the oil of grade ISO100 kept?",
]


@pytest.mark.parametrize("name", PARAPHRASES)
def test_a_rule_says_the_same_every_time(name: str) -> None:
    rewrite = PARAPHRASES[name]
    assert [rewrite(question) for question in QUESTIONS] == [rewrite(question) for question in QUESTIONS]


@pytest.mark.parametrize("name", ["polite", "reordered", "lower case", "upper case", "no punctuation"])
def test_no_word_of_the_question_is_lost(name: str) -> None:
    for question in QUESTIONS:
        kept = re.findall(r"[\w-]+", PARAPHRASES[name](question).casefold())
        assert set(re.findall(r"[\w-]+", question.casefold())) <= set(kept)


@pytest.mark.parametrize("name", PARAPHRASES)
def test_every_rule_applies_to_something(name: str) -> None:
    assert any(PARAPHRASES[name](question) != question for question in QUESTIONS)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Which clerk was appointed in November 2022?", "In November 2022, which clerk was appointed?"),
        ("Who trained Mirelle Askew in her youth?", "In her youth, who trained Mirelle Askew?"),
        (
            "Below which street did they pass in Inkwell Row?",
            "In Inkwell Row, below which street did they pass?",
        ),
    ],
)
def test_a_time_or_place_at_the_end_is_put_first(question: str, expected: str) -> None:
    assert reordered(question) == expected


@pytest.mark.parametrize(
    "question",
    [
        "Who feeds the horses standing at the dock?",  # which horses, not where they are fed
        "Who was to stand in for the clerk chosen in October 2023?",
        "Who pays the people employed in the yard?",
        "What was the ship named after the storm?",
        "Who manages the money that teams pay in penalties?",
        "Where does the latex in norvane originate?",
        "Who won?",
    ],
)
def test_a_phrase_that_belongs_to_what_stands_before_it_stays(question: str) -> None:
    assert reordered(question) == question


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("How many bolts are there?", "What number of bolts are there?"),
        ("Where is it?", "In what place is it?"),
        ("Which oil is used?", "What oil is used?"),
        ("What would ruin the blades?", "What would ruin the blades?"),
        ("Which of the two is older?", "Which of the two is older?"),
    ],
)
def test_first_words_are_replaced_where_that_asks_the_same(question: str, expected: str) -> None:
    assert reworded(question) == expected


def test_a_typo_exchanges_letters_inside_long_words_and_leaves_codes_alone() -> None:
    for question in QUESTIONS:
        changed = [
            (old, new)
            for old, new in zip(question.split(), typos(question).split(), strict=True)
            if old != new
        ]
        assert 1 <= len(changed) <= 2
        for old, new in changed:
            assert sorted(old) == sorted(new)
            assert len(re.sub(r"\W", "", old)) >= 5
            assert old[0] == new[0]
            assert not any(letter.isdigit() for letter in old)


def test_questions_of_short_words_get_no_typo() -> None:
    assert typos("Who is it for?") == "Who is it for?"


def test_only_punctuation_at_the_end_of_words_is_dropped() -> None:
    assert without_punctuation("In 1,904, who had part HR-21?") == "In 1,904 who had part HR-21"


def test_frames_differ_from_question_to_question() -> None:
    frames = {polite(f"Who is {n}?").replace(f"Who is {n}?", "") for n in range(40)}
    assert len(frames) > 2


def test_a_drawn_order_is_another_one() -> None:
    for count in range(2, 6):
        orders = [drawn_order(f"question {n}", count) for n in range(30)]
        assert all(sorted(order) == list(range(count)) for order in orders)
        assert list(range(count)) not in orders
    assert drawn_order("x", 1) == [0]
    assert drawn_order("x", 0) == []
