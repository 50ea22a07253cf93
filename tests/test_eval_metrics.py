"""Metrics against hand-worked cases."""

from __future__ import annotations

import numpy as np
import pytest

from eval.metrics.abstention import abstention
from eval.metrics.citations import citation_scores
from eval.metrics.containment import containment
from eval.metrics.exact_match import exact_match
from eval.metrics.groundedness import groundedness
from eval.metrics.multiple_choice import chosen_label, labels_of, majority, multiple_choice
from eval.metrics.normalise import normalised_tokens
from eval.metrics.rouge_l import rouge_l
from eval.metrics.semantic_similarity import semantic_similarity
from eval.metrics.token_f1 import token_f1


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The Brass   Thimble!", ["brass", "thimble"]),
        ("A.N. Other's", ["others"]),  # punctuation goes first, so "A.N." becomes an article
        ("19.8%", ["198"]),
        ("theatre", ["theatre"]),
        ("the", []),
    ],
)
def test_normalisation_follows_the_official_order(text: str, tokens: list[str]) -> None:
    assert normalised_tokens(text) == tokens


@pytest.mark.parametrize(
    ("prediction", "answers", "score"),
    [
        ("the Owl.", ["an owl", "owl"], 1.0),
        ("white owl", ["owl"], 0.0),
        ("", ["owl"], 0.0),
        ("owl", ["falcon", "OWL"], 1.0),
    ],
)
def test_exact_match(prediction: str, answers: list[str], score: float) -> None:
    assert exact_match(prediction, answers) == score


@pytest.mark.parametrize(
    ("prediction", "answers", "score"),
    [
        ("the cat sat", ["cat sat down"], 0.8),  # 2 common, 2 predicted, 3 gold: P 1, R 2/3
        ("red red red", ["red"], 0.5),  # multiplicity counts: 1 common, P 1/3, R 1
        ("11 weeks", ["eleven weeks", "11 weeks"], 1.0),  # best of the answers
        ("fish", ["soup kitchen"], 0.0),
        ("", ["soup"], 0.0),
        ("the", ["a"], 1.0),  # nothing left on either side
    ],
)
def test_token_f1(prediction: str, answers: list[str], score: float) -> None:
    assert token_f1(prediction, answers) == pytest.approx(score)


@pytest.mark.parametrize(
    ("prediction", "answers", "score"),
    [
        ("It is kept for 30 hours, at least.", ["30 hours"], 1.0),
        ("It is kept for 130 hours.", ["30 hours"], 0.0),
        ("hours 30", ["30 hours"], 0.0),
        ("anything", ["the"], 0.0),
    ],
)
def test_containment_is_of_whole_words_in_order(prediction: str, answers: list[str], score: float) -> None:
    assert containment(prediction, answers) == score


def test_rouge_l_counts_the_longest_common_subsequence() -> None:
    # the example of Lin (2004): the common "police the gunman" is 3 of 4 words on either side
    assert rouge_l("police kill the gunman", ["police killed the gunman"]) == pytest.approx(0.75)
    assert rouge_l("the gunman kill police", ["police killed the gunman"]) == pytest.approx(0.5)
    assert rouge_l("", ["police"]) == 0.0


@pytest.mark.parametrize("metric", [exact_match, token_f1, containment, rouge_l])
def test_no_accepted_answer_scores_nothing(metric) -> None:
    assert metric("anything", []) == 0.0


def test_abstention_has_the_unanswerable_questions_as_its_positive_class() -> None:
    scores = abstention(abstained=[True, True, False, False], answerable=[False, True, False, True])
    assert scores == (0.5, 0.5, 0.5)
    assert abstention([False], [True]) == (None, None, None)
    assert abstention([False, True], [False, True]).f1 == 0.0


def test_groundedness_is_the_share_of_words_that_stand_in_a_passage() -> None:
    passages = ["The tube is aired.", "It takes 30 hours."]
    assert groundedness("The tube takes 30 days", passages) == pytest.approx(3 / 4)
    assert groundedness("30 hours.", passages) == 1.0
    assert groundedness("", passages) == groundedness("anything", []) == 0.0


def test_semantic_similarity_is_the_best_cosine_and_never_negative() -> None:
    vectors = np.array([[1, 0], [0.6, 0.8]], dtype=np.float32)
    assert semantic_similarity(np.array([0, 1], dtype=np.float32), vectors) == pytest.approx(0.8)
    assert semantic_similarity(np.array([-1, 0], dtype=np.float32), vectors[:1]) == 0.0
    assert semantic_similarity(vectors[0], vectors[:0]) == 0.0


def test_citations_are_precise_where_they_are_gold_and_complete_where_one_is() -> None:
    assert citation_scores([True, False, False, True]) == (0.5, 1.0)
    assert citation_scores([False]) == (0.0, 0.0)
    assert citation_scores([]) == (None, 0.0)


def test_a_set_of_labels_is_recognised_and_scored_against_the_majority() -> None:
    answers = [["yes"]] * 5 + [["No."]] * 3 + [["maybe"]] * 2
    assert labels_of(answers) == ("yes", "no", "maybe")
    assert majority(answers, labels_of(answers)) == ("yes", 0.5)
    assert labels_of([["yes"], ["no"], ["maybe"]]) == ()  # too few to recur
    assert labels_of([["yes", "aye"]] * 10 + [["no"]] * 10) == ()
    assert labels_of([[f"answer {n}"] for n in range(30)]) == ()


@pytest.mark.parametrize(
    ("prediction", "label"),
    [
        ("Yes, it does.", "yes"),
        ("The answer is no", "no"),
        ("nobody knows", None),
        ("Maybe; yes.", "maybe"),
        ("", None),
    ],
)
def test_the_label_named_first_counts(prediction: str, label: str | None) -> None:
    assert chosen_label(prediction, ("yes", "no", "maybe")) == label
    assert multiple_choice(prediction, ["Yes"], ("yes", "no", "maybe")) == float(label == "yes")
