import random

import pytest

from indexer.corpus import Question, Split
from tuner.leakage import LeakageError, check_leakage


def question(id_, text, split):
    return Question(id_, text, ("x",), ("d",), split)


def test_planted_duplicates_are_named():
    questions = [
        question("t1", "How wide is the main tube under Pell Hill?", Split.TEST),
        question("t2", "Who leads the night shift at the Tarn Dock station?", Split.TEST),
        question("a", "HOW WIDE is the main tube, under Pell Hill", Split.TRAIN),
        question("b", "Who leads the night shift at Tarn Dock station?", Split.DEV),
        question("c", "Where is the oil kept?", Split.TRAIN),
    ]
    with pytest.raises(LeakageError) as error:
        check_leakage(questions)
    assert "t1 (test) ~ a (train), similarity 1.00" in str(error.value)
    assert "t2 (test) ~ b (dev)" in str(error.value)
    assert str(error.value).startswith("2 pairs")


def test_clean_split_is_counted():
    questions = [question("t", "How wide?", Split.TEST), question("a", "Who leads?", Split.TRAIN)]
    report = check_leakage(questions)
    assert (report.test, report.others) == (1, 1)


def test_duplicates_within_one_split_are_no_leak():
    questions = [question("t", "How wide is it?", Split.TEST), question("u", "How wide is it", Split.TEST)]
    assert check_leakage(questions).test == 2


def test_many_questions_are_compared_without_all_pairs():
    randomness = random.Random(0)
    vocabulary = [f"w{i}" for i in range(5000)]
    questions = [
        question(
            str(i), " ".join(randomness.choices(vocabulary, k=9)), Split.TEST if i % 3 == 0 else Split.TRAIN
        )
        for i in range(5000)
    ]
    assert check_leakage(questions).test == 1667
