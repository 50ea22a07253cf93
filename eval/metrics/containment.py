"""Containment: an accepted answer occurs, word for word, in the prediction."""

from __future__ import annotations

from collections.abc import Sequence

from eval.metrics.normalise import normalised_tokens


def containment(prediction: str, answers: Sequence[str]) -> float:
    """1.0 or 0.0 on whole normalised words. Rewards long predictions, so read it beside token F1."""
    predicted = _padded(prediction)
    return float(any(_padded(answer) in predicted for answer in answers if normalised_tokens(answer)))


def _padded(text: str) -> str:
    """Words with a space on either side of each, so that `12` is not found in `312`."""
    return f" {' '.join(normalised_tokens(text))} "
