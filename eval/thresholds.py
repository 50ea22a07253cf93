"""`--fail-under`: the least that the recommended route may score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from eval.answers import EvalError
from eval.result import EvaluationResult
from eval.scoring import METRICS


class BelowThreshold(Exception):
    """The recommended route scores less than `--fail-under` asks for."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """The least that a metric of the recommended route may be."""

    metric: str
    minimum: float


def parse_threshold(text: str) -> Threshold:
    """`f1=0.6` as a threshold."""
    metric, _, minimum = text.partition("=")
    try:
        value = float(minimum)
    except ValueError:
        value = math.nan
    if metric not in METRICS or not 0 <= value <= 1:
        raise EvalError(
            f"--fail-under {text!r} is not METRIC=NUMBER; "
            f"use one of {', '.join(METRICS)} and a number from 0 to 1, like f1=0.6"
        )
    return Threshold(metric, value)


def check_thresholds(result: EvaluationResult, thresholds: Sequence[Threshold]) -> None:
    """Raise BelowThreshold naming every threshold that the recommended route misses."""
    name = result.verdict.recommended
    metrics = result.routes[name].metrics
    missed = [
        f"{t.metric} of {name} is {metrics[t.metric].mean:.3f}, below {t.minimum:g}"
        for t in thresholds
        if metrics[t.metric].mean < t.minimum
    ]
    if missed:
        raise BelowThreshold("; ".join(missed))
