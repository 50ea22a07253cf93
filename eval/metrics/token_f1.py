"""Token F1: overlap of words, counted with multiplicity, with the best-fitting answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from eval.metrics.normalise import normalised_tokens


def token_f1(prediction: str, answers: Sequence[str]) -> float:
    """In [0, 1]; the official SQuAD definition (that of v2.0 where a side has no words left to compare)."""
    predicted = normalised_tokens(prediction)
    return max((_f1(predicted, normalised_tokens(answer)) for answer in answers), default=0.0)


def _f1(predicted: list[str], gold: list[str]) -> float:
    if not predicted or not gold:
        return float(predicted == gold)
    common = (Counter(predicted) & Counter(gold)).total()
    return 2 * common / (len(predicted) + len(gold))
