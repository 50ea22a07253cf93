"""Citation correctness: whether the passages that an answer points to are those that hold the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class CitationScores(NamedTuple):
    """Of one answer; precision is None without citations."""

    precision: float | None
    recall: float


def citation_scores(cited_right: Sequence[bool]) -> CitationScores:
    """`cited_right` says of each citation whether it is a gold passage; recall is 1 if any of them is."""
    if not cited_right:
        return CitationScores(None, 0.0)
    return CitationScores(sum(cited_right) / len(cited_right), float(any(cited_right)))
