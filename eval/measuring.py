"""Means over questions with their intervals, clustered by document."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.config import EvalConfig
from eval.rare import Bounds
from eval.result import Measure
from eval.statistics import Floats, mean_interval
from indexer.corpus import Question


def measure(
    values: Floats,
    questions: Sequence[Question],
    settings: EvalConfig,
    bounds: Bounds = (0.0, 1.0),
) -> Measure:
    """The mean of one value a question; no value lies outside `bounds`, which may be infinite."""
    # A fresh generator each time: an interval does not depend on which others were computed before it.
    rng = np.random.default_rng(settings.seed)
    estimate = mean_interval(
        values, [cluster_of(q) for q in questions], settings.resamples, rng, bounds=bounds
    )
    return Measure(mean=estimate.value, ci=(estimate.low, estimate.high))


def cluster_of(question: Question) -> str:
    """The first gold document; a question without one stands alone."""
    return question.document_ids[0] if question.document_ids else f"question {question.id}"
