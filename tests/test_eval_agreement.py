"""Exact match and token F1 against an implementation written apart from ours, from the definition of SQuAD."""

from __future__ import annotations

import random
import string
import unicodedata

import pytest

from eval.metrics.exact_match import exact_match
from eval.metrics.token_f1 import token_f1

WORDS = [
    *("the", "a", "an", "The", "AN", "owl", "owls", "Owl", "30", "hours", "1,904", "19.8%", "U.S.", "don't"),
    *(
        "Ada-Lindqvist",
        "naïve",
        "café",
        "Straße",
        "東京",
        "of",
        "in",
        "is",
        "it's",
        "(bank)",
        "“quoted”",
        "e.g.",
    ),
    *("B.C.", "theatre", "another", "--", "...", "—", "to-day", "L'Aquila", "3-2", "$5", "C++", "\t", "x_y"),
]


def words_by_definition(text: str) -> list[str]:
    """Lower case, punctuation out, articles out, white space fixed; letter by letter, without regular expressions."""
    kept = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
    words, current = [], ""
    # An article is one where no letter, digit or underscore touches it on either side.
    for letter in [*kept, " "]:
        if letter.isalnum() or letter == "_" or unicodedata.category(letter).startswith("M"):
            current += letter
        else:
            words.append("" if current in ("a", "an", "the") else current)
            words.append(letter)
            current = ""
    return "".join(word if word else " " for word in words).split()


def f1_by_definition(prediction: str, answer: str) -> float:
    predicted, gold = words_by_definition(prediction), words_by_definition(answer)
    if not predicted or not gold:
        return 1.0 if predicted == gold else 0.0
    left = list(gold)
    same = 0
    for word in predicted:
        if word in left:
            left.remove(word)
            same += 1
    if same == 0:
        return 0.0
    precision, recall = same / len(predicted), same / len(gold)
    return 2 * precision * recall / (precision + recall)


def random_text(source: random.Random) -> str:
    return source.choice((" ", "  ", "\n")).join(source.choices(WORDS, k=source.randint(0, 6)))


def test_two_thousand_random_pairs_agree_with_the_definition() -> None:
    source = random.Random(0)
    for _ in range(2000):
        prediction = random_text(source)
        answers = [random_text(source) for _ in range(source.randint(1, 3))]
        if source.random() < 0.3:
            answers[0] = prediction.upper() + source.choice((".", " the", ""))
        words = words_by_definition(prediction)
        assert exact_match(prediction, answers) == float(
            any(words == words_by_definition(answer) for answer in answers)
        ), (prediction, answers)
        best = max(f1_by_definition(prediction, answer) for answer in answers)
        assert token_f1(prediction, answers) == pytest.approx(best, abs=1e-12), (prediction, answers)
