"""Abstention: saying "I don't know" exactly where the corpus holds no answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class AbstentionScores(NamedTuple):
    """None where the denominator is empty: nothing was unanswerable, or nothing was abstained from."""

    precision: float | None
    recall: float | None
    f1: float | None


def abstention(abstained: Sequence[bool], answerable: Sequence[bool]) -> AbstentionScores:
    """Precision, recall and F1 of abstaining, with the unanswerable questions as the positive class."""
    pairs = list(zip(abstained, answerable, strict=True))
    right = sum(silent and not has_answer for silent, has_answer in pairs)
    silent_count = sum(abstained)
    unanswerable_count = len(pairs) - sum(answerable)
    return AbstentionScores(
        precision=right / silent_count if silent_count else None,
        recall=right / unanswerable_count if unanswerable_count else None,
        f1=2 * right / (silent_count + unanswerable_count) if unanswerable_count else None,
    )
