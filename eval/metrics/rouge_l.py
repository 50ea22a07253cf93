"""ROUGE-L: F-measure of the longest common subsequence of words; for sentence-long answers."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = re.compile(r"\w+")


def rouge_l(prediction: str, answers: Sequence[str]) -> float:
    """In [0, 1]; Lin (2004) with equal weight on precision and recall, no stemming; best over the answers."""
    predicted = _WORD.findall(prediction.lower())
    return max((_f_measure(predicted, _WORD.findall(answer.lower())) for answer in answers), default=0.0)


def _f_measure(predicted: list[str], gold: list[str]) -> float:
    if not predicted or not gold:
        return 0.0
    return 2 * _longest_common_subsequence(predicted, gold) / (len(predicted) + len(gold))


def _longest_common_subsequence(a: list[str], b: list[str]) -> int:
    previous = [0] * (len(b) + 1)
    for word in a:
        current = [0]
        for column, other in enumerate(b):
            longest = previous[column] + 1 if word == other else max(previous[column + 1], current[column])
            current.append(longest)
        previous = current
    return previous[-1]
