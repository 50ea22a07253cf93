import random

import pytest

from indexer.corpus import Question, Split
from tuner.leakage import LeakageError, check_leakage, without_leaks


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


def test_a_planted_pair_is_found_among_many_alike_questions():
    randomness = random.Random(0)
    vocabulary = [f"w{i}" for i in range(2000)]
    questions = [
        question(
            str(i),
            f"What is the {' '.join(randomness.choices(vocabulary, k=6))} of the harbour?",
            Split.TEST if i % 3 == 0 else Split.TRAIN,
        )
        for i in range(10_000)
    ]
    planted = question("copy", questions[3000].text.upper(), Split.DEV)
    with pytest.raises(LeakageError, match=r"^1 pairs .*3000 \(test\) ~ copy \(dev\), similarity 1.00"):
        check_leakage([*questions, planted])


def test_made_questions_near_a_test_question_are_sorted_out():
    test = [question("t", "Who leads the night shift at the Tarn Dock station?", Split.TEST)]
    near = question("a", "Who leads the night shift at Tarn Dock station?", Split.TRAIN)
    far = question("b", "Who leads the day shift at the Pell Hill station?", Split.TRAIN)
    assert without_leaks([near, far], test) == ([far], [near])


@pytest.mark.parametrize(
    ("test", "other"),
    [
        ("Qu\u00e9 hora es en M\u00e9xico?", "Que\u0301 hora es en Me\u0301xico?"),
        ("港口几点开门啊请告诉我", "港口几点开门啊请告诉我吧"),
        ("How wide is the tube?", "How wi\u200bde is the tu\u200bbe?"),
        ("???", "???"),
    ],
)
def test_the_same_question_in_other_signs_is_found(test, other):
    with pytest.raises(LeakageError):
        check_leakage([question("t", test, Split.TEST), question("a", other, Split.TRAIN)])
