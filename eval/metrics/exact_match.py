"""Exact match: the normalised prediction is one of the normalised answers."""

from __future__ import annotations

from collections.abc import Sequence

from eval.metrics.normalise import normalised_tokens


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 or 0.0; SQuAD v1.1 definition."""
    predicted = normalised_tokens(prediction)
    return float(any(predicted == normalised_tokens(answer) for answer in answers))
