"""Groundedness: how much of an answer's wording stands in the passages that it was given."""

from __future__ import annotations

from collections.abc import Sequence

from eval.metrics.normalise import normalised_tokens


def groundedness(answer: str, passages: Sequence[str]) -> float:
    """Share of the answer's normalised words that occur in any passage; 0.0 for an answer without words."""
    words = normalised_tokens(answer)
    shown = {word for passage in passages for word in normalised_tokens(passage)}
    return sum(word in shown for word in words) / len(words) if words else 0.0
