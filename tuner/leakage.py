"""Leakage first: nothing is trained while a test question also stands in train or dev."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from indexer.corpus import Question, Split
from indexer.splits import NEAR_DUPLICATE, near_duplicate_groups, words

_PAIRS_NAMED = 10


class LeakageError(ValueError):
    """Test questions that also stand, exactly or nearly, in train or dev; the message names the pairs."""


@dataclass(frozen=True, slots=True)
class LeakageReport:
    """What was compared: all `test` questions with all `others`."""

    test: int
    others: int


def check_leakage(questions: Sequence[Question]) -> LeakageReport:
    """Compare test with train and dev by word sets (Jaccard). Raises LeakageError on any near-duplicate."""
    groups = near_duplicate_groups([q.text for q in questions])
    pairs = [
        (questions[i], questions[j])
        for group in groups
        for i in group
        for j in group
        if questions[i].split is Split.TEST and questions[j].split is not Split.TEST
    ]
    if pairs:
        named = "; ".join(
            f"{t.id} (test) ~ {o.id} ({o.split}), similarity {_similarity(t, o):.2f}"
            for t, o in pairs[:_PAIRS_NAMED]
        )
        more = f" and {len(pairs) - _PAIRS_NAMED} more" if len(pairs) > _PAIRS_NAMED else ""
        raise LeakageError(
            f"{len(pairs)} pairs of questions stand both in test and in train or dev: {named}{more}; "
            "give each pair the same split or remove one of them"
        )
    test = sum(q.split is Split.TEST for q in questions)
    return LeakageReport(test, len(questions) - test)


def format_leakage(report: LeakageReport) -> str:
    """One line for the terminal."""
    return (
        f"leakage: none of {report.test} test questions is in the {report.others} train and dev questions "
        f"(exact or word-set similarity {NEAR_DUPLICATE} and more)"
    )


def _similarity(a: Question, b: Question) -> float:
    mine, theirs = words(a.text), words(b.text)
    return len(mine & theirs) / max(1, len(mine | theirs))
