from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from service.answer import Answer, Citation, Timings
from service.feedback import Feedback, FeedbackError, as_line
from service.recent_answers import RecentAnswers

TOWER = Citation(1, "tower.md", "Tower", 1, 0, 11, "88 metres.", 1.0)
BELL = Citation(1, "bell.md", "Bell", 2, 0, 11, "Rings at 9.", 1.0)


@pytest.fixture
def feedback(tmp_path: Path) -> Iterator[Feedback]:
    feedback = Feedback(tmp_path / "feedback.sqlite")
    yield feedback
    feedback.close()


def answer(text: str, *contexts: Citation, question: str = "How high?") -> Answer:
    return Answer(
        question=question,
        answer=text,
        route="rag",
        contexts=contexts,
        citations=(),
        abstained=False,
        prompt_tokens=1,
        completion_tokens=1,
        finish_reason="stop",
        timings_ms=Timings(0, 0, 0, 0),
        base_model="tiny",
        adapter=None,
        generation=1,
        id=f"{question}{text}{contexts}",
    )


def exported(feedback: Feedback) -> list[tuple[str, str, str]]:
    lines = [json.loads(as_line(pair)) for pair in feedback.pairs()]
    assert all(set(line) == {"prompt", "chosen", "rejected"} for line in lines)
    assert all(line["prompt"][0]["role"] == "user" for line in lines)
    assert all(line[key][0]["role"] == "assistant" for line in lines for key in ("chosen", "rejected"))
    return [tuple(line[key][0]["content"] for key in ("prompt", "chosen", "rejected")) for line in lines]  # type: ignore[misc]


def test_preference_becomes_a_pair_for_preference_training(feedback: Feedback) -> None:
    feedback.prefer(answer("88"), answer("9"))
    assert exported(feedback) == [("Question: How high?", "88", "9")]


def test_passages_are_in_the_prompt_only_if_both_answers_were_shown_them(feedback: Feedback) -> None:
    feedback.prefer(answer("88", TOWER), answer("9", TOWER))
    feedback.prefer(answer("88", TOWER), answer("nine", BELL))
    assert [prompt for prompt, _, _ in exported(feedback)] == [
        "[1] Tower: 88 metres.\n\nQuestion: How high?",
        "Question: How high?",
    ]


def test_good_and_bad_answers_to_one_question_become_a_pair(feedback: Feedback) -> None:
    feedback.rate(answer("88"), 1)
    feedback.rate(answer("9"), -1)
    feedback.rate(answer("blue", question="Which colour?"), -1)
    assert exported(feedback) == [("Question: How high?", "88", "9")]


def test_last_rating_counts(feedback: Feedback) -> None:
    feedback.rate(answer("88"), -1)
    feedback.rate(answer("9"), -1)
    feedback.rate(answer("88"), 1)
    assert exported(feedback) == [("Question: How high?", "88", "9")]


def test_equal_texts_teach_nothing(feedback: Feedback) -> None:
    feedback.prefer(answer("88", TOWER), answer("88", BELL))
    assert exported(feedback) == []


@pytest.mark.parametrize("other", [answer("9", question="How wide?"), answer("88")])
def test_answers_that_cannot_be_compared_are_refused(feedback: Feedback, other: Answer) -> None:
    with pytest.raises(FeedbackError):
        feedback.prefer(answer("88"), other)


def test_feedback_is_kept_by_the_next_process(feedback: Feedback, tmp_path: Path) -> None:
    feedback.prefer(answer("88"), answer("9"))
    again = Feedback(tmp_path / "feedback.sqlite")
    assert len(list(again.pairs())) == 1
    again.close()


def test_deleted_document_is_not_in_the_feedback_any_more(feedback: Feedback, tmp_path: Path) -> None:
    feedback.prefer(answer("88", TOWER), answer("9", TOWER))
    feedback.prefer(answer("10", BELL), answer("11", BELL))
    feedback.rate(answer("88", TOWER), 1)
    feedback.forget_document("tower.md")
    feedback.forget_document("tower.md")
    assert [chosen for _, chosen, _ in exported(feedback)] == ["10"]
    assert b"88 metres" not in (tmp_path / "feedback.sqlite").read_bytes()


def test_feedback_knows_which_documents_it_quotes(feedback: Feedback) -> None:
    feedback.prefer(answer("88", TOWER), answer("9"))
    feedback.prefer(answer("10", BELL), answer("11", TOWER, BELL))
    feedback.prefer(answer("12", BELL), answer("13"))
    assert feedback.quoted() == {"tower.md", "bell.md"}
    feedback.forget_document("tower.md")
    assert feedback.quoted() == {"bell.md"}
    assert [chosen for _, chosen, _ in exported(feedback)] == ["12"]


def test_forgetting_that_fails_changes_nothing_and_can_be_done_again(
    feedback: Feedback, tmp_path: Path
) -> None:
    feedback.prefer(answer("88", TOWER), answer("9", TOWER))
    with closing(sqlite3.connect(tmp_path / "feedback.sqlite")) as other:
        other.execute("CREATE TRIGGER full BEFORE DELETE ON answers BEGIN SELECT RAISE(ABORT, 'full'); END")
        with pytest.raises(sqlite3.IntegrityError):
            feedback.forget_document("tower.md")
        assert len(exported(feedback)) == 1
        other.execute("DROP TRIGGER full")
    feedback.forget_document("tower.md")
    assert exported(feedback) == []


def test_answer_that_was_shown_a_document_deleted_meanwhile_is_not_remembered() -> None:
    recent = RecentAnswers()
    recent.forget_document("tower.md", generation=2)
    late, since, other = answer("88", TOWER), replace(answer("90", TOWER), generation=2), answer("9", BELL)
    for one in (late, since, other):
        recent.add(one)
    assert [recent.get(one.id) for one in (late, since, other)] == [None, since, other]


def test_same_answer_may_come_again_as_another_object(feedback: Feedback) -> None:
    feedback.rate(answer("88"), 1)
    feedback.rate(replace(answer("88"), timings_ms=Timings(1, 1, 1, 1)), 1)


def test_closing_waits_for_whoever_reads(tmp_path: Path) -> None:
    feedback = Feedback(tmp_path / "feedback.sqlite")
    for n in range(50):
        feedback.rate(answer(f"{n} metres", TOWER), 1)
    reading, ended = threading.Event(), []

    def read() -> None:
        try:
            while True:
                feedback.quoted()
                reading.set()
        except sqlite3.ProgrammingError as closed:
            ended.append(str(closed))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert reading.wait(5)
    feedback.close()
    for thread in threads:
        thread.join(5)
    assert ended == ["Cannot operate on a closed database."] * 3
