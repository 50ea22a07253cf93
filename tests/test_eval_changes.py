"""A file of document changes is read, bad lines are named, and what it bears on is not learned again."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval.answers import EvalError
from eval.changes import learned_ids, read_changes, still_learnable
from indexer.corpus import Question, Split
from tests.fakes_changes import LINE, change, write_changes


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nonsense", "line 2: not JSON"),
        ({**LINE, "id": "c1"}, "line 2: id 'c1' stands in .*line 1 too"),
        ({"id": "c2"}, "line 2: document_id: Field required; expected"),
        ({**LINE, "id": "c2", "find": ""}, "line 2: find: "),
        ({**LINE, "id": "c2", "replace": "at noon"}, "line 2: `find` and `replace` are the same"),
        ({**LINE, "id": "c2", "answer_after": "The noon."}, "line 2: both answers are 'The noon.'"),
        ({**LINE, "id": "c2", "answer_before": "..."}, "line 2: answer_before holds no words"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: dict[str, str] | str, said: str) -> None:
    with pytest.raises(EvalError, match=said):
        read_changes(write_changes(tmp_path / "changes.jsonl", LINE, line))


def test_a_file_without_changes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="holds no changes; expected"):
        read_changes(write_changes(tmp_path / "changes.jsonl", ""))


def question(text: str, answer: str, split: Split, document: str = "bell.md") -> Question:
    return Question(text, text, (answer,), (document,), split)


def test_what_the_changes_bear_on_is_not_learned_again() -> None:
    kept = [
        question("What is the rope of?", "hemp", Split.TRAIN),
        question("When is lunch in the far kitchen?", "noon", Split.TRAIN, "oak.md"),
        question("At what hour do we hear it?", "noon", Split.TEST),
    ]
    gone = [
        question("At what hour do we hear it?", "at noon", Split.TRAIN),
        question("When does the bell ring", "midday", Split.DEV),
    ]
    found = still_learnable([*kept, *gone], [change()])
    assert [q for q in found if q.split is not Split.TEST] == kept[:2]
    assert learned_ids([change()], [*kept, *gone]) == {"c1"}
    assert learned_ids([change()], kept) == frozenset()
